"""FISTA: the lasso by accelerated gradient steps on all signals at once, in torch, on any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import SettingRange
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.pursuit.base import Pursuit, check_amount, check_whole, in_batches, packed, warn_short
from cloche.sparse.pursuit.signals import prepare

_EVERY = 10  # steps between measurements of the gap


@dataclass(frozen=True)
class FISTA(Pursuit):
    """a minimising 1/2 |x - D a|^2 + penalty |a|_1 (Beck & Teboulle 2009), on any device.

    The same minimum as `Lasso`, suited to a GPU. Momentum restarts when it overshoots (O'Donoghue & Candes 2015). Stops
    when the duality gap is at most `gap` |x|^2, or after `steps`, with a warning about signals that have not converged.
    Needs no Gram: two products with the atoms per step.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.pursuit import FISTA
    >>> data = SyntheticFeatures(width=16, features=24, active=2)
    >>> x, truth = data.sample(50)
    >>> code = FISTA(penalty=0.1).encode(x, data.dictionary)
    >>> from cloche.sparse.pursuit import Lasso
    >>> exact = Lasso(penalty=0.1).encode(x, data.dictionary)
    >>> bool((code.dense() - exact.dense()).abs().max() < 0.01)
    True
    """

    penalty: float
    nonnegative: bool = False
    gap: float = 1e-6
    steps: int = 5_000

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        check_amount("penalty", self.penalty, zero=False)
        check_amount("gap", self.gap, zero=False)
        check_whole("steps", self.steps)
        if self.steps < 1:
            raise SettingRange(f"FISTA cannot run {self.steps} steps: use at least one.")
        signals = prepare(x, dictionary)
        atoms = dictionary.atoms.detach()
        curvature = _curvature(atoms)

        def batched(rows: Tensor, penalty: Tensor) -> tuple[Code, Tensor]:
            coefs, short = self._descend(rows, penalty, atoms, curvature)
            return packed(coefs), short

        code, short = in_batches(dictionary, batched, signals.rows, signals.setting(self.penalty))
        warn_short(int(short.sum()), len(signals), self.gap)
        return signals.restored(code)

    @torch.no_grad()
    def _descend(self, x: Tensor, penalty: Tensor, atoms: Tensor, curvature: float) -> tuple[Tensor, Tensor]:
        """([n, N] the coefficients, [n] whether a signal did not reach the gap), each with its own `penalty` [n] in float64."""
        out = x.new_zeros(len(x), len(atoms))
        rows = torch.arange(len(x), device=x.device)
        short = torch.ones(len(x), dtype=torch.bool, device=x.device)
        by = (penalty / curvature).to(x.dtype)[:, None]
        a = ahead = out.clone()
        momentum = x.new_ones(len(x), 1)
        for step in range(self.steps + 1):
            if step % _EVERY == 0 or step == self.steps:
                out[rows] = a
                going = ~(self._gap(x, penalty, atoms, a) <= self.gap * x.double().square().sum(1))
                short[rows] = going
                rows, x, a, ahead, momentum = rows[going], x[going], a[going], ahead[going], momentum[going]
                penalty, by = penalty[going], by[going]
                if len(rows) == 0:
                    break
            after = self._shrunk(ahead + (x - ahead @ atoms) @ atoms.T / curvature, by)
            uphill = ((ahead - after) * (after - a)).sum(1, keepdim=True) > 0
            grown = torch.where(uphill, 1.0, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
            ahead = after + torch.where(uphill, 0.0, (momentum - 1) / grown) * (after - a)
            a, momentum = after, grown
        return out, short

    def _shrunk(self, a: Tensor, by: Tensor) -> Tensor:
        return (a - by).clamp_min_(0) if self.nonnegative else a - a.clamp(-by, by)

    def _gap(self, x: Tensor, penalty: Tensor, atoms: Tensor, a: Tensor) -> Tensor:
        """[n] duality gaps, with the residual scaled to the best feasible dual point."""
        left = x - a @ atoms
        scores = left @ atoms.T
        top = (scores if self.nonnegative else scores.abs()).amax(1)
        residual, along = left.double().square().sum(1), (left.double() * x.double()).sum(1)
        feasible = torch.where(top > 0, penalty / top, torch.inf)
        scale = torch.minimum(feasible, (along / residual.clamp_min(1e-300)).clamp_min(0))
        primal = 0.5 * residual + penalty * a.double().abs().sum(1)
        return primal - scale * along + 0.5 * scale.square() * residual


def _curvature(atoms: Tensor) -> float:
    """The largest eigenvalue of the Gram, plus a margin for rounding."""
    small = atoms @ atoms.T if len(atoms) <= atoms.shape[1] else atoms.T @ atoms
    return float(torch.linalg.eigvalsh(small.double())[-1]) * 1.001
