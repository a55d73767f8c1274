"""A task of somebody's own that raises or returns junk, from any method, is one sentence that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import pytest

import cloche
from cloche.errors import TaskInvalid
from cloche.tasks import Rule, Task, attacks
from cloche.tasks.task import Values


@dataclass(frozen=True)
class Sound(Task):
    def draw(self, level: int, rng: Random) -> Values:
        return {"a": rng.randrange(100), "b": rng.randrange(2)}

    def template(self, values: Values) -> str:
        return "{a} and {b} is"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        return {"answer": Rule(("a", "b"), lambda a, b: str((a + b) % 2))}

    def swap(self, values: Values, name: str, rng: Random) -> Any:
        return rng.randrange(10 if name == "a" else 2)

    def isomorphic(self, values: Values, rng: Random) -> Values:
        return {"a": values["a"], "b": 1 - values["b"]}

    def choices(self, values: Values) -> Sequence[str]:
        return ("0", "1")


METHODS = [
    "draw",
    "template",
    "rules",
    "swap",
    "isomorphic",
    "contrasts",
    "choices",
    "chance",
    "accepts",
    "partial",
    "steps",
    "canonical",
]
JUNK = [None, 5, -1, "x", "", "{", "{zz}", "\ud800", b"x", [], [1], {}, float("nan")]


def raised(*_: Any) -> Any:
    raise KeyError("lost")


def broken(method: str, result: Any = None, raises: bool = False) -> Task:
    call = raised if raises else (lambda *_: result)
    made: Task = dataclass(frozen=True)(type("Broken", (Sound,), {method: call, "__module__": __name__}))(renaming=1)
    return made


@cache
def tokenizer() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=259)


def use(task: Task) -> None:
    item = task.example(1)
    task.verify(item, "neither")
    task.offered(item)
    task.chance_of(item)
    attacks(task, item)
    task.items(tokenizer(), 1)


def test_a_sound_task_has_no_fault() -> None:
    use(Sound())


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_raises_or_returns_junk(method: str) -> None:
    with pytest.raises(TaskInvalid, match="KeyError: 'lost'"):
        use(broken(method, raises=True))
    for junk in JUNK:
        with suppress(cloche.ClocheError):  # what is no junk to a method, such as no twin, is no fault
            use(broken(method, junk))


def test_the_sentence_names_the_method() -> None:
    with pytest.raises(TaskInvalid, match="Broken raised KeyError: 'lost' in raised; correct the task"):
        broken("draw", raises=True).example(1)


@pytest.mark.parametrize("levels", [[], None, range(0)])
def test_a_task_has_levels(levels: Any) -> None:
    with pytest.raises(TaskInvalid, match="give a range"):
        type("Flat", (Sound,), {"levels": levels})
