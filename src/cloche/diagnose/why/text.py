"""The batches of a run read again: how likely their text is, and whether it can be learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cloche.data import Batches
from cloche.diagnose.robust import robust_deviation

FITTED, JUDGED = 96, 24  # batches at most that counts are made of, and that usual values are taken from
FEWEST = 12  # batches before things went wrong that are enough to compare with
NEAR = 8  # steps around the onset that are read one by one
MOST = 64  # unlike batches that are looked for one by one
MOST_LEARNABLE = 2.0  # times what can be learned of usual text; beyond, few rows mislead
LATER = 48  # batches read between the onset and the end
ODD = 5.0  # robust standard deviations of a batch's nats per token, beyond which it is unlike the others
FLOOR = 0.02  # nats: the least spread of usual batches
LEAST = 0.15  # nats by which an unlike batch differs at least
MEMORY = 1 << 24  # entries of a table of pairs; larger vocabularies are counted by tokens alone


@dataclass(frozen=True)
class Text:
    """Nats per token under counts of pairs of tokens in the run's own earlier batches.

    unigram, bigram: of other earlier batches under counts of tokens, and of pairs: what a model should come below. bad: steps
    from about the onset on whose batches are unlike the earlier ones, at most 64 or so, and `above`: by how many nats the most
    unlike of all is. tail: by how many nats the last third of the planned batches after the onset are unlike the earlier ones,
    their median. learnable: what pairs tell of the unlike ones, over what they tell of the earlier. epochs: of the text, by the
    end.
    """

    unigram: float
    bigram: float
    bad: tuple[int, ...]
    above: float
    tail: float
    learnable: float
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


def text_of(batches: Batches, vocab: int, steps: int, planned: int, onsets: Sequence[int]) -> Text:
    """steps: that were trained, of those planned. onsets: steps at which something went wrong; without any, half of the run is
    compared with the other half. Where there are hardly any batches before the first, all of the run's are taken for usual."""
    onset = min(onsets, default=steps // 2 + 1 + NEAR)
    until = min(steps, onset - 1 - NEAR)
    near = sorted({step for at in onsets for step in range(max(0, at - 1 - NEAR), min(planned, at + NEAR))})
    early = spread(0, until if until >= FEWEST else planned, FITTED + JUDGED)
    early = [step for step in early if step not in near] or early
    judged = early[:: max(2, len(early) // JUDGED)]
    counts = Pairs(vocab, read(batches, [step for step in early if step not in set(judged)]))
    usual = np.array([counts.nats(batches.at(step)).mean() for step in judged])
    middle, sigma = float(np.median(usual)), max(FLOOR, robust_deviation(usual))

    def unlike(steps: Iterable[int]) -> dict[int, float]:
        """By how many nats each of the batches differs, without those that do no more than usual."""
        gaps = {step: abs(float(counts.nats(batches.at(step)).mean()) - middle) for step in steps}
        return {step: gap for step, gap in gaps.items() if gap > max(ODD * sigma, LEAST)}

    bad, later = unlike(near), spread(min(onset, steps), planned, LATER)
    while bad and (following := unlike(range(max(bad) + 1, min(planned, max(bad) + 1 + NEAR)))) and len(bad) < MOST:
        bad |= following
    last = [float(counts.nats(batches.at(step)).mean()) - middle for step in later[len(later) * 2 // 3 :]]
    tail = abs(float(np.median(last))) if last else 0.0
    odd = later if tail > LEAST else []
    return Text(
        float(np.mean([counts.tokens(batches.at(step)).mean() for step in judged])),
        middle,
        tuple(step + 1 for step in bad),
        max(bad.values(), default=0.0),
        tail,
        learnable(read(batches, [*bad, *odd]), read(batches, early), vocab) if bad or odd else 1.0,
        steps * len(batches.at(0)) / batches.windows_per_epoch,
    )


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
    return min(MOST_LEARNABLE, max(0.0, structure(text[:size], vocab)) / max(structure(usual[:size], vocab), 0.02))


def structure(ids: np.ndarray, vocab: int) -> float:
    """Nats per token that the token before tells of the next, in rows that were not counted."""
    if len(ids) < 2:
        return 0.0
    one, other = Pairs(vocab, ids[::2]), ids[1::2]
    return float((one.tokens(other) - one.nats(other)).mean())
