"""Remedies of the data: batches or rows left out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cloche.diagnose.proving.remedy import Remedy
from cloche.diagnose.robust import TO_SIGMA
from cloche.errors import ArgumentInvalid, CorpusEmpty
from cloche.train import TokenBatch, Trainer

MOST_EMPTY = 1000  # batches one after the other of which no row is left
REFERENCE = 16  # batches before the checkpoint that rows are compared with
FEWEST = 16  # rows that the usual loss is taken from
NAMED = 3  # steps in a phrase


@dataclass(frozen=True)
class WithoutBatches(Remedy):
    """The batches of these steps of the run, counted from 1, are left out; each step takes the next that is left.

    >>> from cloche.diagnose import WithoutBatches
    >>> WithoutBatches((412,)).phrase, WithoutBatches(tuple(range(412, 420))).phrase
    ('without batch 412', 'without batches 412-419')
    """

    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1:
            raise ArgumentInvalid(f"{self} must name steps, and they are counted from 1.")

    @property
    def phrase(self) -> str:
        steps = sorted(set(self.steps))
        if len(steps) == 1:
            return f"without batch {steps[0]}"
        if steps[-1] - steps[0] == len(steps) - 1:
            return f"without batches {steps[0]}-{steps[-1]}"
        more = f" and {len(steps) - NAMED} more" if len(steps) > NAMED else ""
        return f"without batches {', '.join(map(str, steps[:NAMED]))}{more}"

    def applies(self, trainer: Trainer) -> bool:
        return max(self.steps) > trainer.step

    def apply(self, trainer: Trainer) -> str:
        left_out, number = set[int](), trainer.taken
        for step in range(trainer.step, max(self.steps)):
            count = trainer.plan.batches(step)
            if step + 1 in self.steps:
                left_out |= set(range(number, number + count))
            number += count
        trainer.source = _Skipping(trainer.source, trainer.taken, left_out)
        return ""


@dataclass(frozen=True)
class WithoutRows(Remedy):
    """Rows that a function flags are left out; batches are filled with the rows that follow.

    flagged: from ids [row, length + 1] to booleans [row]. A function has no text form, so this remedy exists in Python only.

    >>> from cloche.diagnose import WithoutRows
    >>> WithoutRows(lambda ids: (ids == 0).all(-1)).phrase
    'without the rows flagged'
    """

    flagged: Callable[[Tensor], Tensor]

    @property
    def phrase(self) -> str:
        return "without the rows flagged"

    def __str__(self) -> str:
        return "WithoutRows(...)"

    def apply(self, trainer: Trainer) -> str:
        trainer.source = _Filtering(trainer.source, lambda batch: self.flagged(batch.ids))
        return ""


@dataclass(frozen=True)
class WithoutUnusualRows(Remedy):
    """Rows whose loss under the weights of the checkpoint, or the entropy of their tokens, is further than `deviations` robust
    standard deviations from the median of the rows before are left out; batches are filled with the rows that follow.

    Text that is not like the rest is found without being named: noise has a higher loss, and repetition less entropy.

    >>> from cloche.diagnose import WithoutUnusualRows
    >>> WithoutUnusualRows(deviations=5.0).phrase
    'without unusual rows'
    """

    deviations: float = 4.0

    @property
    def phrase(self) -> str:
        return "without unusual rows"

    def applies(self, trainer: Trainer) -> bool:
        return trainer.step > 0  # before the first step all text is alike

    def apply(self, trainer: Trainer) -> str:
        judge = _Usual(trainer, self.deviations)
        trainer.source = _Filtering(trainer.source, judge)
        return ""


class _Skipping:
    """A source without the batches of some numbers, counted from the beginning of the run."""

    def __init__(self, source: Any, number: int, left_out: set[int]) -> None:
        self.source, self.number, self.left_out = source, number, left_out

    def next(self) -> Any:
        while True:
            batch, number = self.source.next(), self.number
            self.number += 1
            if number not in self.left_out:
                return batch

    def state(self) -> dict[str, Any]:
        return self.source.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.source.restore(state)


class _Filtering:
    """A source whose batches have only rows that are not flagged, as many as before."""

    def __init__(self, source: Any, flagged: Callable[[TokenBatch], Tensor]) -> None:
        self.source, self.flagged = source, flagged
        self.kept: list[TokenBatch] = []  # single rows

    def next(self) -> TokenBatch:
        size, empty = 0, 0
        while not size or len(self.kept) < size:
            batch = TokenBatch.of(self.source.next())
            rows = [batch.row(i) for i, bad in enumerate(self.flagged(batch).tolist()) if not bad]
            empty = 0 if rows else empty + 1
            if empty > MOST_EMPTY:
                raise CorpusEmpty(f"No row of {MOST_EMPTY:,} batches is left; flag fewer.")
            size, self.kept = len(batch), self.kept + rows
        taken, self.kept = self.kept[:size], self.kept[size:]
        return _stacked(taken)

    def state(self) -> dict[str, Any]:
        return self.source.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.source.restore(state)
        self.kept = []


def _stacked(rows: Sequence[TokenBatch]) -> TokenBatch:
    documents, weights = (
        None if getattr(rows[0], name) is None else torch.cat([getattr(row, name) for row in rows])
        for name in ("documents", "weights")
    )
    return TokenBatch(torch.cat([row.ids for row in rows]), documents, weights, rows[0].seed)


class _Usual:
    """Flags rows by what they are under the weights that a trainer has now, compared with the rows of the batches before."""

    def __init__(self, trainer: Trainer, deviations: float) -> None:
        self.trainer, self.deviations, self.net = trainer, deviations, copy.deepcopy(trainer.net)
        self.seen = torch.empty(0, 2)
        if (at := getattr(trainer.source, "at", None)) is not None:
            earlier = range(max(0, trainer.taken - REFERENCE), trainer.taken)
            self.seen = torch.cat([self.seen, *(self.measured(TokenBatch.of(at(number))) for number in earlier)])

    def measured(self, batch: TokenBatch) -> Tensor:
        """The loss of each row by itself and the entropy of its tokens, [row, 2]."""
        entropies = [entropy(row) for row in batch.ids]
        return torch.stack([self.losses(batch).float().cpu(), torch.tensor(entropies)], 1)

    @torch.no_grad()
    def losses(self, batch: TokenBatch) -> Tensor:
        with torch.random.fork_rng(), self.trainer.autocast():
            if self.net.causal:
                logits = self.net(batch[:, :-1])
                return nn.functional.cross_entropy(logits.mT.float(), batch[:, 1:], reduction="none").mean(1)
            terms = self.trainer.objective.terms
            return torch.stack([terms(self.net, batch.row(i))["loss"].value for i in range(len(batch))])

    def __call__(self, batch: TokenBatch) -> Tensor:
        found = self.measured(batch)
        seen = torch.cat([self.seen, found])
        middle = seen.median(0).values
        spread = (seen - middle).abs().median(0).values * TO_SIGMA
        odd = ((found - middle).abs() > self.deviations * spread).any(1) & (len(seen) >= FEWEST)
        self.seen = torch.cat([self.seen, found[~odd]])
        return odd


def entropy(ids: Tensor) -> float:
    """Of the tokens of a row, in nats."""
    share = ids.unique(return_counts=True)[1] / len(ids)
    return -(share * share.log()).sum().item()
