"""Parity of the number of times that a symbol occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from string import ascii_lowercase

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values
from cloche.tasks.word_lists import shifted

LETTERS = tuple(ascii_lowercase)


@dataclass(frozen=True)
class Parity(Task):
    """Whether a letter occurs an odd (1) or even (0) number of times among `2 level + 6` letters of two kinds.

    A variant has other letters. The graph has the running parity after each letter.

    >>> from cloche.tasks import Parity
    >>> item = Parity().example(level=1, seed=0)
    >>> item.prompt, item.answer
    ('Modulo 2, the number of times that m occurs in m m m j m m j m is', '0')
    """

    levels = range(1, 7)
    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        kinds = rng.sample(LETTERS, 2)
        return {"counted": kinds[0], **{f"letter_{i}": rng.choice(kinds) for i in range(1, 2 * level + 7)}}

    def template(self, values: Values) -> str:
        letters = " ".join(f"{{{name}}}" for name in self.contrasts(values))
        return f"Modulo 2, the number of times that {{counted}} occurs in {letters} is"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        rules = {"parity_1": Rule(("letter_1", "counted"), lambda letter, counted: int(letter == counted))}
        for i in range(2, len(values)):
            parents = (f"parity_{i - 1}", f"letter_{i}", "counted")
            rules[f"parity_{i}"] = Rule(parents, lambda before, letter, counted: before ^ (letter == counted))
        return {**rules, "answer": Rule((f"parity_{len(values) - 1}",), str)}

    def contrasts(self, values: Values) -> Sequence[str]:
        return [name for name in values if name != "counted"]

    def swap(self, values: Values, name: str, rng: Random) -> str:
        others = [letter for letter in values.values() if letter != values[name]]
        return others[0] if others else shifted(values[name], LETTERS, 1)

    def isomorphic(self, values: Values, rng: Random) -> Values:
        by = rng.randrange(1, len(LETTERS))
        return {name: shifted(letter, LETTERS, by) for name, letter in values.items()}

    def canonical(self, values: Values) -> str:
        return "".join("01"[values[name] == values["counted"]] for name in self.contrasts(values))

    def choices(self, values: Values) -> Sequence[str]:
        return "0", "1"
