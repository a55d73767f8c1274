"""SINDy: equations of motion from time series, as sparse codes over a library of terms."""

from glasshouse.sparse.sindy.fit import SINDy
from glasshouse.sparse.sindy.library import Custom, Fourier, Library, Polynomials, Products
from glasshouse.sparse.sindy.model import Model
from glasshouse.sparse.sindy.selection import ForwardBackward
from glasshouse.sparse.sindy.selectors import SR3, STLSQ, Greedy, Stable
from glasshouse.sparse.sindy.strong import Strong
from glasshouse.sparse.sindy.weak import Weak

__all__ = [
    "SR3",
    "STLSQ",
    "Custom",
    "ForwardBackward",
    "Fourier",
    "Greedy",
    "Library",
    "Model",
    "Polynomials",
    "Products",
    "SINDy",
    "Stable",
    "Strong",
    "Weak",
]
