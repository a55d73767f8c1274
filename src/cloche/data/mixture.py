"""Mixtures: several sources of text, each with its share of every batch."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloche.errors import ArgumentInvalid, SettingConflict, SettingInvalid
from cloche.part import Part

LONGEST = 65_536  # rows after which the order of the sources repeats
EXACT = 1e-9  # rows in a period that are this close to whole numbers are taken for them


@dataclass(frozen=True)
class Source(Part):
    """One source of a mixture: files, how they are read, and its weight.

    paths: files and folders. weight: its share of the rows relative to the other sources'; None: its number of tokens.
    glob, field, encoding: as in [data]. name: in logs; by default its first path.

    >>> from cloche.data import Source
    >>> Source(paths=("books",), weight=2.0).to_line()
    "Source(paths=['books'], weight=2.0, field='text', name='')"
    """

    paths: tuple[str, ...]
    weight: float | None = None
    glob: str | None = None
    field: str = "text"
    encoding: str | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.paths:
            raise SettingInvalid("A Source has no paths; name the files or folders of its text.")
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise SettingInvalid(
                f"{self.called} has weight {self.weight}, which must be a finite number above zero; leave out a source that "
                "is not to be drawn."
            )

    @property
    def called(self) -> str:
        """Its name in logs."""
        return self.name or self.paths[0]


@dataclass(frozen=True)
class Mixture(Part):
    """Several sources of text. Each row comes from one of them: in proportion to weight ** (1 / temperature), or, where none
    has a weight, to its number of tokens ** (1 / temperature).

    >>> from cloche.data import Mixture, Source
    >>> mixture = Mixture((Source(("code",), weight=3), Source(("books",), weight=1)))
    >>> mixture.shares(tokens=[100, 100])
    [0.75, 0.25]
    >>> [round(share, 3) for share in Mixture((Source(("en",)), Source(("is",))), temperature=2).shares([900, 100])]
    [0.75, 0.25]
    """

    sources: tuple[Source, ...]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.sources:
            raise SettingInvalid("A Mixture has no sources; name at least one.")
        weighed = [source for source in self.sources if source.weight is not None]
        if weighed and len(weighed) < len(self.sources):
            without = next(source for source in self.sources if source.weight is None)
            raise SettingConflict(
                f"{without.called} has no weight and {weighed[0].called} has one; give every source of a mixture one, or none."
            )
        names = [source.called for source in self.sources]
        if twice := [name for name in names if names.count(name) > 1]:
            raise SettingConflict(f"Two sources of the mixture are called {twice[0]!r}; give each a name of its own.")
        shares([1.0], self.temperature)
        if weighed:
            self.shares([1] * len(self.sources))

    def shares(self, tokens: Sequence[int]) -> list[float]:
        """The share of the rows from each source, given its number of tokens."""
        if len(tokens) != len(self.sources):
            raise ArgumentInvalid(
                f"The mixture has {len(self.sources)} sources, and the packed text {len(tokens)}; prepare it with this mixture."
            )
        amounts = [count if s.weight is None else s.weight for s, count in zip(self.sources, tokens, strict=True)]
        found = shares(amounts, self.temperature)
        if not all(found):
            raise SettingInvalid(
                f"{self.sources[found.index(0.0)].called} would never be drawn: its share is zero, with {min(amounts):g} "
                f"beside {max(amounts):g} at a temperature of {self.temperature:g}; raise its weight or the temperature."
            )
        return found


def shares(amounts: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Shares of the rows: proportional to amount ** (1 / temperature), where amounts are weights, or numbers of tokens.

    A temperature of 1 leaves the proportions as they are, a higher one evens them out (1907.05019, section 4.2; mT5,
    2010.11934, writes it as the exponent 1 / temperature). Raises ClocheError for amounts or a
    temperature that are not above zero.

    >>> from cloche.data.mixture import shares
    >>> shares([900, 100]), shares([900, 100], temperature=1e6)[0] < 0.51
    ([0.9, 0.1], True)
    """
    if not 0 < temperature < math.inf:
        raise SettingInvalid(
            f"A temperature of {temperature} of a mixture must be a finite number above zero, such as 1."
        )
    if not amounts or not all(0 < amount < math.inf for amount in amounts):
        raise SettingInvalid("The weights of a mixture must be finite numbers above zero.")
    logs = np.log(np.asarray(amounts, dtype=np.float64)) / temperature
    powers = np.exp(logs - logs.max())
    found: list[float] = (powers / powers.sum()).tolist()
    return found


class Turns:
    """Which source each row comes from: a fixed order that repeats, so that any row's is known without the others.

    Rows are numbered from 0 over the whole run. After every row each source has had its share of them to within less than one
    row: the j-th row of a source with share w is one of those from (j - 1) / w to j / w, earliest deadline first (Baruah et
    al. 1996, "Proportionate progress"). Shares are rounded to multiples of 1 / `period`: the shortest that gives them exactly
    if there is one up to 65,536, else that.

    >>> from cloche.data import Turns
    >>> turns = Turns([0.75, 0.25])
    >>> turns.period, turns.draw(range(8))[0].tolist()
    (4, [0, 0, 0, 1, 0, 0, 0, 1])
    """

    def __init__(self, wanted: Sequence[float]) -> None:
        self.counts = _whole(np.asarray(wanted, dtype=np.float64))
        self.period = int(self.counts.sum())
        self._source = _schedule(self.counts.tolist(), self.period)
        places = [np.flatnonzero(self._source == i) for i in range(len(self.counts))]
        self._places = places
        self._before = np.empty(self.period, dtype=np.int64)  # rows that the source of each had before it in the period
        for place in places:
            self._before[place] = np.arange(len(place))

    @property
    def shares(self) -> list[float]:
        """The shares as they are drawn."""
        found: list[float] = (self.counts / self.period).tolist()
        return found

    def draw(self, numbers: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each of these rows, and how many rows of that source came before it."""
        periods, places = np.divmod(np.asarray(numbers, dtype=np.int64), self.period)
        sources = self._source[places]
        return sources, periods * self.counts[sources] + self._before[places]

    def drawn(self, source: int, rows: int) -> int:
        """How many of the first `rows` rows come from a source."""
        periods, place = divmod(rows, self.period)
        return periods * int(self.counts[source]) + int(np.searchsorted(self._places[source], place))


def _whole(wanted: np.ndarray) -> np.ndarray:
    """Whole numbers of rows in a period, at least one each."""
    periods = np.arange(1, LONGEST + 1)
    exact = np.ones(LONGEST, dtype=bool)
    for share in wanted:
        rows = share * periods
        exact &= (np.abs(rows - np.round(rows)) <= EXACT) & (np.round(rows) >= 1)
    if exact.any():
        return np.round(wanted * periods[np.argmax(exact)]).astype(np.int64)
    counts = np.maximum(1, np.floor(wanted * LONGEST)).astype(np.int64)
    while (left := LONGEST - int(counts.sum())) != 0:
        lacking = wanted * LONGEST - counts
        lacking[counts == 1] = np.maximum(lacking[counts == 1], 0)  # none is left out altogether
        counts[np.argmax(lacking) if left > 0 else np.argmin(lacking)] += np.sign(left)
    return counts


def _schedule(counts: list[int], period: int) -> np.ndarray:
    """The source of each row of a period: of those whose next row may come, the one that must come first."""
    order = np.empty(period, dtype=np.int64)
    waiting = [(0, i) for i in range(len(counts))]  # (from which row on its next row may come, source)
    ready: list[tuple[int, int]] = []  # (before which row its next row must have come, source)
    had = [0] * len(counts)
    for row in range(period):
        while waiting and waiting[0][0] <= row:
            _, i = heapq.heappop(waiting)
            heapq.heappush(ready, (-(-(had[i] + 1) * period // counts[i]), i))
        _, i = heapq.heappop(ready)
        order[row] = i
        had[i] += 1
        if had[i] < counts[i]:
            heapq.heappush(waiting, (had[i] * period // counts[i], i))
    return order
