"""Fixed dictionaries as operators: each with its adjoint, exact both ways, on any device, differentiable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.sparse.transforms.bandlets import Bandlets
    from cloche.sparse.transforms.base import Band, Coefficients, Transform
    from cloche.sparse.transforms.contourlets import Contourlets, DirectionalFilterBank
    from cloche.sparse.transforms.curvelets import Curvelets
    from cloche.sparse.transforms.denoising import approximate, denoise, noise_level
    from cloche.sparse.transforms.families import Fitted, fitted
    from cloche.sparse.transforms.shrinkage import iterative_hard_thresholding, lasso
    from cloche.sparse.transforms.steerable import SteerablePyramid
    from cloche.sparse.transforms.wavelets import Wavelets

__all__ = [
    "Band",
    "Bandlets",
    "Coefficients",
    "Contourlets",
    "Curvelets",
    "DirectionalFilterBank",
    "Fitted",
    "SteerablePyramid",
    "Transform",
    "Wavelets",
    "approximate",
    "denoise",
    "fitted",
    "iterative_hard_thresholding",
    "lasso",
    "noise_level",
]

__getattr__ = lazy(__name__)
