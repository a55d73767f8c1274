from __future__ import annotations

import re

from tests.tasks.solvers import Spend

PARTNER = {"(": ")", "[": "]", "{": "}", "<": ">"}


def solve_Dyck(prompt: str, spend: Spend) -> set[str]:
    """Cancels neighbours that match until none do, then mirrors what is left."""
    left = prompt.removeprefix("Balanced brackets: ").split()
    i = 0
    while i + 1 < len(left):
        spend()
        if PARTNER.get(left[i]) == left[i + 1]:
            del left[i : i + 2]
            i = max(0, i - 1)
        else:
            i += 1
    return {" ".join(PARTNER[each] for each in left[::-1])}


def solve_Agreement(prompt: str, spend: Spend) -> set[str]:
    """Strips one phrase after another from the end; a noun in -s is plural."""
    left = prompt.split()
    while len(left) > 2:
        left.pop()
        spend()
    return {"are", "were"} if left[-1].endswith("s") else {"is", "was"}


def solve_IndirectObject(prompt: str, spend: Spend) -> set[str]:
    """Strikes out every name that is there twice."""
    names = re.findall(r"\b(?!When)[A-Z][a-z]+", prompt)
    once = []
    for i, name in enumerate(names):
        twice = False
        for j, other in enumerate(names):
            spend()
            twice |= i != j and name == other
        if not twice:
            once.append(name)
    return set(once)


def solve_Induction(prompt: str, spend: Spend) -> set[str]:
    """Looks at every word but the last."""
    words = prompt.split()
    followed = set()
    for i in range(len(words) - 1):
        spend()
        if words[i] == words[-1]:
            followed.add(words[i + 1])
    return followed


CAPITAL_OF = {
    "Greece": "Athens",
    "Turkey": "Ankara",
    "Russia": "Moscow",
    "Poland": "Warsaw",
    "Canada": "Ottawa",
    "Angola": "Luanda",
    "Zambia": "Lusaka",
    "Rwanda": "Kigali",
}
CONTRARIES = [("hard", "soft"), ("fast", "slow"), ("rich", "poor"), ("warm", "cool")]
OPPOSITE_OF = {**dict(CONTRARIES), **{b: a for a, b in CONTRARIES}}
COUNTRY_OF = {capital: country for country, capital in CAPITAL_OF.items()}


def _kind(word: str) -> str:
    if len(word) == 1:
        return "letter"
    if word[0].isupper():
        return "country" if word in CAPITAL_OF else "capital"
    return "noun" if len(word) == 3 else "adjective" if word in OPPOSITE_OF else "verb"


WAYS = [
    CAPITAL_OF.get,
    COUNTRY_OF.get,
    OPPOSITE_OF.get,
    lambda word: word + "s",
    lambda word: word + "ed",
    lambda word: word + "er",
    lambda word: word + "est",
    lambda word: chr(ord(word) + 1) if len(word) == 1 else None,
    lambda word: word.upper(),
]


def solve_Analogy(prompt: str, spend: Spend) -> set[str]:
    """Tries every way to make the second word of a pair from its first, where the asked word is of the first's kind."""
    *pairs, asked = re.findall(r"(\w+) is to(?: (\w+))?", prompt)
    found = set()
    for first, second in pairs:
        spend()
        if _kind(first) == _kind(asked[0]):
            found |= {way(asked[0]) for way in WAYS if way(first) == second}
    return {each for each in found if each is not None}
