"""Resolves a recipe: decides the settings that depend on the machine and the data."""

from __future__ import annotations

from typing import Any

import torch

from cloche.data import PackedTokens
from cloche.errors import DeviceUnavailable, ResumeRefused, RunFinished
from cloche.runs import Run
from cloche.text import Tokenizer
from cloche.train.machine.gemm import best_precision, gemm_rates
from cloche.train.monitors.journal import is_finished
from cloche.train.prompts import held_out_prompts
from cloche.train.recipe.limits import check_vocab
from cloche.train.recipe.recipe import Recipe

CHANGEABLE = (
    "optimizer",
    "schedule",
    "log",
    "evaluate",
    "checkpoint",
    "run",
)  # sections that may change on resume
FIXED = ("run.seed", "run.length", "run.batch", "run.minutes")  # except these


def resolve(recipe: Recipe, run: Run) -> Recipe:
    """Sets device, threads, precision, prompts and [model] vocab: all but the number of steps."""
    tokenizer = Tokenizer.load(run.path)
    if recipe.tokenizer.path is not None:
        check_vocab(recipe, tokenizer.vocab, padded=run.info.get("parent") is not None)
    # A tokenizer trained on little text has fewer tokens than were asked for; a parent's weights have the rows they have.
    changes: dict[str, Any] = {} if run.info.get("parent") else {"model.vocab": tokenizer.vocab}
    if not recipe.evaluate.prompts:
        changes["evaluate.prompts"] = held_out_prompts(PackedTokens.open(run.path, "validation"), tokenizer)
    threads = recipe.run.threads or torch.get_num_threads()
    device = usable_device(recipe.run.device)
    changes |= {"run.threads": threads, "run.device": device}
    if recipe.run.precision == "auto":
        torch.set_num_threads(threads)
        changes["run.precision"] = best_precision(gemm_rates(device))
    return recipe.with_set(changes)


def _sections() -> str:
    return ", ".join(f"[{name}]" for name in CHANGEABLE[:-1])


def usable_device(wanted: str) -> str:
    """The device to train on: "auto" is the GPU if torch has one. Raises ClocheError for "cuda" without a GPU."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable('[run] device = "cuda", and torch finds no GPU here; set it to "cpu" or "auto"')
    return wanted


def amend(recipe: Recipe, changes: dict[str, Any], step: int, run: Run) -> Recipe:
    """The recipe of a run that resumes at `step`, with changed settings. Raises ClocheError if one cannot change."""
    for key in changes:
        if key.split(".")[0] not in CHANGEABLE or key in FIXED:
            raise ResumeRefused(
                f"--set {key}: {key} of a run is fixed once training has begun; only {_sections()} and the rest of "
                f"[run] may change, so "
                "start another run for this"
            )
    changed = recipe.with_set(changes)
    if changed.optimizer.label != recipe.optimizer.label:
        raise ResumeRefused(
            f"{run.path} is trained by {recipe.optimizer.label}, whose state no other optimizer can use: "
            "change its settings, or start another run"
        )
    steps, planned = changed.run.steps, recipe.run.steps
    # Minutes may have shortened the run; steps that were set by hand are taken exactly.
    more = steps is not None and steps > step and changed.run.minutes is None
    if steps is None or steps < step or (is_finished(run, step) and not more):
        longer = planned if planned and planned > step else 2 * (planned or step)
        raise RunFinished(
            f"{run.path} has finished its {step} steps; to train it further: "
            f"cloche resume {run.path} --set run.steps={longer}"
        )
    return changed
