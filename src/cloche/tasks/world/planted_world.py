"""Facts of an invented world, which a model learns from training text, and questions that compose them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import islice
from random import Random
from typing import Any

from cloche.errors import SettingInvalid, TaskInvalid, shown
from cloche.part import nearest
from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values

SIZES = {"person": 120, "firm": 24, "city": 24, "country": 8, "language": 6, "currency": 6}
RELATIONS = {  # name: (of what, what it is); those between the same kinds are equally long words, so twins can exchange them
    "teacher": ("person", "person"),
    "partner": ("person", "person"),
    "manager": ("person", "person"),
    "birthplace": ("person", "city"),
    "employer": ("person", "firm"),
    "seat": ("firm", "city"),
    "country": ("city", "country"),
    "language": ("country", "language"),
    "currency": ("country", "currency"),
}
FORMS = (
    "The {relation} of {subject} is {object}.",
    "{subject}'s {relation} is {object}.",
    "{object} is the {relation} of {subject}.",
)


@dataclass(frozen=True)
class PlantedWorld(Task):
    """A fact of an invented world, learned from training text; at level 2 and above a composition of as many facts.

    The facts are drawn from `world` and are not in the prompt: `corpus` is the text to learn them from. It also holds
    composed facts, but none in which the relation `held_out` is composed, and none of the test split. Names are new in
    another world; a variant of a world asks in other words.

    >>> from cloche.tasks import PlantedWorld
    >>> task = PlantedWorld(world=1)
    >>> item = task.example(level=2, seed=0)
    >>> item.prompt, item.answer, item.steps
    ("Bodar's partner's partner is", 'Betur', ('hop1 = Suzon',))
    >>> task.corpus(paraphrases=1, composed=0).splitlines()[0]
    "Monin's birthplace is Pefil."
    """

    world: int = 0
    held_out: str = "employer"

    levels = range(1, 5)
    gap = " "

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_out not in RELATIONS:
            raise SettingInvalid(f"The world has no relation {shown(self.held_out)}{nearest(self.held_out, RELATIONS)}")

    @property
    def facts(self) -> Mapping[tuple[str, str], str]:
        """{(relation, subject): object}, everything that is true in this world."""
        return _world(self.world)[1]

    def corpus(self, paraphrases: int = 3, composed: int = 1000, seed: int = 0) -> str:
        """Training text, a sentence per line in random order: every fact in `paraphrases` forms (at most 3), and `composed`
        facts of each level above 1 from the train split. Raises TaskInvalid for a negative number of either."""
        if min(paraphrases, composed) < 0:
            raise TaskInvalid(f"paraphrases={paraphrases} and composed={composed} must be at least 0.")
        rng = Random(f"corpus {self.world} {seed}")
        lines = [
            form.format(relation=relation, subject=subject, object=thing)
            for (relation, subject), thing in self.facts.items()
            for form in rng.sample(FORMS, min(paraphrases, len(FORMS)))
        ]
        for level in self.levels[1:]:
            taught = (i for i in self.distinct(level, seed, "train") if self.held_out not in _chain(i.values))
            lines += [f"{item.prompt}{item.gap}{item.answer}." for item in islice(taught, composed)]
        rng.shuffle(lines)
        return "\n".join(lines) + "\n"

    def draw(self, level: int, rng: Random) -> Values:
        chain = rng.choice(_chains(level))
        entity = rng.choice(_world(self.world)[0][RELATIONS[chain[0]][0]])
        relations = {f"relation{i}": relation for i, relation in enumerate(chain, 1)}
        return {"form": rng.randrange(2), "entity": entity, **relations}

    def template(self, values: Values) -> str:
        names = [f"{{relation{i}}}" for i in range(1, len(_chain(values)) + 1)]
        if values["form"]:
            return "'s ".join(["{entity}", *names]) + " is"
        return f"The {' of the '.join(reversed(names))} of {{entity}} is"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        """`hop1`, `hop2`, ... are the entities on the way."""

        def related(relation: str, subject: str) -> str:
            return self.facts.get((relation, subject), "nothing")

        n = len(_chain(values))
        heads = ["entity", *(f"hop{i}" for i in range(1, n)), "answer"]
        return {heads[i]: Rule((f"relation{i}", heads[i - 1]), related) for i in range(1, n + 1)}

    def swap(self, values: Values, name: str, rng: Random) -> Any:
        """Another entity of its kind, or another relation between the same kinds."""
        if name == "entity":
            return rng.choice(_world(self.world)[0][RELATIONS[values["relation1"]][0]])
        alike = [each for each in RELATIONS if RELATIONS[each] == RELATIONS[values[name]]]
        if int(name.removeprefix("relation")) == len(
            _chain(values)
        ):  # the last may end elsewhere, if the word is as long
            of, length = RELATIONS[values[name]][0], len(values[name])
            alike = [each for each in RELATIONS if RELATIONS[each][0] == of and len(each) == length]
        return rng.choice(alike)

    def isomorphic(self, values: Values, rng: Random) -> Values:
        """The same question in the other form: facts that were learned can be asked for in other words, but not renamed."""
        return {**values, "form": 1 - values["form"]}

    def canonical(self, values: Values) -> str:
        return f"{self.world} {values['entity']} {' '.join(_chain(values))}"

    def chance(self, values: Values) -> Fraction:
        return Fraction(1, len(self.choices(values)))

    def choices(self, values: Values) -> Sequence[str]:
        return _world(self.world)[0][RELATIONS[_chain(values)[-1]][1]]


def _chain(values: Values) -> tuple[str, ...]:
    return tuple(value for name, value in values.items() if name.startswith("relation"))


@cache
def _chains(level: int) -> list[tuple[str, ...]]:
    """The sequences of relations in which each starts from what the one before it gives."""
    if level == 1:
        return [(name,) for name in RELATIONS]
    return [(*c, name) for c in _chains(level - 1) for name in RELATIONS if RELATIONS[name][0] == RELATIONS[c[-1]][1]]


@cache
def _world(world: int) -> tuple[dict[str, list[str]], dict[tuple[str, str], str]]:
    """The entities by kind, and the facts."""
    rng = Random(f"planted world {world}")
    names = _names(rng)
    entities = {kind: list(islice(names, n)) for kind, n in SIZES.items()}
    facts = {
        (relation, subject): rng.choice([each for each in entities[kind] if each != subject])
        for relation, (of, kind) in RELATIONS.items()
        for subject in entities[of]
    }
    return entities, facts


def _names(rng: Random) -> Iterator[str]:
    """Different pronounceable names of five letters."""
    known: set[str] = set()
    while True:
        name = "".join(
            rng.choice(letters) for letters in ("BDFGKLMNPRSTVZ", "aeiou", "bdfgklmnprstvz", "aeiou", "klnrst")
        )
        if name not in known:
            known.add(name)
            yield name
