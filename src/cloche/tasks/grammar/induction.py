"""Induction: what followed the last time a word occurred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values
from cloche.tasks.word_lists import WORDS, shifted


@dataclass(frozen=True)
class Induction(Task):
    """The word that followed the earlier occurrence of the last word, among `8 level` different random words.

    The pattern [A][B] ... [A] -> [B] of Olsson et al., "In-context learning and induction heads" (2022). A variant has other
    words. The graph has the place of the earlier occurrence.

    >>> from cloche.tasks import Induction
    >>> item = Induction().example(level=1, seed=0)
    >>> item.prompt, item.answer, item.steps
    ('star park shoe suit lamp base dust silk park', 'shoe', ('place = 2',))
    """

    levels = range(1, 7)
    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        words = rng.sample(WORDS, 8 * level)
        return {**{f"word_{i}": word for i, word in enumerate(words, 1)}, "cue": rng.choice(words[:-1])}

    def template(self, values: Values) -> str:
        return " ".join(f"{{{name}}}" for name in values)

    def rules(self, values: Values) -> Mapping[str, Rule]:
        words = tuple(values)[:-1]
        return {
            "place": Rule((*words, "cue"), lambda *words: words.index(words[-1]) + 1),
            "answer": Rule(("place", *words), lambda place, *words: words[place] if place < len(words) else ""),
        }

    def contrasts(self, values: Values) -> Sequence[str]:
        return ("cue",)

    def swap(self, values: Values, name: str, rng: Random) -> str | None:
        *words, _, cue = values.values()
        if name == "cue":
            return rng.choice([word for word in words if word != cue])
        if values[name] == cue:
            return None  # the last word would have no earlier occurrence
        return rng.choice([word for word in WORDS if word not in values.values()])

    def isomorphic(self, values: Values, rng: Random) -> Values:
        by = rng.randrange(1, len(WORDS))
        return {name: shifted(word, WORDS, by) for name, word in values.items()}

    def choices(self, values: Values) -> Sequence[str]:
        *words, cue = values.values()
        return [word for word in words if word != cue]

    def chance(self, values: Values) -> Fraction:
        return Fraction(1, len(values) - 2)
