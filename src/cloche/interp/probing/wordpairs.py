"""Pairs of words by relation, such as capital and country, and the tokens that they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cloche.errors import ArgumentInvalid, FileMissing, FileTooLarge, PromptInvalid, RecordInvalid, shown
from cloche.interp.significance import known_tokens
from cloche.interp.subject import Subject, spell, windows_of

Pairs = Mapping[str, Sequence[tuple[Any, Any]]]  # by relation: two words, or two token ids
FORMS = (" {}", "{}")  # a word within a text, and at its start
FEWEST = 4  # pairs of a relation
LARGEST = 1 << 26  # bytes of a file
PEERS = 8  # other words about as frequent as a word


@dataclass(frozen=True)
class Relations:
    """The pairs of token ids of each relation, and how many pairs were given. form: how a word is written."""

    pairs: dict[str, list[tuple[int, int]]]
    given: dict[str, int]
    form: str

    @property
    def tokens(self) -> list[int]:
        """The different tokens of all pairs, in order."""
        return sorted({token for pairs in self.pairs.values() for pair in pairs for token in pair})


def read_pairs(path: Path) -> dict[str, list[tuple[str, str]]]:
    """The pairs of a file of lines `word word`, or `word word word word` (two pairs), each relation after a line `: NAME`.

    Raises FileMissing, FileTooLarge, and RecordInvalid naming the line that is not of this form."""
    if not path.is_file():
        raise FileMissing(f"There is no file {path} to read word pairs from.")
    if path.stat().st_size > LARGEST:
        raise FileTooLarge(f"{path} is larger than {LARGEST >> 20} MiB; give a file of fewer word pairs.")
    found: dict[str, dict[tuple[str, str], None]] = {}
    relation = path.stem
    for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if line.startswith(":"):
            relation = line[1:].strip() or path.stem
        elif len(words) in (2, 4):
            found.setdefault(relation, {}).update({(words[i], words[i + 1]): None for i in range(0, len(words), 2)})
        elif words:
            raise RecordInvalid(
                f"{path}:{number} has {len(words)} words, and a line of word pairs has 2 or 4; correct it or remove it."
            )
    return {name: list(pairs) for name, pairs in found.items()}


def relations(subject: Subject, pairs: Path | Pairs) -> Relations:
    """The pairs of which both words are one token, of every relation that has enough of them.

    Raises ArgumentInvalid for pairs of another form, and PromptInvalid where too few remain."""
    given = read_pairs(Path(pairs)) if isinstance(pairs, str | Path) else _checked(pairs)
    found, form = max((_encoded(subject, given, form) for form in FORMS), key=lambda each: _count(each[0]))
    kept = {name: each for name, each in found.items() if len(each) >= FEWEST}
    if not kept:
        best = max(map(len, found.values()), default=0)
        raise PromptInvalid(
            f"Analogies need a relation with at least {FEWEST} pairs of which both words are one token, and of "
            f"{sum(map(len, given.values())):,} pairs no relation has more than {best}; give more pairs of frequent words."
        )
    return Relations(kept, {name: len(each) for name, each in given.items()}, form)


def _count(found: Mapping[str, Sequence[Any]]) -> int:
    return sum(map(len, found.values()))


def _checked(pairs: Any) -> Pairs:
    whole = isinstance(pairs, Mapping) and all(
        isinstance(pair, tuple | list) and len(pair) == 2 and len({isinstance(word, str) for word in pair}) == 1
        for each in pairs.values()
        for pair in each
    )
    if not whole:
        raise ArgumentInvalid(
            f'pairs={shown(pairs)} is neither a file nor pairs by relation, such as {{"plural": [("cat", "cats"), ...]}}.'
        )
    return {str(name): [tuple(pair) for pair in each] for name, each in pairs.items()}


def _encoded(subject: Subject, given: Pairs, form: str) -> tuple[dict[str, list[tuple[int, int]]], str]:
    """The pairs as tokens with the words in one form, without those of more tokens, of one token twice, and repeated ones."""
    words = sorted({word for pairs in given.values() for pair in pairs for word in pair if isinstance(word, str)})
    known: dict[Any, int] = {}
    if words:
        if subject.tokenizer is None:
            raise PromptInvalid("This model has no tokenizer.json, so it cannot read words; give pairs of token ids.")
        rows = subject.tokenizer.encode_batch([form.format(word) for word in words], special=False)
        known = {word: row[0] for word, row in zip(words, rows, strict=True) if len(row) == 1}
    vocab = subject.net.spec.vocab
    ids = {word for pairs in given.values() for pair in pairs for word in pair if not isinstance(word, str)}
    for each in ids:
        if not isinstance(each, int) or not 0 <= each < vocab:
            raise ArgumentInvalid(
                f"pairs= has {shown(each)}, which is neither a word nor a token from 0 to {vocab - 1}."
            )
    known |= {each: each for each in ids}
    found = {}
    for name, pairs in given.items():
        both = [(known[a], known[b]) for a, b in pairs if a in known and b in known]
        found[name] = [pair for pair in dict.fromkeys(both) if pair[0] != pair[1]]
    return found, form


# ---- words of equal frequency


def peers(subject: Subject, found: Relations, windows: Any) -> Tensor:
    """For each of `found.tokens`, PEERS words of about the same frequency that are in no pair, [token, peer].

    Words are tokens spelled as the pairs' words are, of letters alone; all tokens without a tokenizer. The frequency is the
    number of occurrences in `windows`; without windows, or among equally frequent ones, tokens with neighbouring ids are taken,
    which tokenizers number by frequency."""
    known = known_tokens(subject)
    order = torch.arange(known)
    if windows is not None:
        count = torch.zeros(subject.net.spec.vocab, dtype=torch.long)
        for ids in windows_of(subject, windows):
            count += torch.bincount(ids.flatten().cpu(), minlength=len(count))
        order = count[:known].argsort(descending=True, stable=True)
    if subject.tokenizer is not None:
        start = found.form.partition("{}")[0]
        words = [text.startswith(start) and text.strip().isalpha() for text in spell(subject.tokenizer, range(known))]
        some = order[torch.tensor(words)[order]]
        order = some if len(some) > PEERS else order
    rank = {int(token): i for i, token in enumerate(order)}
    free = ~torch.isin(order, torch.tensor(found.tokens))
    if int(free.sum()) < PEERS:
        free = torch.ones_like(free)
    before = free.cumsum(0) - free.long()  # of each rank, how many of the rest come first
    last = len(order) - 1
    return torch.stack([_near(order[free], int(before[rank.get(i, min(i, last))]), i) for i in found.tokens])


def _near(order: Tensor, rank: int, token: int) -> Tensor:
    """PEERS tokens of an order around a rank, without the token itself; repeated where there are fewer."""
    start = max(0, min(rank - PEERS // 2, len(order) - PEERS - 1))
    near = order[start : start + PEERS + 1]
    near = near[near != token][:PEERS]
    return near.repeat(-(-PEERS // len(near)))[:PEERS]
