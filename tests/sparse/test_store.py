"""Dictionaries on disk, and streams that cannot be trained on."""

import json
from pathlib import Path

import pytest
import torch

from cloche.errors import ClocheError
from cloche.sparse import SAE, Provenance, SyntheticFeatures, Training, load_sae, train_sae


def trained(seed: int = 0) -> SAE:
    x, _ = SyntheticFeatures().sample(3_000)
    short = Training(steps=5, batch=512)
    return train_sae(x * 7, 64, 4, short, seed=seed, trained_on=Provenance("resid_post[2]", "step-000500"))[0]


def test_round_trip_keeps_codes_and_provenance(tmp_path: Path) -> None:
    sae, x = trained(), SyntheticFeatures().sample(100, seed=4)[0] * 7
    sae.save(tmp_path / "dictionaries" / "first")
    again = load_sae(tmp_path / "dictionaries" / "first")
    assert again.trained_on == sae.trained_on == Provenance("resid_post[2]", "step-000500", 2_560)
    assert torch.equal(again.encode(x).values, sae.encode(x).values)
    assert torch.equal(again.decode(again.encode(x)), sae.decode(sae.encode(x)))
    card = json.loads((tmp_path / "dictionaries/first/dictionary.json").read_text())
    assert (card["width"], card["features"], card["l0"]) == (32, 64, 4)
    assert card["scale"] == pytest.approx(float(sae.scale)) and len(card["sha256"]) == 64
    assert [p.name for p in (tmp_path / "dictionaries").iterdir()] == ["first"]


def test_saving_again_replaces_whole_and_identically(tmp_path: Path) -> None:
    folder = tmp_path / "first"
    trained().save(folder)
    before = (folder / "dictionary.safetensors").read_bytes()
    trained(seed=1).save(folder)
    assert (folder / "dictionary.safetensors").read_bytes() != before
    trained().save(folder)
    assert (folder / "dictionary.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["first"]


def test_saving_over_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(ClocheError, match="something other than a dictionary"):
        trained().save(tmp_path / "notes")
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda f: (f / "dictionary.json").unlink(), "half-written"),
        (lambda f: (f / "dictionary.safetensors").unlink(), "half-written"),
        (lambda f: (f / "dictionary.json").write_text('{"format": 1, "ki'), "not readable as JSON"),
        (lambda f: (f / "dictionary.json").write_text('{"format": 1}'), "does not state kind"),
        (lambda f: (f / "dictionary.safetensors").write_bytes(b"torn"), "sha256 differs"),
        (lambda f: edit(f, kind="JumpRelu"), "did you mean 'JumpReLU'"),
        (lambda f: edit(f, width=33), "do not have the shapes"),
    ],
)
def test_damaged_folders_get_one_sentence(tmp_path: Path, harm, sentence: str) -> None:
    trained().save(tmp_path / "first")
    harm(tmp_path / "first")
    with pytest.raises(ClocheError, match=sentence):
        load_sae(tmp_path / "first")


def edit(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "dictionary.json").read_text())
    (folder / "dictionary.json").write_text(json.dumps(card | changes))


def with_nan() -> torch.Tensor:
    x = torch.randn(2_000, 8)
    x[1_234, 3] = torch.nan
    return x


@pytest.mark.parametrize(
    ("activations", "features", "sentence"),
    [
        (with_nan(), 16, "Activation 1,234 of the stream contains NaN"),
        (iter(with_nan().split(300)), 16, "Activation 1,234 of the stream contains NaN"),
        (iter([torch.randn(600, 8), torch.randn(600, 9)]), 16, r"after 600 rows has shape \[600, 9\]"),
        (torch.randn(5, 5, 5), 16, "positions flattened"),
        (torch.zeros(0, 8), 16, "no activations"),
        (iter([torch.randn(10, 8)]), 16, "before one batch of 256"),
        (torch.ones(1_000, 8), 16, "All activations are equal"),
        (torch.randn(1_000, 8), 3, "choose an l0 above 0 and at most 3"),
    ],
)
def test_streams_that_cannot_be_trained_on(activations, features: int, sentence: str) -> None:
    with pytest.raises(ClocheError, match=sentence):
        train_sae(activations, features, 4, Training(steps=20, batch=256))
