"""Indirect objects: who is given something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values
from cloche.tasks.word_lists import NAMES, OBJECTS, PLACES, listed, shifted


@dataclass(frozen=True)
class IndirectObject(Task):
    """Indirect object identification: the name that is not repeated, among `level + 1`.

    `When Mary and John went to the market, John gave a book to`, then `Mary`. The names are in any order (ABBA and BABA).
    Level 1 is the task of Wang et al., "Interpretability in the wild" (2023); higher levels have more names, and as many
    that give as the level. A twin has another giver, or another receiver. A variant has other people. The graph has for
    each name whether it is repeated.

    >>> from cloche.tasks import IndirectObject
    >>> item = IndirectObject().example(level=1, seed=1)
    >>> item.prompt, item.answer
    ('When Paul and Mary went to the church, Paul gave a gift to', 'Mary')
    >>> item.corrupted.prompt, item.corrupted.answer
    ('When Paul and Mary went to the church, Mary gave a gift to', 'Paul')
    """

    levels = range(1, 7)
    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        names = rng.sample(NAMES, level + 1)
        givers = rng.sample(names, level)
        return {
            **{f"name_{i}": name for i, name in enumerate(names, 1)},
            "place": rng.choice(PLACES),
            **{f"giver_{i}": name for i, name in enumerate(givers, 1)},
            "object": rng.choice(OBJECTS),
        }

    def template(self, values: Values) -> str:
        names, givers = (listed([f"{{{name}}}" for name in people]) for people in _people(values))
        return f"When {names} went to the {{place}}, {givers} gave a {{object}} to"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        names, givers = _people(values)
        repeated = {f"{name}_repeated": Rule((name, *givers), lambda name, *givers: name in givers) for name in names}
        return {**repeated, "answer": Rule((*names, *repeated), _alone)}

    def contrasts(self, values: Values) -> Sequence[str]:
        # Another giver makes one problem only, which may be in the other split; then another receiver is found soon.
        return [*_people(values)[1] * 3, _receiver(values)]

    def swap(self, values: Values, name: str, rng: Random) -> str | None:
        kind, receiver = name.partition("_")[0], _receiver(values)
        if kind == "giver":
            return str(values[receiver])
        if kind == "name" and name != receiver:
            return None  # two would be named once
        others = {"place": PLACES, "object": OBJECTS}.get(kind, NAMES)
        return rng.choice([each for each in others if each not in values.values()])

    def isomorphic(self, values: Values, rng: Random) -> Values:
        by = rng.randrange(1, len(NAMES))
        return {name: shifted(value, NAMES, by) if value in NAMES else value for name, value in values.items()}

    def canonical(self, values: Values) -> str:
        return f"{values[_receiver(values)]} of {sorted(self.choices(values))}"

    def choices(self, values: Values) -> Sequence[str]:
        return [values[name] for name in _people(values)[0]]


def _people(values: Values) -> tuple[list[str], list[str]]:
    """The variables that are names and those that are givers."""
    variables, half = list(values), len(values) // 2
    return variables[:half], variables[half + 1 : -1]


def _receiver(values: Values) -> str:
    """The variable of the name that is not a giver's."""
    names, givers = _people(values)
    return next(name for name in names if all(values[name] != values[giver] for giver in givers))


def _alone(*names_and_repeated: str | bool) -> str:
    """The first name that is not repeated."""
    half = len(names_and_repeated) // 2
    names, repeated = names_and_repeated[:half], names_and_repeated[half:]
    return next((str(name) for name, again in zip(names, repeated, strict=True) if not again), "")
