"""SAELens' autoencoders and transcoders: their codes and reconstructions by dense arithmetic, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_saes import FEATURES, WIDTH, K, answers, check, lens_folder, near, signals, topk, weights
from safetensors.torch import save_file

from cloche.errors import ClocheError
from cloche.sparse import BatchTopK, Gated, JumpReLU, Provenance, ReLU, TopK, Wiring, load_sae, save_saelens

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*does not say how many features:UserWarning")


LENS = {
    "standard": (("b_enc",), ReLU),
    "topk": (("b_enc",), TopK),
    "jumprelu": (("b_enc", "threshold"), JumpReLU),
    "gated": (("b_gate", "b_mag", "r_mag"), Gated),
}


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("architecture", LENS)
def test_saelens_autoencoders(architecture: str, centred: bool, tmp_path: Path, rng: torch.Generator) -> None:
    names, kind = LENS[architecture]
    t, x = weights(rng, *names), signals(rng)
    cfg = {"architecture": architecture, "apply_b_dec_to_input": centred} | ({"k": K} if architecture == "topk" else {})
    sae = load_sae(lens_folder(tmp_path / "theirs", t, cfg))
    assert type(sae.kind) is kind and sae.trained_on == Provenance("resid_post[3]", "gpt2-small")
    codes = answers(architecture, t, (x - t["b_dec"] * centred) @ t["W_enc"])
    check(sae, x, codes, t["W_dec"], codes @ t["W_dec"] + t["b_dec"])
    sae.save(tmp_path / "ours")
    again = load_sae(tmp_path / "ours")
    assert torch.equal(again.encode(x).dense(), sae.encode(x).dense())


def test_topk_by_rescaled_answers_and_by_plain_ones(tmp_path: Path, rng: torch.Generator) -> None:
    t, x = weights(rng, "b_enc"), signals(rng)
    pre, norms = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"], t["W_dec"].norm(dim=1)
    cfg = {"architecture": "topk", "k": K}
    rescaled = load_sae(lens_folder(tmp_path / "r", t, cfg | {"rescale_acts_by_decoder_norm": True}))
    assert rescaled.gain is None and rescaled.l0 == K
    near(rescaled.encode(x).dense(), topk(pre * norms))
    plain = load_sae(lens_folder(tmp_path / "p", t, cfg))
    assert plain.gain is not None
    near(plain.encode(x).dense(), topk(pre) * norms)
    assert not torch.equal(topk(pre) > 0, topk(pre * norms) > 0)  # the two are told apart
    for sae in (rescaled, plain):
        back = load_sae(save_saelens(sae, tmp_path / f"again-{sae.gain is None}"))
        near(back.encode(x).dense(), sae.encode(x).dense())
    chosen, acts = plain.feature_acts(x * plain.scale)  # in training too
    near(chosen.decode(acts.values, plain.decoder).detach() + t["b_dec"], topk(pre) @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("rescale", [True, False])
def test_batchtopk_checkpoints_and_what_they_end_as(rescale: bool, tmp_path: Path, rng: torch.Generator) -> None:
    t, x = weights(rng, "b_enc", "topk_threshold"), signals(rng)
    pre, norms = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"], t["W_dec"].norm(dim=1)
    ranked = pre * norms if rescale else pre
    values = ranked.relu() * (ranked > 1.3) * (1 if rescale else norms)
    details = {"k": 4.5, "matryoshka_widths": [10, FEATURES], "rescale_acts_by_decoder_norm": rescale}
    sae = load_sae(lens_folder(tmp_path / "theirs", t, {"architecture": "matryoshka_batchtopk", **details}))
    near(sae.encode(x).dense(), values)
    near(sae(x).detach(), values @ torch.nn.functional.normalize(t["W_dec"], dim=1) + t["b_dec"])
    assert sae.kind == (BatchTopK(nested=(10,)) if rescale else JumpReLU(nested=(10,))) and sae.l0 == 4.5
    back = load_sae(save_saelens(sae, tmp_path / "again"))
    near(back.encode(x).dense(), values)
    assert back.kind == sae.kind and back.l0 == 4.5


@pytest.mark.parametrize(
    "architecture", ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"]
)
def test_saelens_transcoders(architecture: str, tmp_path: Path, rng: torch.Generator) -> None:
    names = ["b_enc"] + ["threshold"] * ("jumprelu" in architecture) + ["W_skip"] * ("skip" in architecture)
    t, x = weights(rng, *names, writes=7), signals(rng)
    cfg = {"architecture": architecture, "apply_b_dec_to_input": False, "d_out": 7}
    sae = load_sae(lens_folder(tmp_path / "theirs", t, cfg))
    assert sae.wiring == Wiring((WIDTH,), (7,), "skip" in architecture)
    codes = answers(architecture, t, x @ t["W_enc"])
    skipped = x @ t["W_skip"].T if "W_skip" in t else 0.0
    check(sae, x, codes, t["W_dec"], codes @ t["W_dec"] + t["b_dec"] + skipped)
    back = load_sae(save_saelens(sae, tmp_path / "again"))
    check(back, x, codes, t["W_dec"], codes @ t["W_dec"] + t["b_dec"] + skipped)


def test_a_feature_without_an_atom_keeps_its_values(tmp_path: Path, rng: torch.Generator) -> None:
    t, x = weights(rng, "b_enc"), signals(rng)
    t["W_dec"][7] = 0
    codes = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    sae = load_sae(lens_folder(tmp_path / "theirs", t, {"architecture": "standard"}))
    near(sae.encode(x).dense()[:, 7], codes[:, 7])
    near(sae(x).detach(), codes @ t["W_dec"] + t["b_dec"])


def test_half_precision_is_read_as_the_numbers_it_holds(tmp_path: Path, rng: torch.Generator) -> None:
    t, x = {name: v.bfloat16() for name, v in weights(rng, "b_enc").items()}, signals(rng)
    cfg = {"architecture": "topk", "k": K, "dtype": "bfloat16"}
    sae, exact = load_sae(lens_folder(tmp_path / "theirs", t, cfg)), {name: v.float() for name, v in t.items()}
    codes = answers("topk", exact, (x - exact["b_dec"]) @ exact["W_enc"])
    check(sae, x, codes, exact["W_dec"], codes @ exact["W_dec"] + exact["b_dec"])


def test_a_fixed_normalisation_is_folded_and_another_refused(tmp_path: Path, rng: torch.Generator) -> None:
    t, x, factor = weights(rng, "b_enc"), signals(rng), 0.37
    cfg = {"architecture": "standard", "normalize_activations": "expected_average_only_in"}
    folder = lens_folder(tmp_path / "theirs", t, cfg)
    with pytest.raises(ClocheError, match=r"no activation_scaler\.json beside it says by which number"):
        load_sae(folder)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    codes = ((x * factor - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    sae = load_sae(folder)
    near(sae.encode(x).dense(), codes * t["W_dec"].norm(dim=1) / factor)
    near(sae(x).detach(), (codes @ t["W_dec"] + t["b_dec"]) / factor)


def test_an_old_description_is_read_as_saelens_reads_it(tmp_path: Path, rng: torch.Generator) -> None:
    t, x = weights(rng, "b_enc"), signals(rng)
    folder = lens_folder(tmp_path / "theirs", t | {"scaling_factor": torch.ones(FEATURES)}, {})
    stated = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "torch.float32", "hook_point": "blocks.8.hook_resid_pre"}
    stated |= {
        "hook_point_layer": 8,
        "model_name": "gpt2-small",
        "l1_coefficient": 8e-5,
        "normalize_activations": False,
    }
    (folder / "cfg.json").write_text(json.dumps(stated))
    save_file({"sparsity": torch.full((FEATURES,), -1.0)}, folder / "sparsity.safetensors")
    sae = load_sae(folder)
    assert sae.trained_on.site == "resid_pre[8]" and sae.l0 == pytest.approx(FEATURES / 10)
    codes = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    check(sae, x, codes, t["W_dec"], codes @ t["W_dec"] + t["b_dec"])
    (folder / "cfg.json").write_text(
        json.dumps(stated | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}})
    )
    assert load_sae(folder).kind == TopK() and load_sae(folder).l0 == K


@pytest.mark.parametrize(
    ("cfg", "sentence"),
    [
        ({"normalize_activations": "layer_norm"}, "'layer_norm', which no fixed factor can replace"),
        ({"normalize_activations": "constant_norm_rescale"}, "which no fixed factor can replace"),
        ({"normalize_activations": "covariance_whitening"}, "which no fixed factor can replace"),
        ({"reshape_activations": "sideways"}, "'sideways', which cloche does not support"),
        ({"finetuning_scaling_factor": True}, "rescales values"),
        ({"activation_fn": "tanh-relu"}, "'tanh-relu', which no kind computes"),
        ({"activation_fn_str": "tanh-relu", "metadata": None}, "'tanh-relu', which no kind computes"),
        ({"use_error_term": True}, "use_error_term = True, which cloche does not support: take it out"),
        ({"architecture": "temporal"}, "architecture 'temporal', which is not supported: use one of standard"),
        ({"architecture": "gated"}, "lacks b_gate, b_mag, r_mag, which its description needs"),
        ({"architecture": "topk"}, "states k as None, which is not a number"),
        ({"architecture": "topk", "k": 41}, "l0 = 41 is impossible"),
        ({"architecture": "transcoder", "d_out": 12}, "no transcoder supports"),
        ({"d_sae": 39}, r"W_enc in .* has shape \[12, 40\], but its description says \[12, 39\]"),
        ({"d_in": None}, "states d_in as None"),
        ({"apply_b_dec_to_input": "no"}, "neither true nor false"),
    ],
)
def test_what_is_not_understood_gets_one_sentence(
    cfg: dict[str, Any], sentence: str, tmp_path: Path, rng: torch.Generator
) -> None:
    folder = lens_folder(tmp_path / "theirs", weights(rng, "b_enc"), {"architecture": "standard"} | cfg)
    with pytest.raises(ClocheError, match=sentence) as raised:
        load_sae(folder)
    assert "\n" not in str(raised.value) and (str(folder) in str(raised.value) or "l0" in sentence)


def test_files_that_are_damaged_or_not_there(tmp_path: Path, rng: torch.Generator) -> None:
    t = weights(rng, "b_enc")
    broken = lens_folder(tmp_path / "nan", t | {"b_enc": torch.full((FEATURES,), torch.nan)}, {})
    with pytest.raises(ClocheError, match=r"b_enc in .* contains NaN"):
        load_sae(broken)
    with pytest.raises(ClocheError, match="holds odd, which cloche does not support"):
        load_sae(lens_folder(tmp_path / "more", t | {"odd": torch.ones(2)}, {}))
    (broken / "sae_weights.safetensors").write_bytes(b"torn")
    with pytest.raises(ClocheError, match="cannot be read"):
        load_sae(broken)
    (broken / "cfg.json").write_text("{")
    with pytest.raises(ClocheError, match="not readable as JSON"):
        load_sae(broken)
    (broken / "cfg.json").write_text("[]")
    with pytest.raises(ClocheError, match="not contain a JSON object"):
        load_sae(broken)
    with pytest.raises(ClocheError, match=r"has no dictionary\.json"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("hook", "more", "site"),
    [
        ("blocks.0.hook_mlp_out", {}, "mlp_out[0]"),
        ("blocks.2.attn.hook_z", {}, "z[2]"),
        ("blocks.2.attn.hook_z", {"hook_head_index": 1}, "z[2].head(1)"),
        ("blocks.2.hook_attn_out", {"hook_head_index": 1}, None),
        (
            "blocks.2.hook_resid_mid",
            {"model_from_pretrained_kwargs": {"center_writing_weights": False}},
            "resid_mid[2]",
        ),
        ("blocks.2.hook_resid_mid", {"model_from_pretrained_kwargs": {"center_writing_weights": True}}, None),
        ("blocks.2.ln2.hook_normalized", {}, None),
        ("model.layers.3", {}, None),
        (None, {}, None),
    ],
)
def test_a_site_is_named_only_where_it_is_the_same_activations(
    hook: str | None, more: dict[str, Any], site: str | None, tmp_path: Path, rng: torch.Generator
) -> None:
    metadata = {"sae_lens_version": "6.54.0", "hook_name": hook, **more}
    sae = load_sae(lens_folder(tmp_path / "t", weights(rng, "b_enc"), {"metadata": metadata}))
    assert sae.trained_on.site == site
    if site:
        cfg = json.loads((save_saelens(sae, tmp_path / "again") / "cfg.json").read_text())
        assert cfg["metadata"]["hook_name"] == hook
        assert cfg["reshape_activations"] == ("hook_z" if site == "z[2]" else "none")
        assert load_sae(tmp_path / "again").trained_on == sae.trained_on


def test_an_unstated_l0_is_said_aloud(tmp_path: Path, rng: torch.Generator) -> None:
    folder = lens_folder(tmp_path / "theirs", weights(rng, "b_enc"), {})
    with pytest.warns(UserWarning, match="does not say how many features are active, so l0 stands at all 40"):
        assert load_sae(folder).l0 == FEATURES
