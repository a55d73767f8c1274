"""Cuts a stream of activations into batches of equal size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from cloche.errors import NotFinite, SignalsShape


def epochs(activations: Tensor, batch: int, seed: int, among: Tensor | None = None) -> Iterator[Tensor]:
    """Yields batches of `batch` rows of `activations` [n, d] in shuffled passes, without end; all rows at once if there are
    fewer. `among` restricts the passes to these rows."""
    rng = torch.Generator().manual_seed(seed)
    rows = len(activations) if among is None else len(among)
    while True:
        order = torch.randperm(rows, generator=rng)
        for start in range(0, max(rows - batch, 0) + 1, batch):
            chosen = order[start : start + batch]
            yield activations[chosen if among is None else among[chosen]]


def rebatch(pieces: Iterable[Tensor], batch: int) -> Iterator[Tensor]:
    """Yields the rows of `pieces` [n_i, d] in order, `batch` at a time; drops a last short batch.

    Holds less than one piece and one batch in memory. Raises if pieces are not [n, d] with the same d, or contain NaN or
    infinity.
    """
    held: list[Tensor] = []
    rows, seen = 0, 0
    width: int | None = None
    for piece in pieces:
        check_activations(piece, width, seen)
        width = piece.shape[1]
        seen += len(piece)
        held.append(piece)
        rows += len(piece)
        while rows >= batch:
            joined = torch.cat(held) if len(held) > 1 else held[0]
            yield joined[:batch]
            held = [joined[batch:]]
            rows -= batch


def check_activations(piece: Tensor, width: int | None, seen: int = 0) -> None:
    """Raises if a piece that follows `seen` rows is not [n, width] (None: any width), or contains NaN or infinity."""
    if piece.ndim != 2 or (width is not None and piece.shape[1] != width):
        raise SignalsShape(
            f"A piece of activations after {seen:,} rows has shape {list(piece.shape)}, but every piece must be [n, "
            f"{width or 'width'}]: stream one site of one model, with positions flattened."
        )
    if not torch.isfinite(piece).all():
        bad = int((~torch.isfinite(piece).all(1)).nonzero()[0])
        raise NotFinite(
            f"Activation {seen + bad:,} of the stream contains NaN or infinity: train the dictionary on a checkpoint from "
            "before the model broke."
        )
