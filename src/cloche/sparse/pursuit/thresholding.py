"""Hard thresholding: gradient steps that keep the k largest coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SettingRange
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.pursuit.base import (
    Pursuit,
    as_array,
    by_correlations,
    check_amount,
    check_atoms,
    check_whole,
    dependence_limit,
    fits_gram,
    in_batches,
    joined,
    packed,
    recomputed,
)
from cloche.sparse.pursuit.signals import prepare

_SHRINK = 0.01  # as in the compiled kernel


@dataclass(frozen=True)
class IHT(Pursuit):
    """Normalised iterative hard thresholding (Blumensath & Davies 2010): at most `k` atoms per signal.

    A local method: it minimises |x - D a| among k-sparse codes, starting from the k largest correlations. Stops after
    `steps`, or when the support is unchanged and the coefficients move by less than `tolerance` of their norm. Compiled on
    a CPU, batched torch elsewhere.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.pursuit import IHT
    >>> data = SyntheticFeatures(width=16, features=24, active=2)
    >>> x, truth = data.sample(50)
    >>> code = IHT(k=2).encode(x, data.dictionary)
    >>> int(code.active.max())
    2
    """

    k: int
    steps: int = 300
    tolerance: float = 1e-5

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        return _encode(self, x, dictionary, refit=False)


@dataclass(frozen=True)
class HardThresholdingPursuit(Pursuit):
    """Hard-thresholding pursuit (Foucart 2011): as IHT, with least squares on the atoms of each step.

    Stops when the next atoms explain no more, usually within a few steps, or after `steps`.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.pursuit import HardThresholdingPursuit
    >>> data = SyntheticFeatures(width=16, features=24, active=2)
    >>> x, truth = data.sample(50)
    >>> code = HardThresholdingPursuit(k=2).encode(x, data.dictionary)
    >>> int(code.active.max())
    2
    """

    k: int
    steps: int = 100

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        return _encode(self, x, dictionary, refit=True)


def _encode(pursuit: IHT | HardThresholdingPursuit, x: Tensor, dictionary: Dictionary, refit: bool) -> Code:
    k = check_atoms(pursuit.k, dictionary)
    check_whole("steps", pursuit.steps)
    if pursuit.steps < 1:
        raise SettingRange(f"Hard thresholding cannot run {pursuit.steps} steps: use at least one.")
    if isinstance(pursuit, IHT):
        check_amount("tolerance", pursuit.tolerance)
    signals = prepare(x, dictionary)
    rows, steps = signals.rows, pursuit.steps
    tolerance = 0.0 if isinstance(pursuit, HardThresholdingPursuit) else float(pursuit.tolerance)

    def batched(x: Tensor, dictionary: Dictionary) -> tuple[Code, Tensor]:
        return in_batches(
            dictionary, lambda piece: thresholding_batched(piece, dictionary.atoms, k, steps, tolerance, refit), x
        )

    if fits_gram(rows, dictionary):
        code, doubtful = _compiled(rows, dictionary, k, steps, tolerance, refit)
    else:
        code, doubtful = batched(rows, dictionary)
    if dictionary.atoms.dtype == torch.float64 and not fits_gram(rows, dictionary):
        doubtful = torch.zeros_like(doubtful)  # there is no better
    return signals.restored(
        recomputed(code, doubtful, lambda chosen: batched(rows[chosen].double(), dictionary.double())[0])
    )


def _compiled(
    x: Tensor, dictionary: Dictionary, k: int, steps: int, tolerance: float, refit: bool
) -> tuple[Code, Tensor]:
    from cloche.sparse.pursuit.kernels.thresholding_kernel import thresholding_rows

    gram, doubtful = as_array(dictionary.gram), torch.zeros(len(x), dtype=torch.bool)
    dependence, doubts = dependence_limit(x.dtype), doubtful.numpy()

    def kernel(rows: slice, scores: np.ndarray) -> Code:
        thresholding_rows(gram, scores, k, steps, tolerance, refit, dependence, doubts[rows])
        return packed(torch.from_numpy(scores))

    return joined(by_correlations(x, dictionary, kernel), dictionary), doubtful


@torch.no_grad()
def thresholding_batched(
    x: Tensor, atoms: Tensor, k: int, steps: int, tolerance: float, refit: bool
) -> tuple[Code, Tensor]:
    """The code by the same rules in torch, for the signals x [n, d], and [n] whether a signal met atoms too nearly dependent
    for this precision."""
    atoms = atoms.detach()
    scores, doubtful = x @ atoms.T, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    support = _largest(scores, k)
    coefs, going = torch.zeros_like(scores), (scores != 0).any(1)
    for _ in range(steps):
        left = (x - coefs @ atoms) @ atoms.T
        gradient = left * (_largest(left, k) if refit else support)
        along = (gradient @ atoms).square().sum(1)
        steep = gradient.square().sum(1)
        doubtful |= going & (along <= dependence_limit(x.dtype) * steep)
        going = going & (along > 0)
        if not bool(going.any()):
            break
        step = steep / along.clamp_min(torch.finfo(x.dtype).tiny)
        after, fresh, moved, same = _step(coefs, left, support, atoms, step, k, refit)
        stands = same & (moved.sqrt() <= tolerance * torch.linalg.vector_norm(after, dim=1))
        if refit:
            after, dependent = _refitted(x, atoms, fresh, k)
            doubtful |= going & dependent
            going = going & ((after * scores).sum(1) > (coefs * scores).sum(1))  # else the new atoms explain no more
            stands = same & (coefs != 0).any(1)
        coefs = torch.where(going[:, None], after, coefs)
        support = torch.where(going[:, None], fresh, support)
        going = going & ~stands
    return packed(coefs), doubtful


def _step(
    coefs: Tensor, left: Tensor, support: Tensor, atoms: Tensor, step: Tensor, k: int, refit: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The thresholded gradient step, shortened until it is safe: (coefficients, support, squared change, support unchanged)."""
    while True:
        moved_to = coefs + step[:, None] * left
        fresh = _largest(moved_to, k)
        after = moved_to * fresh
        change = after - coefs
        moved, signal = change.square().sum(1), (change @ atoms).square().sum(1)
        same = (fresh == support).all(1)
        long = ~same & (step * signal > (1 - _SHRINK) * moved)
        if refit or not bool(long.any()):
            return after, fresh, moved, same
        step = torch.where(long, step / (2 * (1 - _SHRINK)), step)


def _largest(values: Tensor, k: int) -> Tensor:
    """[n, N] true at the k largest magnitudes of each row, where they are not zero."""
    chosen = torch.zeros_like(values, dtype=torch.bool)
    return chosen.scatter_(1, values.abs().topk(k, dim=1).indices, True) & (values != 0)


def _refitted(x: Tensor, atoms: Tensor, support: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """([n, N] the least-squares coefficients on each row's support, [n] whether its atoms are too nearly dependent for a
    Gram)."""
    indices = support.to(torch.int8).topk(k, dim=1).indices
    mask = support.gather(1, indices)
    used = atoms[indices] * mask[..., None]  # [n, k, d]
    gram = used @ used.mT + torch.diag_embed((~mask).to(x.dtype))
    target = torch.einsum("nkd,nd->nk", used, x)
    factor, failed = torch.linalg.cholesky_ex(gram)
    dependent = (failed > 0) | (factor.diagonal(dim1=1, dim2=2).amin(1).square() <= dependence_limit(x.dtype))
    solved = torch.cholesky_solve(target[..., None], factor)[..., 0]
    if bool(dependent.any()):
        solved[dependent] = torch.einsum("nkd,nd->nk", torch.linalg.pinv(used[dependent].mT), x[dependent])
    coefs = torch.zeros(len(x), len(atoms), dtype=x.dtype, device=x.device)
    return coefs.scatter_(1, indices, solved * mask), dependent
