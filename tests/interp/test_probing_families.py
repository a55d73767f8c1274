"""Analogies and inhibition in several families of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cloche
from cloche.errors import ModelUnsupported
from cloche.interp import analogies, inhibition

family_table = pytest.importorskip("family_table", exc_type=ImportError)  # needs transformers


@pytest.mark.parametrize("name", ["llama, odd sizes", "gpt2", "gemma2"])
def test_analogies_and_inhibition(name: str, tmp_path: Path) -> None:
    family_table.built(*family_table.FAMILIES[name]).save_pretrained(tmp_path)
    glass = cloche.load(tmp_path)
    for site in ("unembed", "resid_post[1]"):
        found = analogies(glass, {"any": [(i, i + 6) for i in range(6)]}, site)
        assert all(value == value for value in (*found.figures.values(), *found.null.values()))
    text = torch.randint(30, (4, 16), generator=torch.Generator().manual_seed(0))
    inhibited = inhibition(glass, [text])
    assert inhibited.figures["agreement"] > 0.5 and inhibited.figures["rise"] > inhibited.null["rise"]


def test_experts_have_no_single_output_matrix(tmp_path: Path) -> None:
    family_table.built(*family_table.FAMILIES["mixtral"]).save_pretrained(tmp_path)
    with pytest.raises(ModelUnsupported, match="no neurons"):
        inhibition(cloche.load(tmp_path), [[[1, 2, 3, 4]]])
