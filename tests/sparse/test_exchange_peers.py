"""Beside the libraries themselves, where they are installed: what they save and what they read is what they compute.

Run with the environment of bench/requirements/sae_step.txt and pytest; elsewhere these tests are skipped by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_saes import FEATURES, WIDTH, K, near, ours, signals
from torch import Tensor, nn

from cloche.sparse import BatchTopK, Gated, JumpReLU, Provenance, ReLU, TopK, Wiring, load_sae, save_saelens
from cloche.sparse.saes import Kind

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own


def shake(module: nn.Module, rng: torch.Generator) -> None:
    """Every weight at random: nothing at its start, nothing of norm one; thresholds above and below zero."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng) * 0.5)
            if "threshold" in name:
                weight.copy_(torch.rand(weight.shape, generator=rng) * 2 - 0.3)


def agree(folder: Path, theirs: Any, codes: Tensor, norms: Tensor, x: Tensor) -> None:
    """Ours, read from `folder`, gives their codes times the norms of their rows, and their reconstruction."""
    sae = load_sae(folder)
    near(sae.encode(x).dense(), codes * norms)
    near(sae(x).detach(), theirs(x).detach())


LENS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"apply_b_dec_to_input": c}) for name in ("standard", "jumprelu", "gated") for c in (True, False)),
    *(("topk", {"k": K, "rescale_acts_by_decoder_norm": rescale}) for rescale in (True, False)),
    *((f"{jump}{skip}transcoder", {"d_out": 7}) for jump in ("", "jumprelu_") for skip in ("", "skip_")),
]


@pytest.mark.parametrize(("architecture", "options"), LENS, ids=str)
def test_what_saelens_saves(architecture: str, options: dict[str, Any], tmp_path: Path, rng: torch.Generator) -> None:
    lens = pytest.importorskip("sae_lens")
    if "d_out" in options:
        options = options | {"apply_b_dec_to_input": False}
    cfg = {"architecture": architecture, "d_in": WIDTH, "d_sae": FEATURES} | options
    cfg["metadata"] = {"hook_name": "blocks.3.hook_resid_post", "model_name": "pythia-70m"}
    theirs, x = lens.SAE.from_dict(cfg), signals(rng)
    shake(theirs, rng)
    theirs.save_model(tmp_path / "theirs")
    codes = theirs.encode(x).detach()
    norms = theirs.W_dec.norm(dim=1).detach()
    if options.get("rescale_acts_by_decoder_norm"):  # its values are already of rows of norm one
        norms = torch.ones_like(norms)
    agree(tmp_path / "theirs", theirs, codes, norms, x)
    sae = load_sae(tmp_path / "theirs")
    assert sae.trained_on == Provenance("resid_post[3]", "pythia-70m")
    again = lens.SAE.load_from_disk(save_saelens(sae, tmp_path / "again"))
    near(again.encode(x).detach(), codes * (1 if sae.gain is not None else norms))
    near(again(x).detach(), theirs(x).detach())


TRAINED: list[tuple[str, dict[str, Any], Kind]] = [
    ("standard", {}, ReLU()),
    ("gated", {}, Gated()),
    ("jumprelu", {}, JumpReLU()),
    ("topk", {"k": K}, TopK()),
    ("topk", {"k": K, "rescale_acts_by_decoder_norm": False}, TopK()),
    ("batchtopk", {"k": 4.5}, BatchTopK()),
    ("batchtopk", {"k": 4.5, "rescale_acts_by_decoder_norm": False}, JumpReLU()),
    ("matryoshka_batchtopk", {"k": 4.5, "matryoshka_widths": [10, FEATURES]}, BatchTopK(nested=(10,))),
]


@pytest.mark.parametrize(("architecture", "options", "kind"), TRAINED, ids=str)
def test_what_saelens_saves_in_and_after_training(
    architecture: str, options: dict[str, Any], kind: Kind, tmp_path: Path, rng: torch.Generator
) -> None:
    """The finished one is its own oracle; the checkpoint must say the same."""
    lens = pytest.importorskip("sae_lens")
    cfg = {"architecture": architecture, "d_in": WIDTH, "d_sae": FEATURES} | options
    training, x = lens.TrainingSAE.from_dict(cfg), signals(rng)
    shake(training, rng)
    if hasattr(training, "topk_threshold"):
        training.topk_threshold.fill_(1.1)
    training.save_model(tmp_path / "checkpoint")
    training.save_inference_model(tmp_path / "finished")
    theirs = lens.SAE.load_from_disk(tmp_path / "finished")
    codes, norms = theirs.encode(x).detach(), theirs.W_dec.norm(dim=1).detach()
    for folder in (tmp_path / "checkpoint", tmp_path / "finished"):
        agree(folder, theirs, codes, norms, x)
        assert load_sae(folder).kind == kind
        assert "k" not in options or load_sae(folder).l0 == options["k"]


WIRINGS = [WIDTH, Wiring((WIDTH,), (7,)), Wiring((WIDTH,), (7,), skip=True)]
WRITTEN = [(kind, wiring) for kind in (ReLU(), BatchTopK(nested=(8,)), JumpReLU()) for wiring in WIRINGS]
WRITTEN += [(kind, WIDTH) for kind in (TopK(), Gated())]


@pytest.mark.parametrize("threshold", [0.4, 0.0])
@pytest.mark.parametrize(("kind", "wiring"), WRITTEN, ids=str)
def test_what_saelens_reads_of_ours(
    kind: Kind, wiring: Wiring | int, threshold: float, tmp_path: Path, rng: torch.Generator
) -> None:
    lens = pytest.importorskip("sae_lens")
    sae, x = ours(kind, rng, wiring, threshold), signals(rng)
    theirs = lens.SAE.load_from_disk(save_saelens(sae, tmp_path / "out"))
    near(theirs.encode(x).detach(), sae.encode(x).dense())
    near(theirs(x).detach(), sae(x).detach())
    assert theirs.cfg.metadata.hook_name == "blocks.2.hook_mlp_out"


def test_a_head_reshaped_by_saelens(tmp_path: Path, rng: torch.Generator) -> None:
    lens = pytest.importorskip("sae_lens")
    cfg = {"architecture": "standard", "d_in": WIDTH, "d_sae": FEATURES, "reshape_activations": "hook_z"}
    theirs = lens.SAE.from_dict(cfg | {"metadata": {"hook_name": "blocks.1.attn.hook_z"}})
    shake(theirs, rng)
    x = signals(rng)
    theirs.save_model(tmp_path / "theirs")
    sae, heads = load_sae(tmp_path / "theirs"), x.view(-1, 3, WIDTH // 3)
    near(sae.encode(x).dense(), theirs.encode(heads).detach() * theirs.W_dec.norm(dim=1).detach())
    again = lens.SAE.load_from_disk(save_saelens(sae, tmp_path / "again"))
    near(again(heads).detach(), theirs(heads).detach())


def learned(name: str) -> Any:
    pytest.importorskip("dictionary_learning")
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    if name == "MatryoshkaBatchTopKSAE":
        return matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(WIDTH, FEATURES, K, [10, 10, 20])
    if name in ("AutoEncoderTopK", "BatchTopKSAE"):
        return getattr(top_k if name == "AutoEncoderTopK" else batch_top_k, name)(WIDTH, FEATURES, K)
    return getattr(dictionary, name)(WIDTH, FEATURES)


@pytest.mark.parametrize(
    "name",
    [
        "AutoEncoder",
        "AutoEncoderNew",
        "GatedAutoEncoder",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE",
        "JumpReluAutoEncoder",
    ],
)
def test_what_dictionary_learning_saves(name: str, tmp_path: Path, rng: torch.Generator) -> None:
    theirs, x = learned(name), signals(rng)
    shake(theirs, rng)
    if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        theirs.threshold.fill_(0.9)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, "k": K}}))
    from dictionary_learning.utils import load_dictionary

    theirs, _ = load_dictionary(str(tmp_path), "cpu")
    decoder = theirs.W_dec if hasattr(theirs, "W_dec") else theirs.decoder.weight.T
    with torch.no_grad():
        agree(tmp_path, theirs, theirs.encode(x), decoder.norm(dim=1), x)
