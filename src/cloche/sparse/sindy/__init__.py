"""SINDy: equations of motion from time series, as sparse codes over a library of terms."""

from cloche.sparse.sindy.fit import SINDy
from cloche.sparse.sindy.library import Custom, Fourier, Library, Polynomials, Products
from cloche.sparse.sindy.model import Model
from cloche.sparse.sindy.selection import ForwardBackward
from cloche.sparse.sindy.selectors import SR3, STLSQ, Greedy, Stable
from cloche.sparse.sindy.strong import Strong
from cloche.sparse.sindy.weak import Weak

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
