"""Analogies in several families of models."""

from __future__ import annotations

from pathlib import Path

import pytest

import cloche
from cloche.interp import analogies

family_table = pytest.importorskip("family_table", exc_type=ImportError)  # needs transformers


@pytest.mark.parametrize("name", ["llama, odd sizes", "gpt2"])
def test_families(name: str, tmp_path: Path) -> None:
    family_table.built(*family_table.FAMILIES[name]).save_pretrained(tmp_path)
    glass = cloche.load(tmp_path)
    for site in ("unembed", "resid_post[1]"):
        found = analogies(glass, {"any": [(i, i + 6) for i in range(6)]}, site)
        assert all(value == value for value in (*found.figures.values(), *found.null.values()))
