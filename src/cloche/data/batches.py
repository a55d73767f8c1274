"""Training batches with an exact cursor: the batch of step 12,345 can be computed without replaying the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from cloche.data.packed import PackedTokens
from cloche.data.permutation import mix, permuted
from cloche.errors import ArgumentRange, CorpusEmpty, ResumeRefused


class Batches:
    """Endless batches of windows of packed tokens; a pure function of (tokens, length, batch, seed, step).

    An epoch treats the split as a ring, cuts it from a random place into len(tokens) // length windows that do not
    overlap, and visits them in random order (both from the seed), so that each token is a target once per epoch.
    Fewer than `length` tokens are left over, different ones in each epoch. Epochs follow each other without a gap: a
    batch may span two.

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

    def __init__(self, tokens: PackedTokens, length: int, batch: int, seed: int = 0) -> None:
        """Raises ClocheError if the split has fewer than `batch` windows of `length` tokens."""
        if length < 1 or batch < 1:
            raise ArgumentRange(f"A batch of {batch} windows of {length} tokens is empty; both must be at least 1.")
        if len(tokens) < batch * length + 1:
            raise CorpusEmpty(
                f"The corpus is smaller than one batch: {len(tokens)} tokens, but {batch} windows of {length} tokens take "
                f"{batch * length + 1}; give more text, or a smaller batch or length."
            )
        self._tokens, self._length, self._batch, self._seed = tokens, length, batch, seed
        self._step = 0
        self.windows_per_epoch = len(tokens) // length

    def __repr__(self) -> str:
        size = f"{self._batch} windows of {self._length} tokens, {self.windows_per_epoch:,} windows per epoch"
        return f"Batches({size}, seed {self._seed}, step {self._step:,})"

    def next(self) -> np.ndarray:
        """The next batch, int64 [batch, length + 1]: inputs are [:, :-1], targets [:, 1:]."""
        x = self.at(self._step)
        self._step += 1
        return x

    def at(self, step: int) -> np.ndarray:
        """The batch of any step, counted from 0; the cursor does not move."""
        numbers = np.arange(step * self._batch, (step + 1) * self._batch)
        return np.stack([self._window(start) for start in self._starts(numbers)])

    @property
    def step(self) -> int:
        """How many batches there were."""
        return self._step

    @property
    def epoch(self) -> float:
        """The number of epochs so far."""
        return self._step * self._batch / self.windows_per_epoch

    def state(self) -> dict[str, Any]:
        """The cursor, as plain JSON values."""
        return {"step": self._step} | self._identity()

    def restore(self, state: dict[str, Any]) -> None:
        """Continues exactly where `state` was taken. Raises ClocheError if it was taken from other batches."""
        for key, here in self._identity().items():
            if state.get(key) != here:
                raise ResumeRefused(
                    f"The data cursor was saved with {key} {state.get(key)}, but here it is {here}; "
                    "resume with the same data and recipe."
                )
        self._step = int(state["step"])

    def _identity(self) -> dict[str, Any]:
        return {"tokens": len(self._tokens), "length": self._length, "batch": self._batch, "seed": self._seed}

    def _starts(self, numbers: np.ndarray) -> list[int]:
        """The first token of each window; windows are numbered across epochs."""
        starts = np.empty(len(numbers), dtype=np.int64)
        epochs, places = np.divmod(numbers, self.windows_per_epoch)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            order = permuted(places[here], self.windows_per_epoch, mix(self._seed, epoch, 1))
            cut = mix(self._seed, epoch, 2) % len(self._tokens)
            starts[here] = (cut + order * self._length) % len(self._tokens)
        return starts.tolist()

    def _window(self, start: int) -> np.ndarray:
        wanted, there = self._length + 1, len(self._tokens) - start
        if wanted <= there:
            return self._tokens.window(start, wanted)
        return np.concatenate([self._tokens.window(start, there), self._tokens.window(0, wanted - there)])
