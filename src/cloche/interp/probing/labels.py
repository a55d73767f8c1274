"""Labels of tokens by simple rules on the text, so that what a probe must find is known."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from cloche.errors import SignalsShape, TokenizerMissing
from cloche.interp.subject import Subject, spell

KEYWORDS = frozenset(keyword.kwlist)
QUOTE = re.compile(rb'"|\xe2\x80\x9c|\xe2\x80\x9d')  # straight, opening and closing

Labels = Callable[[Subject, Tensor], dict[str, Tensor]]


def read_labels(subject: Subject, batches: Sequence[Tensor], labels: Labels) -> list[dict[str, Tensor]]:
    """The labels of each batch of ids. Raises SignalsShape unless they have the same names for all, and are one bool for each
    token."""
    given: list[Any] = [labels(subject, batch) for batch in batches]
    parts: list[dict[str, Any]] = [part if isinstance(part, dict) else {"labels": None} for part in given]
    for batch, part in zip(batches, parts, strict=True):
        wrong = [
            name
            for name, label in part.items()
            if not isinstance(label, Tensor) or label.shape != batch.shape or label.dtype != torch.bool
        ]
        if wrong or not part or part.keys() != parts[0].keys():
            raise SignalsShape(
                f"The labels {wrong or [*part]} are not one bool for each token: give the same names for all ids, each "
                f"{list(batch.shape)}."
            )
    return parts


def token_labels(subject: Subject, ids: Tensor) -> dict[str, Tensor]:
    """Labels of token ids [batch, position], each row a text of its own: bool [batch, position] by name.

    By the token itself: "space" (begins with one), "digit" (contains one), "punctuation" (only marks and symbols),
    "capital" (its first letter is one), "line end" (contains one), "keyword" (a Python keyword). By the text before it:
    "quoted" (inside double quotes, see `quoted`) and "seen" (occurred before in the row). Raises ClocheError without a
    tokenizer.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> from cloche.interp import token_labels
    >>> ids, _ = glass.ids("the cat sat.")
    >>> token_labels(glass, ids)["capital"].any()
    tensor(False)
    """
    tokenizer = subject.tokenizer
    if tokenizer is None:
        raise TokenizerMissing(
            "This model has no tokenizer, so its tokens have no text to take labels from; give labels= a "
            "function of the ids."
        )
    ids = ids.reshape(-1, ids.shape[-1]).cpu()
    kinds = ids.unique()
    texts = spell(tokenizer, kinds.tolist())
    own = torch.tensor([[rule(text) for rule in RULES.values()] for text in texts])  # [kind, rule]
    which = torch.searchsorted(kinds, ids)
    labels = {name: own[which, i] for i, name in enumerate(RULES)}
    pieces = {i: tokenizer.decode_bytes([i]) for i in kinds.tolist() if i < tokenizer.vocab}
    rows = [[pieces.get(i, b"") for i in row] for row in ids.tolist()]
    return labels | {"quoted": torch.tensor([quoted(row) for row in rows]), "seen": _seen(ids)}


def _punctuation(text: str) -> bool:
    marks = text.strip()
    return bool(marks) and all(unicodedata.category(c)[0] in "PS" for c in marks)


def _capital(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and letters[0].isupper()


RULES = {
    "space": lambda text: text.startswith(" "),
    "digit": lambda text: any(c.isdigit() for c in text),
    "punctuation": _punctuation,
    "capital": _capital,
    "line end": lambda text: "\n" in text,
    "keyword": lambda text: text.strip() in KEYWORDS,
}


def quoted(pieces: list[bytes]) -> list[bool]:
    """Whether each piece of a text is inside double quotes, by its first byte that is not whitespace (or its first byte).

    A straight quote opens if whitespace, a bracket or nothing is before it and another character after it; otherwise it
    closes. An unclosed quotation ends with its line; in the first line of the text, a quote that closes what was not opened
    counts from the start.
    """
    text = b"".join(pieces)
    inside = bytearray(len(text))
    for line in re.finditer(rb"[^\n]+", text):
        start: int | None = None
        closable: int | None = line.start() if line.start() == 0 else None
        for mark in QUOTE.finditer(text, line.start(), line.end()):
            if _opens(text, mark):
                start, closable = mark.end(), mark.end()
            elif closable is not None:
                inside[closable : mark.start()] = b"\1" * (mark.start() - closable)
                start = closable = None
        if start is not None:
            inside[start : line.end()] = b"\1" * (line.end() - start)
    ends = [*accumulate(map(len, pieces))]
    firsts = [end - len(piece.lstrip() or piece) for end, piece in zip(ends, pieces, strict=True)]
    return [first < end and bool(inside[first]) for first, end in zip(firsts, ends, strict=True)]


def _opens(text: bytes, mark: re.Match[bytes]) -> bool:
    if mark[0] != b'"':
        return mark[0] == b"\xe2\x80\x9c"
    before, behind = text[mark.start() - 1 : mark.start()], text[mark.end() : mark.end() + 1]
    return (not before or before.isspace() or before in b"([{") and bool(behind) and not behind.isspace()


def _seen(ids: Tensor) -> Tensor:
    """[batch, position] whether the token occurred before in its row."""
    same = ids[:, :, None] == ids[:, None, :]
    return same.tril(-1).any(2)
