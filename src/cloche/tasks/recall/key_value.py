"""Recall of facts planted in the prompt, directly or over several hops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values

PEOPLE = (
    "Ann",
    "Bob",
    "Dan",
    "Eve",
    "Tom",
    "Kim",
    "Max",
    "Leo",
    "Amy",
    "Joe",
    "Ben",
    "Sam",
    "Jim",
    "Ray",
    "Sue",
    "Meg",
)
THINGS = (
    "coin",
    "ring",
    "book",
    "lamp",
    "ball",
    "rope",
    "vase",
    "drum",
    "card",
    "sock",
    "fork",
    "bell",
    "kite",
    "mask",
)
SIZES = {1: (2, 1), 2: (4, 1), 3: (8, 1), 4: (8, 2), 5: (12, 2), 6: (12, 3)}  # level: people, hops
QUESTIONS = {1: "{asked} keeps a", 2: "{asked}'s friend keeps a", 3: "The friend of {asked}'s friend keeps a"}


@dataclass(frozen=True)
class KeyValue(Task):
    """Recall of a fact stated in the prompt: what somebody keeps, from level 4 what their friend or friend's friend keeps.

    A variant renames people and things and states the facts in another order. The graph has the person after each hop.

    >>> from cloche.tasks import KeyValue
    >>> item = KeyValue().example(level=2, seed=0)
    >>> item.prompt, item.answer
    ('Max keeps a sock. Ann keeps a kite. Ben keeps a vase. Meg keeps a fork. Meg keeps a', 'fork')
    """

    levels = range(1, 7)
    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        n, hops = SIZES[level]
        people = rng.sample(PEOPLE, n)
        values: dict[str, Any] = {}
        if hops > 1:
            friends = people[1:] + people[:1]
            for i, k in enumerate(rng.sample(range(n), n)):
                values |= {f"person{i}": people[k], f"friend{i}": friends[k]}
        for i, (keeper, thing) in enumerate(zip(rng.sample(people, n), rng.sample(THINGS, n), strict=True)):
            values |= {f"keeper{i}": keeper, f"thing{i}": thing}
        return {**values, "asked": rng.choice(people), "hops": hops}

    def template(self, values: Values) -> str:
        friends = [f"{{person{i}}}'s friend is {{friend{i}}}." for i in _numbers(values, "friend")]
        kept = [f"{{keeper{i}}} keeps a {{thing{i}}}." for i in _numbers(values, "thing")]
        return " ".join([*friends, *kept, QUESTIONS[values["hops"]]])

    def rules(self, values: Values) -> Mapping[str, Rule]:
        friends = [f"{side}{i}" for side in ("person", "friend") for i in _numbers(values, "friend")]
        kept = [f"{side}{i}" for side in ("keeper", "thing") for i in _numbers(values, "thing")]
        hops = ["asked", *(f"hop{i}" for i in range(1, values["hops"]))]
        rules = {here: Rule((before, *friends), _found) for before, here in pairwise(hops)}
        return {**rules, "answer": Rule((hops[-1], *kept), _found)}

    def contrasts(self, values: Values) -> Sequence[str]:
        """The person asked about, and what the friend facts and the last fact on the way say."""
        found, person = ["asked"], values["asked"]
        for left, right in [("person", "friend")] * (values["hops"] - 1) + [("keeper", "thing")]:
            i = next(i for i in _numbers(values, right) if values[f"{left}{i}"] == person)
            found.append(f"{right}{i}")
            person = values[f"{right}{i}"]
        return found

    def swap(self, values: Values, name: str, rng: Random) -> Any:
        if name.startswith("thing"):
            return rng.choice(sorted(set(THINGS) - set(self.choices(values))))
        keepers = [values[f"keeper{i}"] for i in _numbers(values, "thing")]
        return rng.choice(keepers) if name == "asked" or name.startswith("friend") else None

    def isomorphic(self, values: Values, rng: Random) -> Values:
        names = {a: b for old in (PEOPLE, THINGS) for a, b in zip(old, rng.sample(old, len(old)), strict=True)}
        moved = {"hops": values["hops"], "asked": names[values["asked"]]}
        for left, right in (("person", "friend"), ("keeper", "thing")):
            places = _numbers(values, right)
            for i, k in zip(places, rng.sample(places, len(places)), strict=True):
                moved |= {f"{left}{i}": names[values[f"{left}{k}"]], f"{right}{i}": names[values[f"{right}{k}"]]}
        return {name: moved[name] for name in values}

    def canonical(self, values: Values) -> str:
        return " ".join(sorted(self.template(values).format(**values).split(". ")))

    def choices(self, values: Values) -> Sequence[str]:
        return [values[f"thing{i}"] for i in _numbers(values, "thing")]


def _numbers(values: Values, name: str) -> list[int]:
    return [i for i in range(len(PEOPLE)) if f"{name}{i}" in values]


def _found(person: str, *facts: str) -> str:
    """What follows from the fact about a person, of facts given as all subjects, then all objects; "nobody" without one."""
    half = len(facts) // 2
    return dict(zip(facts[:half], facts[half:], strict=True)).get(person, "nobody")
