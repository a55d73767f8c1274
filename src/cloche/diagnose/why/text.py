"""The batches of a run read again: how likely their text is, and whether it can be learned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cloche.data import Batches

FITTED, JUDGED = 96, 24  # batches at most that counts are made of, and that usual values are taken from
NEAR = 8  # steps around the onset that are read one by one
LATER = 24  # batches read between the onset and the end
ODD = 6.0  # robust standard deviations of a batch's nats per token, above which it is unlike the others
LEAST = 0.15  # nats by which an unlike batch differs at least
MEMORY = 1 << 24  # entries of a table of pairs; larger vocabularies are counted by tokens alone
TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Text:
    """Nats per token under counts of pairs of tokens in the run's own earlier batches.

    unigram, bigram: of other earlier batches under counts of tokens, and of pairs: what a model should come below. worst: the
    step near the onset whose batch is most unlike the others, by `odd` robust standard deviations and `above` nats; `rows`: its
    rows, the most unlike first. lasting: the share of later batches that are unlike the earlier ones. learnable: what pairs
    tell of the later text, over what they tell of the earlier. distinct: of the tokens of the worst batch, over the usual.
    epochs: of the text, by the end.
    """

    unigram: float
    bigram: float
    worst: int | None
    odd: float
    above: float
    rows: tuple[int, ...]
    lasting: float
    begins: int | None
    learnable: float
    distinct: float
    epochs: float


class Pairs:
    """Counts of tokens and of pairs of tokens, and nats per token under them (Witten-Bell smoothing)."""

    def __init__(self, vocab: int, ids: np.ndarray) -> None:
        """ids: [row, position]."""
        self.vocab = vocab
        tokens = np.bincount(ids.ravel(), minlength=vocab).astype(float)
        self.unigram = (tokens + 0.5) / (tokens.sum() + 0.5 * vocab)
        self.pairs: np.ndarray | None = None
        if vocab * vocab <= MEMORY:
            flat = np.bincount((ids[:, :-1] * vocab + ids[:, 1:]).ravel(), minlength=vocab * vocab)
            self.pairs = flat.reshape(vocab, vocab).astype(np.float32)
            seen = (self.pairs > 0).sum(1)
            self.total = self.pairs.sum(1)
            self.trust = self.total / np.maximum(self.total + seen, 1)  # of the pairs, against the tokens alone

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        """-log p(token) of every target, [row, position - 1]."""
        return -np.log(self.unigram[ids[:, 1:]])

    def nats(self, ids: np.ndarray) -> np.ndarray:
        """-log p(token | the one before) of every target, [row, position - 1]."""
        if self.pairs is None:
            return self.tokens(ids)
        before, after = ids[:, :-1], ids[:, 1:]
        trust = self.trust[before]
        pair = self.pairs[before, after] / np.maximum(self.total[before], 1)
        return -np.log(trust * pair + (1 - trust) * self.unigram[after])


def text_of(batches: Batches, vocab: int, steps: int, onset: int | None) -> Text:
    """steps: that were trained. onset: the step at which things went wrong; without one the middle of the run."""
    until = max(4, min(steps, (onset or steps // 2 + 1) - 1 - NEAR)) if steps > 4 else 4
    early = spread(0, until, FITTED + JUDGED)
    judged = early[:: max(2, len(early) // JUDGED)]
    fitted = [step for step in early if step not in set(judged)]
    counts = Pairs(vocab, read(batches, fitted))
    usual = np.array([counts.nats(batches.at(step)).mean() for step in judged])
    middle, sigma = float(np.median(usual)), _spread(usual)
    at = onset or until + NEAR
    near = range(max(0, at - 1 - NEAR), min(steps, at + NEAR))
    surprise = {step: float(counts.nats(batches.at(step)).mean()) for step in near}
    worst = max(surprise, key=lambda step: abs(surprise[step] - middle), default=None)
    gap = abs(surprise[worst] - middle) if worst is not None else 0.0
    later = spread(at, steps, LATER)
    after = {step: float(counts.nats(batches.at(step)).mean()) for step in later}
    unlike = [step for step, value in after.items() if is_odd(value, middle, sigma)]
    lasting = len(unlike) / len(later) if later else 0.0
    odd_near = [step for step, value in surprise.items() if is_odd(value, middle, sigma)]
    ids = batches.at(worst) if worst is not None else batches.at(0)
    rows = counts.nats(ids).mean(1)
    usual_rows = float(np.median([len(np.unique(row)) for row in read(batches, judged)]))
    return Text(
        float(np.mean([counts.tokens(batches.at(step)).mean() for step in judged])),
        middle,
        None if worst is None else worst + 1,
        gap / sigma,
        gap,
        tuple(np.argsort(-np.abs(rows - middle)).tolist()),
        lasting,
        min(odd_near) + 1 if odd_near else None,
        learnable(read(batches, unlike or later), read(batches, early), vocab) if later else 1.0,
        float(np.median([len(np.unique(row)) for row in ids])) / max(usual_rows, 1.0),
        steps * len(ids) / batches.windows_per_epoch,
    )


def is_odd(value: float, middle: float, sigma: float) -> bool:
    return abs(value - middle) > max(ODD * sigma, LEAST)


def spread(first: int, end: int, count: int) -> list[int]:
    """At most `count` steps, evenly from `first` to before `end`."""
    return sorted({first + i * (end - first) // count for i in range(count)}) if end > first else []


def read(batches: Batches, steps: Iterable[int]) -> np.ndarray:
    """The rows of several steps, [row, position]."""
    return np.concatenate([batches.at(step) for step in steps] or [batches.at(0)])


def learnable(text: np.ndarray, usual: np.ndarray, vocab: int) -> float:
    """How much of one text can be learned from another part of it, over the same of usual text of the same size: 1 for other
    healthy text, 0 for noise and for one token repeated. ids: [row, position]."""
    size = min(len(text), len(usual))
    return max(0.0, structure(text[:size], vocab)) / max(structure(usual[:size], vocab), 1e-3)


def structure(ids: np.ndarray, vocab: int) -> float:
    """Nats per token that the token before tells of the next, in rows that were not counted."""
    if len(ids) < 2:
        return 0.0
    one, other = Pairs(vocab, ids[::2]), ids[1::2]
    return float((one.tokens(other) - one.nats(other)).mean())


def _spread(values: Sequence[float] | np.ndarray) -> float:
    middle = np.median(values)
    return max(0.02, TO_SIGMA * float(np.median(np.abs(np.asarray(values) - middle))))


def uniform(vocab: int) -> float:
    """Nats per token of a uniform guess."""
    return math.log(vocab)
