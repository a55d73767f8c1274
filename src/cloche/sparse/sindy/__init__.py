"""SINDy: equations of motion from time series, as sparse codes over a library of terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy
from cloche.missing import extra

if TYPE_CHECKING:
    from cloche.sparse.sindy.fit import SINDy
    from cloche.sparse.sindy.library import Custom, Fourier, Library, Polynomials, Products, Sum
    from cloche.sparse.sindy.model import Model
    from cloche.sparse.sindy.selection import ForwardBackward, Selector
    from cloche.sparse.sindy.selectors import SR3, STLSQ, Greedy, Stable
    from cloche.sparse.sindy.series import MIN_SAMPLES
    from cloche.sparse.sindy.strong import Strong
    from cloche.sparse.sindy.weak import Form, Weak

__all__ = [
    "MIN_SAMPLES",
    "SR3",
    "STLSQ",
    "Custom",
    "Form",
    "ForwardBackward",
    "Fourier",
    "Greedy",
    "Library",
    "Model",
    "Polynomials",
    "Products",
    "SINDy",
    "Selector",
    "Stable",
    "Strong",
    "Sum",
    "Weak",
]

extra("scipy", "sparse", "SINDy needs scipy")
__getattr__ = lazy(__name__)
