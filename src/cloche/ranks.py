"""One batch shared among processes: what each must know of the others so that all do what one would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from cloche.errors import SettingConflict


class Ranks:
    """The processes of `torch.distributed`'s default group, or this one alone where there is none."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch that all have read."""
        if len(batch) % self.world:
            raise SettingConflict(
                f"A batch of {len(batch):,} signals cannot be shared evenly by {self.world} processes: choose a multiple."
            )
        return batch[self.rank :: self.world]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of everybody's `value`, in its place."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value

    def total(self, counts: Tensor) -> Tensor:
        """The sum of everybody's `counts`, in their place."""
        if self.world > 1:
            dist.all_reduce(counts)
        return counts

    def gather(self, values: Tensor) -> Tensor:
        """Everybody's `values` [m], however many each has, in one row."""
        if self.world == 1:
            return values
        sizes = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(values)], device=values.device))
        most = max(int(size) for size in sizes)
        pieces = [values.new_empty(most) for _ in sizes]
        dist.all_gather(pieces, torch.cat([values, values.new_zeros(most - len(values))]))
        return torch.cat([piece[: int(size)] for piece, size in zip(pieces, sizes, strict=True)])


@contextmanager
def joined(backend: str = "gloo") -> Iterator[Ranks]:
    """Joins the processes that torchrun started, until the block ends."""
    dist.init_process_group(backend)
    try:
        yield Ranks()
    finally:
        dist.destroy_process_group()
