"""Data parallelism over `torch.distributed`: sharing a batch, and the collectives that make the result that of one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from cloche.errors import SettingConflict


class Ranks:
    """The processes of `torch.distributed`'s default group, or this process alone if there is none."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch that all processes have read."""
        if len(batch) % self.world:
            raise SettingConflict(
                f"A batch of {len(batch):,} signals cannot be divided evenly among {self.world} processes: choose a multiple."
            )
        return batch[self.rank :: self.world]

    def mean(self, value: Tensor) -> Tensor:
        """All-reduces `value` to its mean over processes, in place."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value

    def total(self, counts: Tensor) -> Tensor:
        """All-reduces `counts` to their sum over processes, in place."""
        if self.world > 1:
            dist.all_reduce(counts)
        return counts

    def gather(self, values: Tensor) -> Tensor:
        """Concatenates the `values` [m] of all processes; m may differ."""
        if self.world == 1:
            return values
        sizes = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(values)], device=values.device))
        most = max(int(size) for size in sizes)
        pieces = [values.new_empty(most) for _ in sizes]
        dist.all_gather(pieces, torch.cat([values, values.new_zeros(most - len(values))]))
        return torch.cat([piece[: int(size)] for piece, size in zip(pieces, sizes, strict=True)])


@contextmanager
def process_group(backend: str = "gloo") -> Iterator[Ranks]:
    """Context manager: joins the process group that torchrun started, until the block ends."""
    dist.init_process_group(backend)
    try:
        yield Ranks()
    finally:
        dist.destroy_process_group()
