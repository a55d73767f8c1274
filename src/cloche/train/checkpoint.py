"""Training state on disk: everything needed to resume as if nothing had happened."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cloche.errors import ResumeRefused
from cloche.model import Network, load_network, save_network
from cloche.runs import Checkpoint, Run
from cloche.train.optimizers.stepper import Stepper

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def save_checkpoint(run: Run, step: int, net: nn.Module, optimizer: Stepper, state: dict[str, Any]) -> Path:
    """Writes checkpoints/step-..., atomically. Raises ClocheError if a weight is not finite."""
    for name, parameter in net.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ResumeRefused(
                f"step {step}: {name} holds values that are not finite, so no checkpoint is written; "
                f"resume the last good one with a lower rate: cloche resume {run.path} --set optimizer.lr=..."
            )
    with run.new_checkpoint(step) as folder:
        fill_checkpoint(folder, run, net, optimizer, state)
    return run.checkpoint(step).path


def fill_checkpoint(folder: Path, run: Run, net: nn.Module, optimizer: Stepper, state: dict[str, Any]) -> None:
    """Writes what training needs to resume into a folder."""
    _write_weights(net, folder)
    save_file(optimizer.state(), folder / "optimizer.safetensors")
    (folder / "state.json").write_text(json.dumps({**state, "rng": _rng()}), encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (run.path / name).exists():
            shutil.copyfile(run.path / name, folder / name)


def restore_checkpoint(
    checkpoint: Checkpoint, net: nn.Module, optimizer: Stepper, first: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Restores weights, optimiser state and random generators; returns the rest of the state.

    first: called with that rest before anything is restored; it may give the network the sizes that it had.

    `require_intact` must have compared the files with their hashes.
    """
    try:
        state: dict[str, Any] = json.loads((checkpoint.path / "state.json").read_text(encoding="utf-8"))
        if state["optimizer"] != optimizer.name:
            raise ResumeRefused(
                f"{checkpoint.path} was trained by {state['optimizer']}, and {optimizer.name} cannot use its state; "
                "keep the [optimizer] part of the run"
            )
        first(state)
        net.load_state_dict(_read_weights(net, checkpoint.path))
        optimizer.restore(load_file(checkpoint.path / "optimizer.safetensors"))
    except (RuntimeError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise ResumeRefused(
            f"{checkpoint.path} cannot be resumed ({str(error).splitlines()[0]}); `cloche verify` reports "
            "what is damaged, "
            "and moving this checkpoint away resumes the one before"
        ) from error
    torch.set_rng_state(torch.from_numpy(np.frombuffer(base64.b64decode(state.pop("rng")), dtype=np.uint8).copy()))
    return state


def _write_weights(net: nn.Module, folder: Path) -> None:
    if isinstance(net, Network):
        save_network(net, folder)
    else:
        save_file({name: value.contiguous() for name, value in net.state_dict().items()}, folder / "model.safetensors")


def _read_weights(net: nn.Module, folder: Path) -> dict[str, Any]:
    if isinstance(net, Network):
        return load_network(folder, check_files=False, check_sites=False).state_dict()
    return load_file(folder / "model.safetensors")


def _rng() -> str:
    return base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode()
