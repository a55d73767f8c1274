"""Activations as a stream of equal batches, whatever the sizes they arrive in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from cloche.errors import NotFinite, SignalsShape


def epochs(activations: Tensor, batch: int, seed: int, among: Tensor | None = None) -> Iterator[Tensor]:
    """Endless shuffled passes over `activations` [n, d] (where given, over the rows `among` alone), `batch` rows at a time, all
    of them where there are fewer."""
    rng = torch.Generator().manual_seed(seed)
    rows = len(activations) if among is None else len(among)
    while True:
        order = torch.randperm(rows, generator=rng)
        for start in range(0, max(rows - batch, 0) + 1, batch):
            chosen = order[start : start + batch]
            yield activations[chosen if among is None else among[chosen]]


def rebatch(pieces: Iterable[Tensor], batch: int) -> Iterator[Tensor]:
    """The rows of `pieces` [n_i, d] in order, `batch` at a time; a last short batch is left out.

    Holds less than one piece and one batch. Refuses pieces that are not [n, d] with one d, or that hold NaN or infinities.
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
    """Refuses a piece of a stream, `seen` rows in, that is not [n, width] (any width where None) or holds NaN or infinities."""
    if piece.ndim != 2 or (width is not None and piece.shape[1] != width):
        raise SignalsShape(
            f"A piece of activations after {seen:,} rows has shape {list(piece.shape)}, but every piece must be "
            f"[n, {width or 'width'}]: stream one site of one model, positions flattened."
        )
    if not torch.isfinite(piece).all():
        bad = int((~torch.isfinite(piece).all(1)).nonzero()[0])
        raise NotFinite(
            f"Activation {seen + bad:,} of the stream holds NaN or infinite numbers: train the dictionary on a checkpoint "
            "from before the model broke."
        )
