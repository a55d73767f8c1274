"""Weights packed in four bits with a scale for every 32 of them: the OCP's MXFP4 (2310.10537), as GPT-OSS is published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cloche.errors import WeightsInvalid
from cloche.model.huggingface.shards import STAGE, Stored, check_reach

BLOCKS, SCALES = "_blocks", "_scales"
GROUP = 32  # numbers that share a scale
BIAS, NAN = 127, 255  # of a scale's exponent; the exponent that stands for no number
VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


@dataclass(frozen=True)
class Packed:
    """One stack of matrices in MXFP4: blocks [item, row, group, 16] of two numbers a byte, scales [item, row, group].

    It stands for a tensor [item, column, row] in bf16, which holds every one of its numbers exactly.
    """

    blocks: Stored
    scales: Stored

    def __post_init__(self) -> None:
        shape = self.blocks.shape
        good = {self.blocks.kind, self.scales.kind} == {"U8"} and len(shape) == 4 and shape[-1] * 2 == GROUP
        if not good or shape[:-1] != self.scales.shape:
            raise WeightsInvalid(
                f"{self.file}: {self.blocks.name} {self.blocks.kind} {shape} and {self.scales.name} {self.scales.kind} "
                f"{self.scales.shape} are not MXFP4 weights, [item, row, group, 16] and [item, row, group]; nothing was loaded."
            )

    @property
    def file(self) -> Path:
        """Where its blocks are."""
        return self.blocks.file

    @property
    def name(self) -> str:
        """What the tensor it stands for is called."""
        return self.blocks.name.removesuffix(BLOCKS)

    @property
    def shape(self) -> list[int]:
        """Of the tensor it stands for: [item, column, row]."""
        items, rows, groups, _ = self.blocks.shape
        return [items, groups * GROUP, rows]

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    def read_into(self, place: Tensor, item: int | None = None) -> None:
        """Fill `place`, whose first axis are the columns and whose others, in their order, the rows."""
        rows = place.movedim(0, -1)
        groups = self.blocks.shape[2]
        each = rows[0].numel() // (groups * GROUP)  # rows of the matrix in one of the place
        first = (item or 0) * self.blocks.shape[1]
        step = max(1, STAGE // (each * groups * GROUP * 4))
        for i in range(0, len(rows), step):
            part = rows[i : i + step]
            start, count = first + i * each, len(part) * each
            packed = self.blocks.bytes_at(start * groups * GROUP // 2, count * groups * GROUP // 2)
            scales = self.scales.bytes_at(start * groups, count * groups)
            if bool((scales == NAN).any()):
                raise WeightsInvalid(f"{self.scales.file}: {self.scales.name} holds a scale that is no number.")
            values = unpacked(packed.view(-1, GROUP // 2), scales)
            part.copy_(values.view(part.shape))
            check_reach(values.view(part.shape), part, self)


def unpacked(blocks: Tensor, scales: Tensor) -> Tensor:
    """fp32 [group, 32] of blocks uint8 [group, 16], the low four bits first, and scales uint8 [group]."""
    pairs = torch.stack([blocks & 15, blocks >> 4], -1).flatten(1)
    return torch.ldexp(VALUES[pairs.int()], scales.int()[:, None] - BIAS)


def with_packed(tensors: dict[str, Stored]) -> dict[str, Stored | Packed]:
    """The tensors with every pair of blocks and scales as the one that they stand for."""
    out: dict[str, Stored | Packed] = dict(tensors)
    for name in tensors:
        scales = name.removesuffix(BLOCKS) + SCALES
        if name.endswith(BLOCKS) and scales in tensors:
            out[name.removesuffix(BLOCKS)] = Packed(out.pop(name), out.pop(scales))  # type: ignore[arg-type]
    return out
