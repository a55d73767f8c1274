"""Memory and time of a recipe on this machine, from a few steps of its rehearsal."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from cloche.errors import SettingInvalid
from cloche.memory import machine_memory
from cloche.train.machine.gemm import gemm_rates
from cloche.train.prediction.process import ProcessMemory, process_memory
from cloche.train.prediction.rehearsal import Rehearsal
from cloche.train.recipe.recipe import Recipe

BUDGET = 12.0  # seconds that the timed steps may take
TIMED = 5  # steps whose median is the forecast
FEW = 2  # accumulated batches that are measured; more are extrapolated
LONGEST_ROW = 60.0  # seconds that a row may take at the rate of matrix products


@dataclass(frozen=True)
class Forecast:
    """What a recipe takes on this machine.

    parameters: their number. tensors: bytes at the moment when there are most, by purpose ("weights", "gradients",
    "optimizer", "activations", "work") and `phase` ("step", "update", "health" or "validation") of that moment.
    memory: bytes of the whole process (on a GPU, of its tensors), and `available` those of the machine. seconds: median
    time of a step. speed: its "flops", its "rate" in FLOP/s, and the "fastest", that of a matrix product. rows: of the
    batches that were measured; if fewer than [run] batch, memory and time are extrapolated.

    >>> from cloche.train import Forecast
    >>> Forecast(parameters=10, tensors={"weights": 40}, phase="step", memory=4e8).available
    0.0
    """

    parameters: int
    tensors: dict[str, float]
    phase: str
    memory: float
    available: float = 0.0
    seconds: float = 0.0
    speed: dict[str, float] = field(default_factory=dict)
    rows: int = 0


def forecast(recipe: Recipe, process: ProcessMemory | None = None) -> Forecast:
    """Forecasts memory and time per step of a recipe, from a few steps on random tokens with its own batch; with smaller
    batches, extrapolated in the number of rows, if its own would take longer than some seconds.

    process: memory of the process apart from its tensors; measured once per machine if not given (see `process_memory`).
    Raises ClocheError if the recipe cannot be trained on this machine.

    >>> from cloche.train import ProcessMemory, Recipe, forecast
    >>> changes = {"model.width": 24, "model.body.depth": 1, "tokenizer.vocab": 270, "run.length": 16, "run.batch": 2}
    >>> recipe = Recipe().with_set({**changes, "run.threads": 1, "run.precision": "fp32"})
    >>> found = forecast(recipe, ProcessMemory(base=3.5e8, heap=1.5))
    >>> found.rows, found.tensors["weights"] == 4 * found.parameters, 1e8 < found.memory < 2e9
    (2, True, True)
    """
    rehearsal = Rehearsal(recipe)
    batch, length, objective = recipe.run.batch, recipe.run.length, recipe.objective
    rates, batches = gemm_rates(rehearsal.device), rehearsal.plan.batches(0)
    of_row = rehearsal.net.flops_per_token(length) * length
    if (least := of_row / rates[rehearsal.precision]) > LONGEST_ROW:
        raise SettingInvalid(
            f"[run] length = {length:,}: one row takes at least {least:,.0f} s on this machine, too long to try; choose a "
            "smaller run.length or model."
        )
    rehearsal.plan.most = min(batches, FEW)
    counts = _rows(rehearsal, batch, length, objective)
    measured = [_measured(rehearsal, rows) for rows in counts]
    seconds = _at(batch, counts, [took for took, _ in measured])
    if batches > FEW:
        seconds = _at(batches, [1, FEW], [_alone(rehearsal, counts, batch), seconds])
    phases = {
        phase: {
            purpose: max(0.0, _at(batch, counts, [float(held[phase].get(purpose, 0)) for _, held in measured]))
            for purpose in sorted({key for _, held in measured for key in held[phase]})
        }
        for phase in measured[0][1]
        if all(phase in held for _, held in measured)  # a step that spikes has no update
    }
    if rehearsal.device.startswith("cuda"):
        process = ProcessMemory(0.0, 1.0)
    process = process or process_memory()
    phase = max(phases, key=lambda name: process.bytes(phases[name]))
    flops = of_row * batch * batches
    return Forecast(
        sum(p.numel() for p in rehearsal.net.parameters()),
        phases[phase],
        phase,
        process.bytes(phases[phase]),
        _available(rehearsal.device),
        seconds,
        {"flops": flops, "rate": flops / seconds, "fastest": rates[rehearsal.precision]},
        counts[-1],
    )


def _alone(rehearsal: Rehearsal, counts: list[int], batch: int) -> float:
    """Seconds of an update of one batch."""
    rehearsal.plan.most = 1
    return _at(batch, counts, [_timed(rehearsal, rows) for rows in counts])


def _rows(rehearsal: Rehearsal, batch: int, length: int, objective: Any) -> list[int]:
    """Rows of the batches to measure: [run] batch alone if there is time, else two smaller ones.

    The smaller has as many tokens as hold the logits of a whole chunk, since beyond that their memory does not grow.
    """
    rehearsal.source.rows = 1
    rehearsal.step()  # compiles kernels, allocates memory, makes the optimiser's state
    each = rehearsal.step()
    fitting = max(2, int(BUDGET / (TIMED + 2) / each))
    if fitting >= batch:
        return [batch]
    whole = objective.logits_held(batch * length)
    enough = next(
        (n for n in range(1, fitting + 1) if objective.logits_held(n * length) >= whole), max(1, fitting // 2)
    )
    return [enough, max(fitting, enough + 1)] if enough + 1 < batch else [batch]


def _measured(rehearsal: Rehearsal, rows: int) -> tuple[float, dict[str, dict[str, int]]]:
    return _timed(rehearsal, rows), rehearsal.memory()


def _timed(rehearsal: Rehearsal, rows: int) -> float:
    """Median seconds of an update with batches of so many rows."""
    rehearsal.source.rows = rows
    rehearsal.step()
    return median(rehearsal.step() for _ in range(TIMED))


def _at(rows: int, counts: list[int], values: list[float]) -> float:
    """The value at `rows` on the line through those measured."""
    if len(counts) == 1:
        return values[0]
    slope = (values[1] - values[0]) / (counts[1] - counts[0])
    return values[1] + slope * (rows - counts[1])


def _available(device: str) -> float:
    import torch

    return float(torch.cuda.mem_get_info()[1]) if device.startswith("cuda") else machine_memory()
