"""Curricula: easy rows first, and more of them as training goes on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from cloche.data.difficulty import Difficulty, DocumentLength, easiest_first
from cloche.data.packed import PackedTokens
from cloche.data.rows import Layout
from cloche.part import Part, within


@dataclass(frozen=True)
class Curriculum(Part, ABC):
    """Base of curricula: the order of the rows, and which share of them is drawn from at which step. A subclass defines
    `order` and `stage`.

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> from cloche.data import Curriculum
    >>> @dataclass(frozen=True)
    ... class FirstHalfFirst(Curriculum):
    ...     def order(self, layout, tokens):
    ...         return np.arange(layout.count)
    ...     def stage(self, step, steps):
    ...         return (0, 0.5) if step < steps // 2 else (steps // 2, 1.0)
    >>> FirstHalfFirst().stage(70, 100)
    (50, 1.0)
    """

    @abstractmethod
    def order(self, layout: Layout, tokens: PackedTokens) -> np.ndarray:
        """The numbers of a source's rows, int64 [layout.count], in the order in which they come into use."""

    @abstractmethod
    def stage(self, step: int, steps: int) -> tuple[int, float]:
        """The stage that a step, from 0, of a run of `steps` belongs to: its first step, and the share of the rows that is
        drawn from."""


@dataclass(frozen=True)
class Easiest(Curriculum):
    """The easiest rows first: training begins with a share of `start`, which grows in equal `stages` to all of them by a
    share `until` of the run's steps ("competence", 1903.09848, with a linear schedule).

    Within a stage every row of its pool is visited before one comes again. A run that is lengthened or shortened later
    keeps the stages it began with.

    by: how hard a row is.

    >>> from cloche.data import Easiest
    >>> curriculum = Easiest(start=0.2, until=0.5, stages=4)
    >>> [curriculum.stage(step, 100) for step in (0, 13, 49, 50)]
    [(0, 0.2), (13, 0.4), (38, 0.8), (50, 1.0)]
    """

    by: Difficulty = DocumentLength()
    start: float = 0.2
    until: float = 0.5
    stages: int = 10

    def __post_init__(self) -> None:
        within(self, start=(0, 1), until=(0, 1), stages=(1, 10_000))

    def order(self, layout: Layout, tokens: PackedTokens) -> np.ndarray:
        return easiest_first(layout, tokens, self.by)

    def stage(self, step: int, steps: int) -> tuple[int, float]:
        if self.start == 1:
            return 0, 1.0
        firsts = [math.ceil(i * self.until * steps / self.stages - 1e-9) for i in range(self.stages + 1)]
        i = bisect_right(firsts, step) - 1
        return firsts[i], self.start + (1 - self.start) * i / self.stages
