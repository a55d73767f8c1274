"""Interventions over a whole model: activation patching and ablation, every cell exact, all cells in one sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.patching.ablating import ablation
    from cloche.interp.patching.patch import activation_patching
    from cloche.interp.patching.paths import path_patching
    from cloche.interp.patching.scopes import patchscope

__all__ = ["ablation", "activation_patching", "patchscope", "path_patching"]

__getattr__ = lazy(__name__)
