"""Fill-in-the-middle: the text of a document is moved, so that a left-to-right model learns to fill a gap."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from cloche.errors import ModelUnsupported, TokenizerMissing
from cloche.part import within
from cloche.text import Tokenizer
from cloche.train.objectives.batch import Examples, TokenBatch
from cloche.train.objectives.denoising import ids_of, real
from cloche.train.objectives.prediction import Prediction

PROBES = ("a", " a", "a ", "\n", "é", "  ")  # parts of a text that must be encoded as they are
MOST_CUT = 3  # bytes of a character that is cut in two


class Piece(NamedTuple):
    """What a row holds of one document: ids, the weights of these as targets, and whether an end token follows."""

    ids: list[int]
    weights: list[float]
    ends: bool


@dataclass(frozen=True)
class FillInTheMiddle(Prediction):
    """`NextToken`, with the middle of some documents moved to their end (Bavarian et al., 2207.14255).

    Of each document in a row, with probability `rate`, the text is cut at two random characters, and the parts are encoded
    one by one: as "psm" <prefix> P <suffix> S <middle> M <end>, as "spm" <prefix> <suffix> S <middle> P M <end>, where P and M
    are one text, or "both", each half the time. Up to a rate of 0.9, left-to-right prediction lost nothing there;
    models of minutes lose about 1% in bits per byte (bench/train/objectives.py).

    The loss is on all three parts and on the end token, which says that the middle is complete; the special tokens `tokens`
    are inputs alone, so that no text is continued with one. A row keeps its length: the last document of a row gives up the
    tokens that the special ones need, and what is left over is padding without weight. Validation is of next tokens of the
    text as it is, comparable with that of `NextToken`.

    A text never becomes a special token, nor does the prompt of `cloche generate`. In Python, ids fill in a middle:
    prefix, suffix, middle = map(glass.tokenizer.id_of, tokens); then glass.generate([prefix, *before, suffix, *after,
    middle], stop=[glass.tokenizer.end]).new, with `before` and `after` from glass.tokenizer.encode.

    >>> import torch
    >>> from cloche.train import FillInTheMiddle
    >>> objective = FillInTheMiddle(rate=1.0)
    >>> tokenizer = cloche.train_bpe(["to be or not to be"] * 9, vocab=280, special=objective.special_tokens)
    >>> ids = torch.tensor([[tokenizer.end, *tokenizer.encode("to be or not to be, or not"), tokenizer.end]])
    >>> moved = objective.bound(tokenizer).examples(ids).inputs[0]
    >>> [tokenizer.show(int(i)) for i in moved if i in map(tokenizer.id_of, objective.special_tokens)]
    ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>']
    """

    rate: float = 0.5
    order: Literal["psm", "spm", "both"] = "psm"
    tokens: tuple[str, str, str] = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")

    tokenizer: ClassVar[Tokenizer | None] = None  # of an objective that `bound` returned
    marks: ClassVar[tuple[int, int, int]] = (-1, -1, -1)

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, rate=(0, 1))

    @property
    def special_tokens(self) -> tuple[str, ...]:
        return self.tokens

    def bound(self, tokenizer: Tokenizer) -> Self:
        marks = ids_of(self, tokenizer, self.tokens, "name those that it has (objective.tokens)")
        if tokenizer.end is None:
            raise TokenizerMissing(
                "FillInTheMiddle ends each middle with an end token, and this tokenizer has none; use one that has."
            )
        if any(tokenizer.decode_bytes(tokenizer.encode(text, special=False)) != text.encode() for text in PROBES):
            raise ModelUnsupported(
                "FillInTheMiddle encodes parts of a text one by one, and this tokenizer changes a part, for instance by a "
                "space before it; use a tokenizer that keeps every byte, as those trained here do."
            )
        known = copy.copy(self)
        object.__setattr__(known, "tokenizer", tokenizer)
        object.__setattr__(known, "marks", tuple(marks))
        return known

    def examples(self, batch: TokenBatch | Tensor) -> Examples:
        batch = TokenBatch.of(batch)
        if self.tokenizer is None or self.tokenizer.end is None:
            raise TokenizerMissing("FillInTheMiddle encodes text again and needs its tokenizer; use .bound(tokenizer).")
        there = real(batch).tolist()
        rows = [_split(batch, row, there[row], self.tokenizer.end) for row in range(len(batch))]
        draws = torch.rand(sum(len(pieces) for _, pieces in rows), 4, generator=batch.generator()).tolist()
        starts = accumulate((len(pieces) for _, pieces in rows), initial=0)
        laid = [self._row(*row, draws[start:], batch.ids.shape[1]) for row, start in zip(rows, starts, strict=False)]
        ids, weights, documents = (torch.tensor(each, device=batch.ids.device) for each in zip(*laid, strict=True))
        separate = None if batch.documents is None else documents[:, 1:]
        return Examples(ids[:, :-1], ids[:, 1:], weights[:, 1:], separate)

    def _row(
        self, first: list[int], pieces: list[Piece], draws: list[list[float]], room: int
    ) -> tuple[list[int], list[float], list[int]]:
        """A row of `room` ids, `first` and then the pieces, each moved or not; the weights of all as targets, and the number
        of the document of each. draws: of each piece, whether it is moved, the two cuts and the order, in [0, 1)."""
        laid = [self._laid(piece, draw) for piece, draw in zip(pieces, draws, strict=False)]
        while (over := len(first) + sum(len(ids) for ids, _ in laid) - room) > 0:
            last = pieces[len(laid) - 1]
            keep = len(last.ids) - over
            if over >= len(laid[-1][0]):
                laid.pop()
            elif draws[len(laid) - 1][0] >= self.rate:
                laid[-1] = laid[-1][0][:-over], laid[-1][1][:-over]
            elif keep > 0:
                pieces = [*pieces[: len(laid) - 1], Piece(last.ids[:keep], last.weights[:keep], ends=False)]
                laid[-1] = self._laid(pieces[-1], draws[len(laid) - 1])
            else:
                laid.pop()
        ids, weights, documents = list(first), [0.0] * len(first), [0] * len(first)
        for number, (more, with_weights) in enumerate(laid):
            ids += more
            weights += with_weights
            documents += [number] * len(more)
        left = room - len(ids)
        end = self.tokenizer.end if self.tokenizer else None
        return ids + [end or 0] * left, weights + [0.0] * left, documents + [len(laid)] * left

    def _laid(self, piece: Piece, draw: list[float]) -> tuple[list[int], list[float]]:
        """The ids of one document as the model sees them, and their weights as targets."""
        assert self.tokenizer is not None and self.tokenizer.end is not None
        chance, one, other, order = draw
        cuts = min(one, other), max(one, other)
        parts = _cut(piece.ids, cuts, self.tokenizer) if chance < self.rate else None
        if parts is None:
            ends = [self.tokenizer.end] * piece.ends
            return piece.ids + ends, piece.weights + [1.0] * len(ends)
        prefix, middle, suffix = parts
        before, after, between = ([mark] for mark in self.marks)
        if self.order == "psm" or (self.order == "both" and order < 0.5):
            ids = before + prefix + after + suffix + between + middle
        else:
            ids = before + after + suffix + between + prefix + middle
        return [*ids, self.tokenizer.end], [float(i not in self.marks) for i in ids] + [1.0]


def _split(batch: TokenBatch, row: int, there: list[bool], end: int) -> tuple[list[int], list[Piece]]:
    """A row's first input, where it is an end token and so belongs to no document, and its documents without padding."""
    ids = batch.ids[row].tolist()
    targets = ids[1:]
    weights = [1.0] * len(targets) if batch.weights is None else batch.weights[row].tolist()
    if batch.documents is None:
        numbers = list(accumulate(int(i == end) for i in ids[1:-1]))
        numbers = [0, *numbers]
    else:
        numbers = batch.documents[row].tolist()
    first = ids[:1]
    if first != [end]:
        first, targets, weights = [], ids, [1.0, *weights]
        numbers, there = [numbers[0], *numbers], [True, *there]
    found: dict[int, tuple[list[int], list[float]]] = {}
    for i, weight, number, real_one in zip(targets, weights, numbers, there, strict=True):
        if real_one:
            held = found.setdefault(number, ([], []))
            held[0].append(i)
            held[1].append(weight)
    ended = [(ids, weights, ids[-1] == end) for ids, weights in found.values()]
    return first, [
        Piece(ids[:-1], weights[:-1], True) if e else Piece(ids, weights, False) for ids, weights, e in ended
    ]


def _cut(
    ids: list[int], cuts: tuple[float, float], tokenizer: Tokenizer
) -> tuple[list[int], list[int], list[int]] | None:
    """Prefix, middle and suffix of a text, encoded by themselves; cut at these shares of its characters. None where there is
    no text, or where it holds tokens that are no text."""
    if not ids or int(tokenizer.byte_lengths[ids].min()) == 0:
        return None
    # The window may have cut a character: its bytes stay outside of what is encoded again.
    start, stop = 0, len(ids)
    while start < stop and start < MOST_CUT and tokenizer.decode_bytes(ids[start : start + 1])[0] & 0xC0 == 0x80:
        start += 1
    while True:
        data = tokenizer.decode_bytes(ids[start:stop])
        try:
            text = data.decode()
            break
        except UnicodeDecodeError as error:
            if error.end < len(data) or len(ids) - stop == MOST_CUT:
                return None
            stop -= 1
    if not text:
        return None
    a, b = (int(cut * (len(text) + 1)) for cut in cuts)
    prefix, middle, suffix = tokenizer.encode_batch([text[:a], text[a:b], text[b:]], special=False)
    return ids[:start] + prefix, middle, suffix + ids[stop:]
