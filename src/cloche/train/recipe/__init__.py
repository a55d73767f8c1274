"""Recipes: what a run is to do, as plain text and as values."""

from cloche.train.recipe.recipe import Recipe

__all__ = ["Recipe"]
