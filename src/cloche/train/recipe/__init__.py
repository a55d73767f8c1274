"""Recipes: the settings of a run, as TOML and as values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.train.recipe.recipe import Recipe

__all__ = ["Recipe"]

__getattr__ = lazy(__name__)
