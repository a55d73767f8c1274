"""Agreement of a verb with its subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values
from cloche.tasks.word_lists import shifted, words

# By number and letters. Both lengths have both numbers, so that a noun can be swapped for one of the other number.
NOUNS = {
    ("singular", 5): words("chair horse house judge nurse pilot plant queen river table uncle"),
    ("singular", 6): words("bottle bridge doctor farmer garden lawyer letter singer window writer"),
    ("plural", 5): words("birds books boats girls kings lakes lamps roads ships trees walls"),
    ("plural", 6): words("chairs horses houses judges nurses pilots plants queens rivers tables uncles"),
}
BY_LENGTH = {n: (*NOUNS["singular", n], *NOUNS["plural", n]) for n in (5, 6)}
FORM = {noun: (number, n) for (number, n), nouns in NOUNS.items() for noun in nouns}
VERBS = {"singular": ("was", "is"), "plural": ("are", "were")}  # stored is the first: was and are are equally long
BEFORE = words("near behind beside above below under")


@dataclass(frozen=True)
class Agreement(Task):
    """The verb that agrees with the subject, not with the `level` nouns in between: `The letter near the horses`, then `is`.

    `was` is right as well. The other nouns nest in one another and are singular or plural at random, so that no noun but the
    subject tells the verb's number (Linzen et al., "Assessing the ability of LSTMs to learn syntax-sensitive dependencies",
    2016). The choices are two minimal pairs: is and are, was and were. A twin has a subject of the other number, which is
    another noun, equally long. A variant has other nouns. The graph has the number of every noun.

    >>> from cloche.tasks import Agreement
    >>> task = Agreement()
    >>> item = task.example(level=2, seed=0)
    >>> item.prompt, item.answer, item.corrupted.prompt, item.corrupted.answer
    ('The kings near the lawyer behind the nurses', 'are', 'The chair near the lawyer behind the nurses', 'was')
    >>> [verb for verb in task.choices(item.values) if task.verify(item, verb).strict]
    ['are', 'were']
    """

    levels = range(1, 7)
    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        nouns = [rng.choice(NOUNS[rng.choice(("singular", "plural")), rng.choice((5, 6))]) for _ in range(level + 1)]
        return {"subject": nouns[0], **{f"noun_{i}": noun for i, noun in enumerate(nouns[1:], 1)}}

    def template(self, values: Values) -> str:
        return "The {subject}" + "".join(f" {BEFORE[i - 1]} the {{noun_{i}}}" for i in range(1, len(values)))

    def rules(self, values: Values) -> Mapping[str, Rule]:
        numbers = {f"number_of_{name}": Rule((name,), lambda noun: FORM[noun][0]) for name in values}
        return {**numbers, "answer": Rule(("number_of_subject",), lambda number: VERBS[number][0])}

    def contrasts(self, values: Values) -> Sequence[str]:
        return ("subject",)

    def swap(self, values: Values, name: str, rng: Random) -> str:
        return rng.choice(BY_LENGTH[len(values[name])])

    def isomorphic(self, values: Values, rng: Random) -> Values:
        by = rng.randrange(1, 10)
        return {name: shifted(noun, NOUNS[FORM[noun]], by) for name, noun in values.items()}

    def choices(self, values: Values) -> Sequence[str]:
        return "is", "are", "was", "were"

    def accepts(self, values: Values, answer: str) -> bool:
        return answer in VERBS[FORM[values["subject"]][0]]
