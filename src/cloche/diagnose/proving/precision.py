"""The remedy of rounding: weights and updates in full precision."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from cloche.diagnose.proving.remedy import Remedy, rebuild_optimizer
from cloche.model import Network, load_network
from cloche.train import Optimizer, Trainer

MANTISSA = 23  # bits of float32
FEW = 8  # low bits that are zero in all weights: fewer than float32 has are kept


@dataclass(frozen=True)
class FullPrecision(Remedy):
    """In float32: matrix products of a run in bf16, and updates of an optimiser that keeps the weights in fewer bits, in whose
    place the one inside it is taken.

    >>> from cloche.diagnose import FullPrecision
    >>> FullPrecision().phrase
    'in full precision'
    """

    @property
    def phrase(self) -> str:
        return "in full precision"

    def applies(self, trainer: Trainer) -> bool:
        return trainer.setup.precision != "fp32" or (_inside(trainer.optimizer.part) is not None and _rounded(trainer))

    def apply(self, trainer: Trainer) -> str:
        trainer.setup = dataclasses.replace(trainer.setup, precision="fp32")
        inner = _inside(trainer.optimizer.part)
        rebuild_optimizer(trainer, inner)
        if inner is None:
            return ""
        return f"{type(inner).__name__} in place of {type(trainer.recipe.optimizer).__name__}"


def _inside(part: Optimizer) -> Optimizer | None:
    """The optimiser that another one is made of; None if it is one itself."""
    for field in dataclasses.fields(part):
        if isinstance(inner := getattr(part, field.name), Optimizer):
            return dataclasses.replace(inner, clip=part.clip, average=part.average, groups=part.groups)
    return None


def _rounded(trainer: Trainer) -> bool:
    """Whether the weights that training gave have fewer bits than float32."""
    if trainer.step > 0:
        return _kept_bits(trainer.net) <= MANTISSA - FEW
    last = trainer.run.checkpoints()[-1]
    return last.step > 0 and _kept_bits(load_network(last.path, check_files=False, check_sites=False)) <= MANTISSA - FEW


def _kept_bits(net: Network) -> int:
    """Bits of mantissa that some value of a matrix uses."""
    used = 0
    for p in net.parameters():
        if p.ndim > 1 and p.dtype == torch.float32:
            bits = p.detach().cpu().contiguous().view(torch.int32).numpy()
            used |= int(np.bitwise_or.reduce(bits, axis=None)) & ((1 << MANTISSA) - 1)
    return MANTISSA - ((used & -used).bit_length() - 1) if used else 0
