"""A task of somebody's own that raises or returns junk, from any method, is one sentence that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

import cloche
from cloche.errors import ArgumentRange, TaskInvalid
from cloche.tasks import FromFile, Rule, Task, attacks, pairing, read_task
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


@dataclass(frozen=True)
class Unordered(Sound):
    def canonical(self, values: Values) -> str:
        return f"{min(values.values())} {max(values.values())}"


def test_problems_are_told_apart_by_their_canonical_form_and_their_task() -> None:
    """Not by their prompt: one problem in two forms must not be in both splits."""
    one, other, third = (Unordered().item({"a": a, "b": b}) for a, b in ((0, 1), (1, 0), (1, 1)))
    assert one.prompt != other.prompt and one.problem_id == other.problem_id != third.problem_id
    sound = [Sound().item({"a": a, "b": b}).problem_id for a, b in ((0, 1), (1, 0))]
    assert len({*sound, one.problem_id}) == 3


def test_what_is_no_item_text_or_seed_is_one_sentence() -> None:
    task = Sound()
    item = task.example(1)
    for given in ((item, None), (item, 5), ("item", "0"), (None, "0")):
        with pytest.raises(TaskInvalid, match="verify takes an item and the text"):
            task.verify(*given)  # type: ignore[arg-type]
    for call in (
        lambda: task.example(1, "x"),  # type: ignore[arg-type]
        lambda: task.examples(1, seed="x"),  # type: ignore[arg-type]
        lambda: FromFile("rows.csv").examples(1, seed="x"),  # type: ignore[arg-type]
        lambda: task.items(tokenizer(), "x"),  # type: ignore[arg-type]
        lambda: task.items(tokenizer(), 0),
    ):
        with pytest.raises(ArgumentRange, match=r"=.* a whole number"):
            call()


@dataclass(frozen=True)
class Rare(Sound):
    """One item in 5,000 has a twin whose tokens line up."""

    def draw(self, level: int, rng: Random) -> Values:
        return {"a": rng.randrange(10**12), "b": 0}

    def swap(self, values: Values, name: str, rng: Random) -> Any:
        return values["a"] ^ 1 if name == "a" and values["a"] % 5000 < 2 else None


def test_pairs_that_hardly_exist_are_not_looked_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "NONE", 10**5)
    monkeypatch.setattr(pairing, "RARE", 20)
    found = Rare().items(tokenizer(), 2)
    assert len(found) == 1 and sum(found.refused.values()) >= 22


def test_a_task_without_twins_is_not_blamed_on_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}')
    with pytest.raises(TaskInvalid, match="has a corrupted twin, so there are no pairs; use a task with twins"):
        FromFile(str(tmp_path / "rows.jsonl")).items(tokenizer(), 1)


def test_the_name_of_a_file_of_questions_is_one_though_it_is_not_there() -> None:
    for name in ("absent.jsonl", "ABSENT.CSV"):
        assert read_task(name) == FromFile(name)


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
