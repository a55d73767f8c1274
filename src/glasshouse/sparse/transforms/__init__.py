"""Fixed dictionaries as operators: each with its adjoint, exact both ways, on any device, differentiable."""

from glasshouse.sparse.transforms.bandlets import Bandlets
from glasshouse.sparse.transforms.base import Band, Coefficients, Transform
from glasshouse.sparse.transforms.contourlets import Contourlets, DirectionalFilterBank
from glasshouse.sparse.transforms.curvelets import Curvelets
from glasshouse.sparse.transforms.denoise import approximate, denoise, noise_level
from glasshouse.sparse.transforms.families import FAMILIES, Fitted, fitted
from glasshouse.sparse.transforms.shrinkage import iterative_hard_thresholding, lasso
from glasshouse.sparse.transforms.steerable import SteerablePyramid
from glasshouse.sparse.transforms.wavelets import Wavelets

__all__ = [
    "FAMILIES",
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
