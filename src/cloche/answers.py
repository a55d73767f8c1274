"""The results of `glass.loss` and `glass.next_tokens`, which print readably."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cloche.errors import ArgumentRange, ClocheError, CorpusEmpty
from cloche.text import Tokenizer


@dataclass(frozen=True)
class Loss:
    """A model's loss on a text. Every token but the first of each text is predicted from those before it.

    bits_per_byte: the total over the UTF-8 bytes of the predicted tokens; None without a tokenizer, or with one that loses
    characters.
    """

    nats_per_token: float
    bits_per_byte: float | None
    tokens: int
    bytes: int | None
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        each = "" if self.bits_per_byte is None else f", {self.bits_per_byte:.4f} bits per byte"
        text = f"{self.nats_per_token:.4f} nats per token{each}, over {self.tokens:,} tokens"
        return "\n".join([text, *(f"Note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class NextTokens:
    """The most likely tokens after a prompt, in order: their texts, ids and probabilities."""

    texts: tuple[str, ...]
    ids: tuple[int, ...]
    probabilities: tuple[float, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Any:
        return iter(zip(self.texts, self.ids, self.probabilities, strict=True))

    def __repr__(self) -> str:
        wide = max(len(text) for text in ("token", *self.texts))
        rows = [f"{'token':<{wide}}  {'id':>6}  probability"]
        rows += [f"{text:<{wide}}  {i:>6}  {p:>11.4f}" for text, i, p in self]
        return "\n".join([*rows, *(f"Note: {note}" for note in self.notes)])


def loss_of(logits: Tensor, ids: Tensor, pad: Tensor | None, tokenizer: Tokenizer | None, notes: list[str]) -> Loss:
    """The loss of ids [batch, position] from their logits [batch, position, vocab]."""
    ids = ids.to(logits.device)
    real = torch.arange(ids.shape[1], device=ids.device)[None] >= (0 if pad is None else pad.to(ids.device)[:, None])
    predicted = (real[:, :-1] & real[:, 1:]).expand(len(ids), -1)
    count = int(predicted.sum())
    if not count:
        raise CorpusEmpty("There is nothing to predict: give texts of at least two tokens.")
    following = ids[:, 1:][predicted]
    nats = sum(
        float(-row.float().log_softmax(-1).gather(-1, nxt[:, None]).sum(dtype=torch.float64))
        for row, nxt in zip(logits[:, :-1][predicted].split(1024), following.split(1024), strict=True)
    )
    size = _bytes(following, tokenizer)
    return Loss(nats / count, nats / math.log(2) / size if size else None, count, size, tuple(notes))


def _bytes(ids: Tensor, tokenizer: Tokenizer | None) -> int | None:
    if tokenizer is None:
        return None
    try:
        lengths = torch.from_numpy(tokenizer.byte_lengths.copy())
    except ClocheError:  # a tokenizer that loses characters
        return None
    return int(lengths[ids.cpu().clamp(max=len(lengths) - 1)].sum())


def next_of(logits: Tensor, top: int, tokenizer: Tokenizer | None, notes: list[str]) -> NextTokens:
    """The `top` most likely tokens from the logits [vocab] at the last position."""
    if type(top) is not int or not 1 <= top <= len(logits):
        raise ArgumentRange(f"top={top!r} must be a whole number from 1 to the model's {len(logits):,} tokens.")
    best = logits.float().softmax(-1).topk(top)
    ids = best.indices.tolist()
    known = 0 if tokenizer is None else tokenizer.vocab
    texts = [tokenizer.show(i) if tokenizer is not None and i < known else f"[{i}]" for i in ids]
    return NextTokens(tuple(texts), tuple(ids), tuple(best.values.tolist()), tuple(notes))
