"""A year after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values
from cloche.tasks.word_lists import listed, shifted, words

EVENTS = words("battle crisis debate empire famine flight plague reform revolt search strike treaty voyage")


@dataclass(frozen=True)
class GreaterThan(Task):
    """The last two digits of a year after the one in which an event began: any later year of the century is right.

    `The famine lasted from the year 1732 to the year 17`, then any of 33 to 99; the stored answer is the next year. From level
    2 on there are as many events as the level, one of which is asked for. Level 1 is the task of Hanna et al., "How does GPT-2
    compute greater-than?" (2023). A variant has other events. The graph has the year in which the event began. A tokenizer
    with tokens for whole years cannot express the task.

    >>> from cloche.tasks import GreaterThan
    >>> task = GreaterThan()
    >>> item = task.example(level=1, seed=0)
    >>> item.prompt, item.answer, task.verify(item, "99").strict, task.verify(item, "01").strict
    ('The treaty lasted from the year 1563 to the year 15', '64', 1.0, 0.0)
    """

    levels = range(1, 6)

    def draw(self, level: int, rng: Random) -> Values:
        values = {f"event_{i}": event for i, event in enumerate(rng.sample(EVENTS, level), 1)}
        asked = {"asked": rng.choice(list(values.values()))} if level > 1 else {}
        years = {f"year_{i}": f"{rng.randint(2, 98):02}" for i in range(1, level + 1)}
        return {**values, **years, **asked, "century": str(rng.randint(11, 19))}

    def template(self, values: Values) -> str:
        if "asked" not in values:
            return "The {event_1} lasted from the year {century}{year_1} to the year {century}"
        verb = ["began in the year", *["in the year"] * len(values)]
        starts = listed([f"the {{event_{i}}} {verb[i - 1]} {{century}}{{year_{i}}}" for i in _indices(values)])
        return f"T{starts[1:]}. The {{asked}} lasted until the year {{century}}"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        answer = Rule(("start",), lambda start: f"{int(start) + 1:02}")
        if "asked" not in values:
            return {"start": Rule(("year_1",), str), "answer": answer}
        parents = ("asked", *(f"{kind}_{i}" for i in _indices(values) for kind in ("event", "year")))
        return {"start": Rule(parents, lambda asked, *all_: all_[all_.index(asked) + 1]), "answer": answer}

    def contrasts(self, values: Values) -> Sequence[str]:
        return [f"year_{_asked(values)}", *(["asked"] if "asked" in values else [])]

    def swap(self, values: Values, name: str, rng: Random) -> str | None:
        if name == "century":
            return str(rng.randint(11, 19))
        if name == "asked":
            return rng.choice([values[f"event_{i}"] for i in _indices(values)])
        if name.startswith("event"):
            alone = "asked" not in values or values[name] != values["asked"]
            return rng.choice([event for event in EVENTS if event not in values.values()]) if alone else None
        year = int(values[name])  # an earlier one, for the answer stays right after a later one
        return f"{rng.randrange(1, year):02}" if year > 1 else None

    def isomorphic(self, values: Values, rng: Random) -> Values:
        by = rng.randrange(1, len(EVENTS))
        return {name: shifted(value, EVENTS, by) if value in EVENTS else value for name, value in values.items()}

    def canonical(self, values: Values) -> str:
        years = sorted(values[f"year_{i}"] for i in _indices(values))
        return f"{values['century']}{values[f'year_{_asked(values)}']} of {years}"

    def choices(self, values: Values) -> Sequence[str]:
        return [f"{year:02}" for year in range(100)]

    def accepts(self, values: Values, answer: str) -> bool:
        return len(answer) == 2 and answer.isascii() and answer.isdigit() and answer > values[f"year_{_asked(values)}"]


def _indices(values: Values) -> range:
    return range(1, sum(name.startswith("event") for name in values) + 1)


def _asked(values: Values) -> int:
    """The number of the event that is asked for."""
    return next((i for i in _indices(values) if values[f"event_{i}"] == values.get("asked")), 1)
