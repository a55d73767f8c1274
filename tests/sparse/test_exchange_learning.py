"""dictionary_learning's autoencoders: their codes and reconstructions by dense arithmetic, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_saes import FEATURES, Codes, K, answers, check, near, signals, topk, weights
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse import BatchTopK, Gated, JumpReLU, Provenance, ReLU, TopK, load_sae, save_saelens
from cloche.sparse.learners.keep import load_dictionary

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*does not say how many features:UserWarning")


def learning_folder(folder: Path, name: str, rng: torch.Generator) -> tuple[Path, Codes, Tensor, Tensor]:
    """(folder, its codes, its decoder's rows, its decoder's bias), laid out by hand."""
    t = weights(rng, "b_enc", "threshold", "b_gate", "b_mag", "r_mag")
    enc, dec, b, c = t["W_enc"], t["W_dec"], t["b_enc"], t["b_dec"]
    linear = {"encoder.weight": enc.T, "encoder.bias": b, "decoder.weight": dec.T}
    plain = {"W_enc": enc, "b_enc": b, "W_dec": dec, "b_dec": c}
    counted = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(0.7)}
    groups = {"group_sizes": torch.tensor([10, 10, 20])}
    gated = {"encoder.weight": enc.T, "decoder.weight": dec.T, "decoder_bias": c, "gate_bias": t["b_gate"]}
    gated |= {"mag_bias": t["b_mag"], "r_mag": t["r_mag"]}
    saved: dict[str, tuple[dict[str, Tensor], Codes]] = {
        "AutoEncoder": (linear | {"bias": c}, lambda x: ((x - c) @ enc + b).relu()),
        "AutoEncoderNew": (linear | {"decoder.bias": c}, lambda x: (x @ enc + b).relu()),
        "AutoEncoderTopK": (linear | counted | {"b_dec": c}, lambda x: topk(((x - c) @ enc + b).relu())),
        "BatchTopKSAE": (linear | counted | {"b_dec": c}, lambda x: above((x - c) @ enc + b, 0.7)),
        "MatryoshkaBatchTopKSAE": (plain | counted | groups, lambda x: above((x - c) @ enc + b, 0.7)),
        "JumpReluAutoEncoder": (plain | {"threshold": t["threshold"]}, lambda x: above(x @ enc + b, t["threshold"])),
        "GatedAutoEncoder": (gated, lambda x: answers("gated", t, (x - c) @ enc)),
    }
    folder.mkdir()
    tensors, codes = saved[name]
    torch.save(tensors, folder / "ae.pt")
    trainer = {
        "dict_class": name,
        "lm_name": "EleutherAI/pythia-70m",
        "layer": 3,
        "submodule_name": "resid_post_layer_3",
    }
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    return folder, codes, dec, c


def above(pre: Tensor, threshold: Tensor | float) -> Tensor:
    return pre.relu() * (pre > threshold)


LEARNING = {
    "AutoEncoder": ReLU(),
    "AutoEncoderNew": ReLU(),
    "AutoEncoderTopK": TopK(),
    "BatchTopKSAE": JumpReLU(),  # its rows differ in norm here, so its thresholds do
    "MatryoshkaBatchTopKSAE": JumpReLU(nested=(10, 20)),
    "JumpReluAutoEncoder": JumpReLU(),
    "GatedAutoEncoder": Gated(),
}


@pytest.mark.parametrize("name", LEARNING)
def test_dictionary_learning(name: str, tmp_path: Path, rng: torch.Generator) -> None:
    folder, codes, decoder, bias = learning_folder(tmp_path / "theirs", name, rng)
    sae, x = load_sae(folder), signals(rng)
    assert sae.kind == LEARNING[name] and sae.trained_on == Provenance("resid_post[3]", "EleutherAI/pythia-70m")
    assert sae.l0 == (K if "TopK" in name else FEATURES)
    check(sae, x, codes(x), decoder, codes(x) @ decoder + bias)
    back = load_sae(save_saelens(sae, tmp_path / "again"))
    near(back.encode(x).dense(), sae.encode(x).dense())
    atoms, card = load_dictionary(folder)
    assert torch.equal(atoms.atoms, sae.dictionary.atoms) and card.method == str(sae.kind)


def test_dictionary_learning_runs_nothing_and_refuses_the_rest(tmp_path: Path, rng: torch.Generator) -> None:
    folder, *_ = learning_folder(tmp_path / "theirs", "AutoEncoderTopK", rng)
    good = json.loads((folder / "config.json").read_text())

    def refused(trainer: dict[str, Any], sentence: str) -> None:
        (folder / "config.json").write_text(json.dumps({"trainer": good["trainer"] | trainer}))
        with pytest.raises(ClocheError, match=sentence):
            load_sae(folder)

    refused({"dict_class": "IdentityDict"}, "dict_class is 'IdentityDict'")
    refused({"k": 7}, "states k = 7, but ae.pt was saved with k = 5")
    refused({"dict_class": "GatedAutoEncoder"}, "lacks decoder_bias")
    refused({"dict_class": "MatryoshkaBatchTopKSAE"}, "holds no MatryoshkaBatchTopKSAE|lacks")
    torch.save({"encoder.weight": torch.ones(3, 2), "loss": print}, folder / "ae.pt")
    refused({}, "cannot be read as tensors alone")
    torch.save([1, 2], folder / "ae.pt")
    refused({}, "something other than named tensors")


def test_one_threshold_of_unit_rows_stays_a_batchtopk(tmp_path: Path, rng: torch.Generator) -> None:
    folder, *_ = learning_folder(tmp_path / "theirs", "BatchTopKSAE", rng)
    tensors = torch.load(folder / "ae.pt", weights_only=True)
    tensors["decoder.weight"] = torch.nn.functional.normalize(tensors["decoder.weight"], dim=0)
    torch.save(tensors, folder / "ae.pt")
    sae = load_sae(folder)
    assert sae.kind == BatchTopK() and float(sae.threshold) == pytest.approx(0.7)
