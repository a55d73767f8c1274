"""Analogies between words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values
from cloche.tasks.word_lists import listed, shifted, words


def _table(firsts: str, seconds: str) -> dict[str, str]:
    return dict(zip(words(firsts), words(seconds), strict=True))


COUNTRIES, CAPITALS = (
    "Angola Canada Greece Poland Russia Rwanda Turkey Zambia",
    "Luanda Ottawa Athens Warsaw Moscow Kigali Ankara Lusaka",
)
ADJECTIVES = "cool fast hard poor rich slow soft warm"
NOUNS = "bag bed boy car cat cow cup dog hat key pen pig"
VERBS = "call farm help hunt jump kick pack play talk walk work"
LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y"
# kind of word: relation: a word to what it is related to. In a relation all words have the same length, and so have what they
# are related to; no word is of two kinds.
RELATIONS = {
    "country": {"capital": _table(COUNTRIES, CAPITALS)},
    "capital": {"country": _table(CAPITALS, COUNTRIES)},
    "adjective": {
        "opposite": _table(ADJECTIVES, "warm slow soft rich poor fast hard cool"),
        "comparative": _table(ADJECTIVES, "cooler faster harder poorer richer slower softer warmer"),
        "superlative": _table(ADJECTIVES, "coolest fastest hardest poorest richest slowest softest warmest"),
    },
    "noun": {"plural": _table(NOUNS, " ".join(f"{noun}s" for noun in words(NOUNS)))},
    "verb": {
        "past": _table(VERBS, " ".join(f"{verb}ed" for verb in words(VERBS))),
        "doer": _table(VERBS, " ".join(f"{verb}er" for verb in words(VERBS))),
    },
    "letter": {"next": _table(LETTERS, LETTERS[2:] + " z"), "capital letter": _table(LETTERS, LETTERS.upper())},
}
KIND = {word: kind for kind, relations in RELATIONS.items() for table in relations.values() for word in table}


@dataclass(frozen=True)
class Analogy(Task):
    """A word analogy, a to b as c to d, after as many example pairs as the level, one of which shows the relation.

    `Poland is to Warsaw and dog is to dogs. In the same way, Greece is to`, then `Athens`: every pair is of another kind of
    word, and those not of the asked word's kind distract. The kinds are countries, capitals, adjectives, nouns, verbs and
    letters, with one to three relations each; the choices are what every relation of the kind makes of its words, so that
    the asked word alone does not tell the answer. A variant has other words. The graph has the relation.

    >>> from cloche.tasks import Analogy
    >>> item = Analogy().example(level=2, seed=0)
    >>> item.prompt, item.answer, item.steps
    ('i is to I and Rwanda is to Kigali. In the same way, Poland is to', 'Warsaw', ('relation = capital',))
    """

    levels = range(1, 7)
    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        kinds = rng.sample(list(RELATIONS), level)
        asked, word = rng.randrange(level), ""
        values: dict[str, str] = {}
        for i, kind in enumerate(kinds):
            table = rng.choice(list(RELATIONS[kind].values()))
            first, other = rng.sample(list(table), 2)
            values |= {f"first_{i + 1}": first, f"second_{i + 1}": table[first]}
            word = other if i == asked else word
        return {**values, "word": word}

    def template(self, values: Values) -> str:
        pairs = listed([f"{{first_{i}}} is to {{second_{i}}}" for i in range(1, _pairs(values) + 1)])
        return f"{pairs}. In the same way, {{word}} is to"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        return {"relation": Rule(tuple(values), _relation), "answer": Rule(("word", "relation"), _related)}

    def contrasts(self, values: Values) -> Sequence[str]:
        return "word", f"second_{_asked(values)}"

    def swap(self, values: Values, name: str, rng: Random) -> str | None:
        if name == "word":
            table = _table_of(values[f"first_{_asked(values)}"], values[f"second_{_asked(values)}"])
            return rng.choice([word for word in table if word not in values.values()])
        if name.startswith("second"):
            tables = RELATIONS[KIND[values[name.replace("second", "first")]]].values()
            seconds = [table[values[name.replace("second", "first")]] for table in tables]
            others = [word for word in seconds if len(word) == len(values[name]) and word != values[name]]
            return rng.choice(others) if others else None
        return None  # the pair would have no relation

    def isomorphic(self, values: Values, rng: Random) -> Values:
        by, renamed = rng.randrange(1, 8), {}
        for i in range(1, _pairs(values) + 1):
            table = _table_of(values[f"first_{i}"], values[f"second_{i}"])
            renamed[f"first_{i}"] = shifted(values[f"first_{i}"], tuple(table), by)
            renamed[f"second_{i}"] = table[renamed[f"first_{i}"]]
        table = _table_of(values[f"first_{_asked(values)}"], values[f"second_{_asked(values)}"])
        return {**renamed, "word": shifted(values["word"], tuple(table), by)}

    def canonical(self, values: Values) -> str:
        asked = _asked(values)
        return f"{values[f'first_{asked}']} {values[f'second_{asked}']} {values['word']}"

    def choices(self, values: Values) -> Sequence[str]:
        tables = RELATIONS[KIND[values["word"]]].values()
        return list(dict.fromkeys(word for table in tables for word in table.values()))


def _pairs(values: Values) -> int:
    return len(values) // 2


def _asked(values: Values) -> int:
    """The pair whose words are of the asked word's kind."""
    kind = KIND[values["word"]]
    return next(i for i in range(1, _pairs(values) + 1) if KIND[values[f"first_{i}"]] == kind)


def _relation(*all_words: str) -> str:
    """The relation of the pair whose words are of the last word's kind."""
    *pairs, word = all_words
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        for relation, table in RELATIONS[KIND[word]].items():
            if table.get(first) == second:
                return relation
    return "none"


def _related(word: str, relation: str) -> str:
    return RELATIONS[KIND[word]].get(relation, {}).get(word, "")


def _table_of(first: str, second: str) -> dict[str, str]:
    return next(table for table in RELATIONS[KIND[first]].values() if table[first] == second)
