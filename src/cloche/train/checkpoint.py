"""A training state on disk: what it takes to go on as if nothing had happened."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cloche.errors import ResumeRefused
from cloche.model import Network, load_network, save_network
from cloche.runs import Checkpoint, Run
from cloche.train.optimizers.optimizer import Optimizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def save_checkpoint(run: Run, step: int, net: Network, optimizer: Optimizer, state: dict[str, Any]) -> Path:
    """Writes checkpoints/step-..., atomically. Raises ClocheError rather than save weights that are not finite."""
    for name, parameter in net.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ResumeRefused(
                f"step {step}: {name} holds values that are not finite, so no checkpoint is written; "
                f"resume the last good one with a lower rate: cloche resume {run.path} --set optimizer.lr=..."
            )
    with run.new_checkpoint(step) as folder:
        save_network(net, folder)
        save_file(optimizer.state(), folder / "optimizer.safetensors")
        (folder / "state.json").write_text(json.dumps({**state, "rng": _rng()}), encoding="utf-8")
        for name in TOKENIZER_FILES:
            if (run.path / name).exists():
                shutil.copyfile(run.path / name, folder / name)
    return run.checkpoint(step).path


def restore_checkpoint(checkpoint: Checkpoint, net: Network, optimizer: Optimizer) -> dict[str, Any]:
    """Puts weights, optimiser state and random generators back in place; returns the rest of the state.

    `require_intact` has compared the files with their hashes.
    """
    try:
        net.load_state_dict(load_network(checkpoint.path, check_files=False).state_dict())
        optimizer.restore(load_file(checkpoint.path / "optimizer.safetensors"))
        state: dict[str, Any] = json.loads((checkpoint.path / "state.json").read_text(encoding="utf-8"))
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise ResumeRefused(
            f"{checkpoint.path} cannot be resumed ({str(error).splitlines()[0]}); `cloche verify` tells what is damaged, "
            "and moving this checkpoint away resumes the one before"
        ) from error
    torch.set_rng_state(torch.from_numpy(np.frombuffer(base64.b64decode(state.pop("rng")), dtype=np.uint8).copy()))
    return state


def _rng() -> str:
    return base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode()
