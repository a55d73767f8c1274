from __future__ import annotations

from dataclasses import dataclass
from random import Random

from cloche.tasks import Rule, Task
from cloche.tasks.task import Values


@dataclass(frozen=True)
class Bigger(Task):
    """Which of two numbers is bigger: a task with two labels, defined outside the package."""

    levels = range(1, 3)
    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        a, b = rng.sample(range(10**level), 2)
        return {"a": a, "b": b}

    def template(self, values: Values) -> str:
        return "{a} or {b}:"

    def rules(self, values: Values) -> dict[str, Rule]:
        return {"answer": Rule(("a", "b"), lambda a, b: "first" if a > b else "other")}

    def swap(self, values: Values, name: str, rng: Random) -> int:
        return rng.randrange(100)

    def isomorphic(self, values: Values, rng: Random) -> Values:
        return {"a": values["b"], "b": values["a"]}

    def choices(self, values: Values) -> tuple[str, ...]:
        return ("first", "other")
