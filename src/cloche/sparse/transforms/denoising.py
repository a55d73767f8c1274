"""Applications of the fixed dictionaries: approximation with few terms, and denoising."""

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

MEDIAN_OF_NORMAL = 0.6744897501960817  # median of |z|, z standard normal


def noise_level(x: Tensor) -> float:
    """Standard deviation of the noise in a signal [n] or image [height, width]: the median magnitude of the finest
    (diagonal) db4 wavelets over 0.6745 (Donoho & Johnstone 1994). Accurate if the noise is white and dominates the finest
    detail.

    >>> import torch
    >>> from cloche.sparse.transforms import noise_level
    >>> clean = torch.linspace(0, 6.28, 4096).sin()
    >>> noisy = clean + 0.2 * torch.randn(4096, generator=torch.Generator().manual_seed(0))
    >>> abs(noise_level(noisy) - 0.2) < 0.03
    True
    """
    if x.ndim not in (1, 2) or min(x.shape) < 16:
        raise SignalsShape(
            f"The noise of a signal of shape {list(x.shape)} cannot be estimated: give at least 16 samples per side."
        )
    if not torch.isfinite(x).all():
        raise NotFinite("The signal has NaN or infinite numbers: fill them in or leave that part out.")
    even = x[tuple(slice(n - n % 2) for n in x.shape)].detach().double().cpu().numpy()
    pywt = extra("pywt", "sparse", WAVELETS_NEED)
    finest = pywt.dwt(even, "db4")[1] if x.ndim == 1 else pywt.dwt2(even, "db4")[1][2]
    return float(torch.from_numpy(finest).abs().median()) / MEDIAN_OF_NORMAL


def approximate(x: Tensor, transform: Transform, m: int, refine: bool = False) -> Tensor:
    """[*shape] x from m coefficients: the largest of the analysis, or with `refine` those found from there by iterative
    hard thresholding, which is better in a frame.

    >>> import torch
    >>> from cloche.sparse.transforms import Wavelets, approximate
    >>> x = torch.cat([torch.zeros(32), torch.ones(32)])
    >>> near = approximate(x, Wavelets((64,), "haar", levels=5), m=2)
    >>> round(float((near - x).norm()), 4)
    0.0
    """
    chosen = iterative_hard_thresholding(x, transform, m) if refine else transform.analyse(x).largest(m)
    return transform.synthesise(chosen)


def denoise(
    x: Tensor, dictionary: str | Fitted, sigma: float | None = None, threshold: float = 3.0, spins: int = 1
) -> Tensor:
    """x [*shape] without the coefficients below `threshold` standard deviations of their band's noise.

    `sigma` is the noise per sample (None: `noise_level(x)`). The coarse band is kept. `spins` > 1 averages over that many
    shifts along each axis (Coifman & Donoho 1995), which removes the block artefacts of a basis.

    >>> import torch
    >>> from cloche.sparse.transforms import denoise
    >>> clean = torch.linspace(0, 6.28, 256).sin()
    >>> noisy = clean + 0.2 * torch.randn(256, generator=torch.Generator().manual_seed(0))
    >>> found = denoise(noisy, "wavelet", sigma=0.2)
    >>> bool((found - clean).norm() < 0.5 * (noisy - clean).norm())
    True
    """
    fit = fitted(dictionary, tuple(x.shape)) if isinstance(dictionary, str) else dictionary
    if spins < 1 or not threshold > 0:
        raise SettingRange(
            f"threshold = {threshold:g} and spins = {spins} are invalid: use a threshold above zero and at least one spin."
        )
    sigma = noise_level(x) if sigma is None else sigma
    if not 0 < sigma < float("inf"):
        raise SettingRange(f"sigma = {sigma:g} is not a positive noise level: give a sigma above zero.")
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
