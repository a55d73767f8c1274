"""A run of minutes on a machine that drops to half speed midway, beside runs of as many steps that nothing happened to.

    python -m bench.train.slowed_run [--steps 400] [--seeds 3]

Time is told, not measured: each step takes a second of a clock of the run's own, and two from the middle on, so that the result
does not depend on what else this machine does. Every run is trained for real, on a part of the standard library. Prints bits
per byte of all held-out text for three runs per seed, and writes bench/results/slowed_run.json:

- slowed: planned for so many steps in as many seconds, re-planned when the machine slows down;
- unslowed: given the number of steps that the first came to, and a schedule for exactly those;
- cut: the first plan stopped after that number of steps, its learning rate still high: what happened without re-planning.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import mean

import torch

from bench.rounds import asked, table, write
from cloche.data import standard_library
from cloche.runs import Run
from cloche.train import Recipe, Trainer, evaluate

MOST_WORSE = 0.03  # of the bits per byte of the unslowed run
FILES = 60  # of the standard library


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def recipe(seed: int) -> Recipe:
    return Recipe().with_set(
        {
            "data.paths": [str(path) for path in standard_library()[:FILES]],
            "tokenizer.vocab": 512,
            "model.width": 64,
            "model.body.depth": 2,
            "model.body.block.mix.heads": 2,
            "run.length": 128,
            "run.threads": 1,
            "run.seed": seed,
            "run.precision": "fp32",
            "evaluate.samples": 0,
            "evaluate.validations": 1,
            "checkpoint.count": 1,
        }
    )


def train(folder: Path, settings: Recipe, slow_from: int | None = None, stop_at: int | None = None) -> Trainer:
    """A run whose steps take a second each, and two from `slow_from` on; stopped at `stop_at`."""
    run = Run.create(folder, settings.to_toml())
    trainer, clock = Trainer.start(settings, run), Clock()
    trainer.clock, follow = clock, trainer.source.next

    def told() -> torch.Tensor:
        clock.now += 2.0 if slow_from is not None and trainer.step >= slow_from else 1.0
        return follow()

    trainer.source.next = told  # type: ignore[method-assign]
    for _ in trainer:
        if stop_at is not None and trainer.step >= stop_at:
            break
    return trainer


def score(trainer: Trainer) -> float:
    r = trainer.recipe.run
    return evaluate(trainer.net, trainer.validation, trainer.tokenizer.byte_lengths, r.length, 32).bits_per_byte


def compare(folder: Path, seed: int, steps: int) -> dict[str, float]:
    base = recipe(seed)
    timed = base.with_set({"run.steps": steps, "run.minutes": steps / 60})
    slowed = train(folder / "slowed", timed, slow_from=steps // 2)
    exact = train(folder / "unslowed", base.with_set({"run.steps": slowed.steps}))
    cut = train(folder / "cut", base.with_set({"run.steps": steps, "log.every": 1}), stop_at=slowed.steps)
    assert slowed.step == exact.step == cut.step == slowed.steps
    return {
        "seed": seed,
        "steps": slowed.steps,
        "minutes_used": slowed.pace.time / steps,
        "replans": len(slowed.plan.state()) - 1,
        "slowed": score(slowed),
        "unslowed": score(exact),
        "cut": score(cut),
    }


def main() -> None:
    arguments = asked(__doc__, steps=400, seeds=3)
    found = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(compare(Path(folder), seed, arguments.steps))
        print(found[-1], flush=True)
    worse = {name: mean(one[name] / one["unslowed"] - 1 for one in found) for name in ("slowed", "cut")}
    rows = [
        [str(one["seed"]), str(one["steps"]), *(f"{one[k]:.4f}" for k in ("slowed", "unslowed", "cut"))]
        for one in found
    ]
    print(table(["seed", "steps", "slowed", "unslowed", "cut"], rows))
    print(
        f"bits/byte against the unslowed run: slowed {worse['slowed']:+.2%} (at most {MOST_WORSE:.0%}), cut {worse['cut']:+.2%}"
    )
    record = {"what": __doc__.splitlines()[0], "planned": arguments.steps, "runs": found, "worse": worse}
    write("slowed_run", record, "torch")
    raise SystemExit(worse["slowed"] > MOST_WORSE)


if __name__ == "__main__":
    main()
