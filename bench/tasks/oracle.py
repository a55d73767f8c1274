"""Every task's oracle on many seeds, and how fast examples are made and answers verified.

The stored answer of each of `--seeds` examples, spread over all levels, must score 1, bare and after a few words of thought. A
verifier is timed on the stored answer, on the same after "Answer:", and on a wrong answer of the right form, each in every
round; the slowest of the three counts, in items per CPU second of one core.

    python -m bench.tasks.oracle [--seeds 10000] [--rounds 5] [--tasks Add,Sort]
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from random import Random

from bench.rounds import Side, Spread, busy, interleave, machine, table, write
from cloche.tasks import Item, Task, known_tasks

GOAL = 10_000  # items per second and core
TIMED = 1_000  # items in each round


def drawn_tasks() -> list[Task]:
    """Every task of the package that draws its problems, with its defaults."""
    classes = [cls for cls, _ in known_tasks() if cls.__module__.startswith("cloche.")]
    return [cls() for cls in classes if all(f.default is not dataclasses.MISSING for f in dataclasses.fields(cls))]


def wrong_answer(task: Task, item: Item, rng: Random) -> str:
    guesses = (task.guess(item.values, rng) for _ in range(100))
    return next((guess for guess in guesses if not task.is_right(item.values, guess)), f"not {item.answer}")


def verifying(task: Task, items: list[Item], texts: list[str], name: str) -> Side:
    pairs = list(zip(items, texts, strict=True))
    return Side(name, lambda: [task.verify(item, text) for item, text in pairs], units=len(pairs))


def measured(task: Task, seeds: int, rounds: int) -> dict[str, object]:
    levels = list(task.levels)
    began = time.process_time()
    items = [task.example(levels[seed % len(levels)], seed) for seed in range(seeds)]
    making = (time.process_time() - began) / seeds
    right = sum(
        task.verify(item, item.answer).strict * task.verify(item, f"So it is.\nAnswer: {item.answer}").strict
        for item in items
    )
    timed, rng = items[:: max(1, seeds // TIMED)], Random(0)
    sides = [
        verifying(task, timed, [item.answer for item in timed], "right"),
        verifying(task, timed, [f"So it is.\nAnswer: {item.answer}" for item in timed], "after words"),
        verifying(task, timed, [wrong_answer(task, item, rng) for item in timed], "wrong"),
    ]
    interleave(sides, rounds)
    speeds = {side.name: Spread.of(side.units / seconds for seconds in side.cpu) for side in sides}
    return {
        "oracle": right / seeds,
        "problems": len({item.problem_id for item in items}),
        "with_twin": sum(item.corrupted is not None for item in items) / seeds,
        "milliseconds_an_example": 1000 * making,
        "verified_a_second": {name: speed.record() for name, speed in speeds.items()},
        "slowest": min(speed.median for speed in speeds.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", help="names with commas between; by default all")
    options = parser.parse_args()
    load, found = busy(), {}
    for task in drawn_tasks():
        name = type(task).__name__
        if options.tasks is None or name in options.tasks.split(","):
            found[name] = measured(task, options.seeds, options.rounds)
    rows = [
        [
            name,
            f"{figures['oracle']:.4f}",
            f"{figures['problems']:,}",
            f"{figures['with_twin']:.3f}",
            f"{figures['milliseconds_an_example']:.3f}",
            f"{figures['slowest']:,.0f}",
        ]
        for name, figures in found.items()
    ]
    print(table(["task", "oracle", "problems", "twins", "ms an example", "verified a second"], rows))
    goal = all(float(str(figures["slowest"])) >= GOAL for figures in found.values())
    record: dict[str, object] = {"seeds": options.seeds, "goal": GOAL, "goal_met": goal, "tasks": found}
    if options.tasks is None:
        print(write("tasks", {**record, "machine": machine(()), "busy": load}))
    if any(figures["oracle"] != 1 for figures in found.values()):
        raise SystemExit("an oracle does not score 1")


if __name__ == "__main__":
    main()
