"""Manifolds in several families of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cloche
from cloche.interp import manifold, subspace_stability

family_table = pytest.importorskip("family_table", exc_type=ImportError)  # needs transformers

FAMILIES = ("GPT2", "Gemma2", "Mixtral")


@pytest.mark.parametrize("name", FAMILIES)
def test_manifolds_of_positions_in_other_families(name: str, tmp_path: Path) -> None:
    own = next(own for family, own in family_table.FAMILIES.values() if family == name)
    family_table.built(name, own, seed=0).save_pretrained(tmp_path)
    glass = cloche.load(tmp_path)
    ids = torch.randint(30, (12, 12), generator=torch.Generator().manual_seed(0))
    found = manifold(glass, "resid_post[1]", windows=[ids])
    assert 0 < found.figures["p_value"] <= 1 and found.arrays["curve"].shape[0] == 11
    assert 0 < subspace_stability(glass, "z[0]", windows=[ids], components=2).figures["overlap"] <= 1
