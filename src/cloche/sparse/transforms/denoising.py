"""What the fixed dictionaries are for: few terms that say most, and noise that no atom explains."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from cloche.errors import NotFinite, SettingRange, SignalsShape
from cloche.missing import extra
from cloche.sparse.transforms.base import Transform
from cloche.sparse.transforms.families import Fitted, fitted
from cloche.sparse.transforms.shrinkage import iterative_hard_thresholding
from cloche.sparse.transforms.wavelets import WAVELETS_NEED

MEDIAN_OF_NORMAL = 0.6744897501960817  # of |z|, z standard normal


def noise_level(x: Tensor) -> float:
    """Standard deviation of the noise in a signal [n] or image [height, width]: the median magnitude of the finest (diagonal)
    db4 wavelets over 0.6745 (Donoho & Johnstone 1994). Right where noise is white and outweighs the finest detail."""
    if x.ndim not in (1, 2) or min(x.shape) < 16:
        raise SignalsShape(f"The noise of a signal of shape {list(x.shape)} cannot be told: give 16 samples a side.")
    if not torch.isfinite(x).all():
        raise NotFinite("The signal holds NaN or infinite numbers: fill them in or leave that stretch out.")
    even = x[tuple(slice(n - n % 2) for n in x.shape)].detach().double().cpu().numpy()
    pywt = extra("pywt", "sparse", WAVELETS_NEED)
    finest = pywt.dwt(even, "db4")[1] if x.ndim == 1 else pywt.dwt2(even, "db4")[1][2]
    return float(torch.from_numpy(finest).abs().median()) / MEDIAN_OF_NORMAL


def approximate(x: Tensor, transform: Transform, m: int, refine: bool = False) -> Tensor:
    """[*shape] x from m coefficients: the largest of the analysis, or with `refine` those that iterative hard thresholding
    finds from there, better in a frame."""
    chosen = iterative_hard_thresholding(x, transform, m) if refine else transform.analyse(x).largest(m)
    return transform.synthesise(chosen)


def denoise(
    x: Tensor, dictionary: str | Fitted, sigma: float | None = None, threshold: float = 3.0, spins: int = 1
) -> Tensor:
    """x [*shape] without the coefficients below `threshold` standard deviations of their band's noise.

    `sigma` is the noise of a sample (None: `noise_level(x)`). The coarse band stays. `spins` > 1 averages over that many
    shifts along each axis (Coifman & Donoho 1995), which rids a basis of its blocks.
    """
    fit = fitted(dictionary, tuple(x.shape)) if isinstance(dictionary, str) else dictionary
    if spins < 1 or not threshold > 0:
        raise SettingRange(
            f"A threshold of {threshold:g} and {spins} spins cannot be: give one above zero, one or more."
        )
    sigma = noise_level(x) if sigma is None else sigma
    if not 0 < sigma < float("inf"):
        raise SettingRange(f"A noise of {sigma:g} leaves nothing to take away: give a sigma above zero.")
    seen = fit.pad(x)
    axes = tuple(range(-len(fit.shape), 0))
    total = torch.zeros_like(seen)
    for shift in product(range(spins), repeat=len(axes)):
        turned = seen.roll(shift, axes)
        transform = fit.transform.adapted(turned, threshold * sigma)
        total += transform.synthesise(_kept(turned, transform, threshold * sigma)).roll([-n for n in shift], axes)
    return fit.crop(total / spins ** len(axes))


def _kept(x: Tensor, transform: Transform, threshold: float) -> Tensor:
    coefficients = transform.analyse(x)
    gains = transform.noise_gains()
    levels = {b.name: threshold * gains[b.name] if b.scale else -1.0 for b in transform.layout}
    return coefficients.hard(transform.each(levels, coefficients.flat)).flat
