"""FISTA: the lasso by accelerated gradient steps on all signals at once, in torch, on any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.pursuit.base import Pursuit, check_amount, in_batches, packed, prepare, warn_short

_EVERY = 10  # steps between measurements of the gap


@dataclass(frozen=True)
class FISTA(Pursuit):
    """a minimising 1/2 |x - D a|^2 + penalty |a|_1 (Beck & Teboulle 2009), on any device.

    The same minimum as `Lasso`, made for a GPU. Momentum restarts where it overshoots (O'Donoghue & Candes 2015). Stops where
    the duality gap is at most `gap` |x|^2, or after `steps`, and warns of signals that do not get there. Needs no Gram: two
    products with the atoms a step.
    """

    penalty: float
    nonnegative: bool = False
    gap: float = 1e-6
    steps: int = 5_000

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        check_amount("penalty", self.penalty, zero=False)
        check_amount("gap", self.gap, zero=False)
        if self.steps < 1:
            raise ClocheError(f"FISTA cannot take {self.steps} steps: give it at least one.")
        signals = prepare(x, dictionary)
        curvature = _curvature(dictionary.atoms)
        missed = 0

        def batched(piece: Tensor) -> Code:
            nonlocal missed
            amounts, short = self._descend(piece, dictionary.atoms, curvature)
            missed += short
            return packed(amounts)

        code = in_batches(signals, dictionary, batched)
        warn_short(missed, len(signals), self.gap)
        return code

    @torch.no_grad()
    def _descend(self, x: Tensor, atoms: Tensor, curvature: float) -> tuple[Tensor, int]:
        """([n, N] the amounts, how many signals did not reach the gap)."""
        out = x.new_zeros(len(x), len(atoms))
        rows = torch.arange(len(x), device=x.device)
        a = ahead = out.clone()
        momentum = x.new_ones(len(x), 1)
        for step in range(self.steps + 1):
            if step % _EVERY == 0 or step == self.steps:
                out[rows] = a
                going = self._gap(x, atoms, a) > self.gap * x.square().sum(1)
                rows, x, a, ahead, momentum = rows[going], x[going], a[going], ahead[going], momentum[going]
                if len(rows) == 0:
                    break
            after = self._shrunk(ahead + (x - ahead @ atoms) @ atoms.T / curvature, self.penalty / curvature)
            uphill = ((ahead - after) * (after - a)).sum(1, keepdim=True) > 0
            grown = torch.where(uphill, 1.0, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
            ahead = after + torch.where(uphill, 0.0, (momentum - 1) / grown) * (after - a)
            a, momentum = after, grown
        return out, len(rows)

    def _shrunk(self, a: Tensor, by: float) -> Tensor:
        return (a - by).clamp_min(0) if self.nonnegative else torch.nn.functional.softshrink(a, by)

    def _gap(self, x: Tensor, atoms: Tensor, a: Tensor) -> Tensor:
        """[n] duality gaps, with the residual scaled to the best feasible dual point."""
        left = x - a @ atoms
        scores = left @ atoms.T
        top = (scores if self.nonnegative else scores.abs()).amax(1)
        residual, along = left.double().square().sum(1), (left.double() * x.double()).sum(1)
        feasible = torch.where(top > 0, self.penalty / top, torch.inf)
        scale = torch.minimum(feasible, (along / residual.clamp_min(1e-300)).clamp_min(0))
        primal = 0.5 * residual + self.penalty * a.double().abs().sum(1)
        return primal - scale * along + 0.5 * scale.square() * residual


def _curvature(atoms: Tensor) -> float:
    """The largest eigenvalue of the Gram, and a little more than rounding on top."""
    small = atoms @ atoms.T if len(atoms) <= atoms.shape[1] else atoms.T @ atoms
    return float(torch.linalg.eigvalsh(small.double())[-1]) * 1.001
