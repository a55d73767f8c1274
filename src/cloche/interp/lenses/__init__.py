"""Lenses: what each layer would predict if the model ended there, read directly or through a learned affine map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.lenses.affine import Affine, JacobianFit, Lens
    from cloche.interp.lenses.comparing import lens_comparison
    from cloche.interp.lenses.jacobian import JacobianConfig, fit_jacobian
    from cloche.interp.lenses.keeping import open_lens, save_lens
    from cloche.interp.lenses.reading import jacobian_lens, logit_lens, tuned_lens
    from cloche.interp.lenses.training import LensConfig, train_lens

__all__ = [
    "Affine",
    "JacobianConfig",
    "JacobianFit",
    "Lens",
    "LensConfig",
    "fit_jacobian",
    "jacobian_lens",
    "lens_comparison",
    "logit_lens",
    "open_lens",
    "save_lens",
    "train_lens",
    "tuned_lens",
]

__getattr__ = lazy(__name__)
