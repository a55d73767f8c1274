"""Training batches with an exact cursor: the batch of step 12,345 can be computed without replaying the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloche.data.curriculum import Curriculum
from cloche.data.mixture import Turns, shares
from cloche.data.packed import PackedTokens
from cloche.data.permutation import mix, permuted
from cloche.data.rows import Layout, Packing, Rows, Stream
from cloche.errors import ArgumentInvalid, ArgumentRange, CorpusEmpty, PartInvalid, ResumeRefused

ORDER, SHIFT, OF_SOURCE, OF_STAGE = 1, 2, 4, 5  # what a seed is for; 3 is that of an objective's choices


@dataclass(frozen=True)
class Draw:
    """How rows are made and drawn, where it is not the default.

    packing: how documents become rows. weights: of the sources of a mixture, any numbers above zero; None: their numbers of
    tokens. curriculum: which rows come first; steps: those of the run, by which it is timed.

    >>> from cloche.data import BestFit, Draw
    >>> Draw(BestFit(), weights=(3, 1)).weights
    (3, 1)
    """

    packing: Packing = Stream()
    weights: Sequence[float] | None = None
    curriculum: Curriculum | None = None
    steps: int = 0

    def identity(self) -> dict[str, Any]:
        """What a cursor belongs to, as plain JSON values; nothing where it is the default."""
        found: dict[str, Any] = {} if self.packing == Stream() else {"packing": self.packing.to_line()}
        if self.weights is not None:
            found["weights"] = [float(weight) for weight in self.weights]
        return found if self.curriculum is None else found | {"curriculum": self.curriculum.to_line()}


class Batches:
    """Endless batches of rows of packed tokens; a pure function of (tokens, length, batch, seed, draw, step).

    An epoch visits every row of a source in random order, and the next epoch in another. By default (`Stream`) it treats
    the split as a ring, cut from a random place into len(tokens) // length windows that do not overlap, so that each token is
    a target once an epoch; fewer than `length` tokens are left over, different ones in each epoch. Epochs follow each
    other without a gap: a batch may span two. The sources of a mixture have epochs of their own, so that small ones repeat.

    >>> from pathlib import Path
    >>> from cloche.data import Batches, PackedTokens, prepare
    >>> _ = Path("notes.txt").write_text("the cat sat on the mat. " * 400)
    >>> _ = prepare(["notes.txt"], "corpus", vocab=270, validation=0.1)
    >>> batches = Batches(PackedTokens.open("corpus", "train"), length=8, batch=2, seed=0)
    >>> batches.next().shape, batches.state()["step"]
    ((2, 9), 1)
    >>> (batches.at(0) == batches.at(0)).all()
    np.True_
    """

    def __init__(self, tokens: PackedTokens, length: int, batch: int, seed: int = 0, draw: Draw = Draw()) -> None:
        """Raises ClocheError if the split has fewer than `batch` windows of `length` tokens, a source of a mixture none, or
        a curriculum begins with fewer rows than a batch."""
        if length < 1 or batch < 1:
            raise ArgumentRange(f"A batch of {batch} windows of {length} tokens is empty; both must be at least 1.")
        least = draw.packing.least(batch, length)
        if len(tokens) < least:
            raise CorpusEmpty(
                f"The corpus is smaller than one batch: {len(tokens)} tokens, but {batch} windows of {length} tokens take "
                f"{least}; give more text, or a smaller batch or length."
            )
        self._tokens, self._length, self._batch, self._seed, self._draw = tokens, length, batch, seed, draw
        self._step, self._steps = 0, draw.steps
        parts = tokens.parts
        if draw.weights is not None and len(draw.weights) != len(parts):
            raise ArgumentInvalid(f"There are {len(draw.weights)} weights and {len(parts)} sources; give one for each.")
        self._turns = Turns(shares([len(part) for part in parts] if draw.weights is None else draw.weights))
        layouts = [_checked_layout(draw.packing, part, length) for part in parts]
        seeds = [seed if len(parts) == 1 else mix(seed, i, OF_SOURCE) for i in range(len(parts))]
        self.sources = [
            _Rows(layout, seed, _checked_order(draw.curriculum, layout, part) if draw.curriculum else None)
            for layout, seed, part in zip(layouts, seeds, parts, strict=True)
        ]
        self.names = [part.name or str(i) for i, part in enumerate(parts)]
        self.windows_per_epoch = sum(layout.count for layout in layouts)
        if draw.curriculum is not None:
            self._require_rows(draw.curriculum)

    def _require_rows(self, curriculum: Curriculum) -> None:
        _, share = _checked_stage(curriculum, 0, self._steps)
        pools = [source.pool(share) for source in self.sources]
        if sum(pools) < self._batch or not all(pools):
            raise CorpusEmpty(
                f"{curriculum} begins with {share:.1%} of {self.windows_per_epoch:,} rows, which leaves {sum(pools):,}, fewer "
                f"than one batch of {self._batch}; begin with more, give more text, or set a smaller batch or length."
            )

    def __repr__(self) -> str:
        size = f"{self._batch} windows of {self._length} tokens, {self.windows_per_epoch:,} windows per epoch"
        return f"Batches({size}, seed {self._seed}, step {self._step:,})"

    def next(self) -> np.ndarray:
        """The next batch, int64 [batch, length + 1]: inputs are [:, :-1], targets [:, 1:]."""
        return self.next_rows().ids

    def next_rows(self) -> Rows:
        """The next batch, with the documents of its inputs and the weights of its targets."""
        rows = self.rows(self._step)
        self._step += 1
        return rows

    def at(self, step: int) -> np.ndarray:
        """The batch of any step, counted from 0; the cursor does not move."""
        return self.rows(step).ids

    def rows(self, step: int) -> Rows:
        """As `at`, with the documents of its inputs and the weights of its targets."""
        first = step * self._batch
        sources, numbers = self._turns.draw(np.arange(first, first + self._batch))
        begin, share = _checked_stage(self._draw.curriculum, step, self._steps) if self._draw.curriculum else (0, 1.0)
        ids = np.empty((self._batch, self._length + 1), dtype=np.int64)
        documents = np.empty((self._batch, self._length), dtype=np.int64)
        weights = np.ones((self._batch, self._length), dtype=np.float32)
        padded = False
        for i in np.unique(sources).tolist():
            here = sources == i
            before = self._turns.drawn(i, begin * self._batch)
            for place, rows in self.sources[i].read(numbers[here] - before, share, begin):
                places = np.flatnonzero(here)[place]
                if rows.ids.shape != (shape := (len(places), self._length + 1)):
                    raise PartInvalid(
                        f"{self._draw.packing} gives rows of shape {list(rows.ids.shape)} instead of {list(shape)}: its layout "
                        "must give `length` + 1 ids for each place."
                    )
                ids[places], documents[places] = rows.ids, rows.documents
                if rows.weights is not None:
                    weights[places], padded = rows.weights, True
        return Rows(ids, documents, weights if padded else None)

    @property
    def step(self) -> int:
        """How many batches there were."""
        return self._step

    @property
    def epoch(self) -> float:
        """The number of epochs so far: rows drawn over rows there are."""
        return self._step * self._batch / self.windows_per_epoch

    @property
    def epochs(self) -> dict[str, float]:
        """The number of epochs of each source so far, by its name."""
        rows = self._step * self._batch
        drawn = [self._turns.drawn(i, rows) for i in range(len(self.sources))]
        return {
            name: count / source.layout.count
            for name, count, source in zip(self.names, drawn, self.sources, strict=True)
        }

    @property
    def shares(self) -> dict[str, float]:
        """The share of the rows that comes from each source, by its name."""
        return dict(zip(self.names, self._turns.shares, strict=True))

    def state(self) -> dict[str, Any]:
        """The cursor, as plain JSON values."""
        timed = {"steps": self._steps} if self._draw.curriculum else {}
        return {"step": self._step} | self._identity() | timed

    def restore(self, state: dict[str, Any]) -> None:
        """Continues exactly where `state` was taken. Raises ClocheError if it was taken from other batches."""
        here = self._identity()
        for key in [*here, *(key for key in ("packing", "weights", "curriculum") if key in state and key not in here)]:
            if state.get(key) != here.get(key):
                raise ResumeRefused(
                    f"The data cursor was saved with {key} {state.get(key)}, but here it is {here.get(key)}; "
                    "resume with the same data and recipe."
                )
        self._step = int(state["step"])
        self._steps = int(state.get("steps", self._steps))

    def _identity(self) -> dict[str, Any]:
        plain = {"tokens": len(self._tokens), "length": self._length, "batch": self._batch, "seed": self._seed}
        return plain | self._draw.identity()


def _checked_layout(packing: Packing, tokens: PackedTokens, length: int) -> Layout:
    """A packing's layout. Raises ClocheError if it has no rows."""
    layout = packing.layout(tokens, length)
    if not isinstance(layout, Layout) or not layout.count > 0:
        raise PartInvalid(
            f"{packing} makes no rows of {tokens.name or 'the corpus'}: `layout` must return a Layout with some."
        )
    return layout


def _checked_order(curriculum: Curriculum, layout: Layout, tokens: PackedTokens) -> np.ndarray:
    """A curriculum's order of the rows. Raises ClocheError unless each is in it once."""
    order = np.asarray(curriculum.order(layout, tokens))
    each_once = (
        order.shape == (layout.count,)
        and order.dtype.kind in "iu"
        and 0 <= order.min() <= order.max() < layout.count
        and np.bincount(order, minlength=layout.count).all()
    )
    if not each_once:
        raise PartInvalid(f"{curriculum} must put each of the {layout.count:,} rows into its order once, and does not.")
    return order


def _checked_stage(curriculum: Curriculum, step: int, steps: int) -> tuple[int, float]:
    """A curriculum's stage. Raises ClocheError for one that begins later, or a share that is none."""
    begin, share = curriculum.stage(step, steps)
    if not (0 <= begin <= step and 0 <= share <= 1):
        raise PartInvalid(
            f"{curriculum} says of step {step} that its stage began at {begin} with a share of {share}: a stage begins no "
            "later than its steps, and its share is from 0 to 1."
        )
    return begin, share


class _Rows:
    """The rows of one source, in the order in which they are visited."""

    def __init__(self, layout: Layout, seed: int, order: np.ndarray | None) -> None:
        self.layout, self._seed, self._order = layout, seed, order

    def pool(self, share: float) -> int:
        """How many rows a share of them is."""
        return round(share * self.layout.count)

    def read(self, numbers: np.ndarray, share: float, stage: int) -> Iterator[tuple[np.ndarray, Rows]]:
        """Rows by their numbers since a stage began, among the first `share` of the order: which of the numbers, and the
        rows."""
        order = None if share >= 1 else self._order
        count = self.layout.count if order is None else self.pool(share)
        salt = () if order is None else (OF_STAGE, stage)
        epochs, places = np.divmod(numbers, count)
        for epoch in np.unique(epochs).tolist():
            here = np.flatnonzero(epochs == epoch)
            visited = permuted(places[here], count, mix(self._seed, epoch, ORDER, *salt))
            if order is None:
                yield here, self.layout.read(visited, mix(self._seed, epoch, SHIFT))
            else:
                yield here, self.layout.read(order[visited], 0)
