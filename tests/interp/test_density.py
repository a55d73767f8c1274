"""Activation density where it is known: neurons made to fire on chosen tokens, and Gaussian units, which are not sparse."""

import math

import numpy as np
import pytest
import torch
from hand_built import LAYERS, TOKENS, echo, glass
from torch import Tensor

from cloche.errors import ClocheError
from cloche.interp import Finding, activation_density
from cloche.interp.density import CLAIMS, hoyer, verdict
from cloche.model import GLU, LM, MLP, Attention, Block, MoE, Network, RMSNorm, Shifted, Stack
from cloche.runs import Run

FIRES_ON = {0: (4,), 1: (4, 7), 2: (1, 2, 3)}  # unit of layer 1 -> tokens


def wired() -> Network:
    """`echo`, but three units of layer 1 fire on known tokens; what they add goes nowhere."""
    net = echo()
    with torch.no_grad():
        inner = net.get_parameter("body.layers.1.map.inner.weight")
        for unit, tokens in FIRES_ON.items():
            inner[unit, list(tokens)] = 1.0
    return net


def text(batches: int = 6, length: int = 33, vocab: int = TOKENS) -> list[Tensor]:
    return list(torch.randint(vocab, (batches, 4, length), generator=torch.Generator().manual_seed(0)).unbind())


def row(finding: Finding, site: str) -> dict:
    return next(row for row in finding.data["sites"] if row["site"] == site)


def test_known_neurons_fire_as_often_as_their_tokens_come() -> None:
    windows = text()
    finding = activation_density(glass(wired()), windows)
    seen = torch.cat([window[:, 1:].flatten() for window in windows])
    assert finding.data["tokens"] == len(seen) and finding.checkpoint == "step-000001"
    expected = torch.zeros(TOKENS)
    for unit, tokens in FIRES_ON.items():
        expected[unit] = torch.isin(seen, torch.tensor(tokens)).float().mean()
    for criterion in range(3):
        torch.testing.assert_close(torch.from_numpy(finding.arrays["mlp_act[1]"])[criterion], expected)
    measured = row(finding, "mlp_act[1]")
    assert measured["headline"] == "not zero"
    assert measured["density"] == pytest.approx([float(expected.mean())] * 3)
    assert measured["dead"] == [9 / 12] * 3
    assert sum(measured["histogram"][0]) == 3
    firing = torch.stack([torch.isin(seen, torch.tensor(tokens)) for tokens in FIRES_ON.values()]).sum(0)
    ranked = firing.sort().values
    for share, found in zip((0.1, 0.5, 0.9), measured["quantiles"][0], strict=True):
        assert found * TOKENS == ranked[math.ceil(share * len(seen)) - 1]
    for layer in (0, 2):  # the control: nothing was put there
        silent = row(finding, f"mlp_act[{layer}]")
        assert silent["density"] == [0, 0, 0] and silent["dead"] == [1, 1, 1] and silent["kurtosis"] is None
    assert row(finding, "resid_post[1]")["density"][0] == pytest.approx(1 / TOKENS)  # one axis a token


def test_the_thresholds_are_of_the_rms_of_all_the_text() -> None:
    """A unit whose size is 5% of the layer's RMS is above the first threshold and below the second."""
    net = wired()
    with torch.no_grad():
        net.get_parameter("body.layers.1.map.inner.weight")[5, 9] = 0.02
    windows = [torch.full((2, 9), 4), torch.full((2, 9), 9)]  # alone, the second batch would be loud
    measured = row(activation_density(glass(net), windows), "mlp_act[1]")
    size = measured["rms"]
    assert size == pytest.approx(math.sqrt((2 + 0.02**2) / (2 * TOKENS)) * math.sqrt(TOKENS), rel=1e-3)
    share = 0.5 / TOKENS
    assert measured["density"] == pytest.approx(
        [3 * share, 3 * share if 0.01 * size < 0.0693 else 2 * share, 2 * share]
    )


def gaussian(activation: str = "identity", width: int = 64, vocab: int = 3_000) -> Network:
    """Stream and neurons are Gaussian: random embeddings, random rows, nothing written."""
    net = LM(vocab, width, Stack(2, Block(Attention(heads=1), MLP(activation, hidden=96), RMSNorm()))).build(0)
    with torch.no_grad():
        for layer in net.layers:
            layer.mix.out.weight.zero_()
            layer.map.outer.weight.zero_()
    return net


def test_gaussian_units_are_found_dense() -> None:
    finding = activation_density(glass(gaussian()), text(20, 101, 3_000))
    reference = finding.data["gaussian"]
    assert reference["density"] == pytest.approx([1, math.erfc(0.01 / 2**0.5), math.erfc(0.1 / 2**0.5)])
    for site in ("mlp_act[0]", "mlp_act[1]", "resid_post[0]", "resid_post[1]"):
        measured = row(finding, site)
        assert measured["headline"] == "above 0.01 RMS"
        assert measured["density"] == pytest.approx(reference["density"], abs=0.003)
        assert measured["kurtosis"] == pytest.approx(3, abs=0.15)
        assert measured["hoyer"] == pytest.approx(reference["hoyer"], abs=0.04)
        assert measured["dead"] == [0, 0, 0]
    assert "over both the 0.5%" in finding.summary


@pytest.mark.parametrize("activation", ["relu", "relu2", Shifted("relu", 1.0)])
def test_rectified_gaussians_are_active_where_the_gaussian_is(activation) -> None:
    finding = activation_density(glass(gaussian(activation)), text(20, 101, 3_000))
    measured = row(finding, "mlp_act[1]")
    share = math.erfc((1.0 if isinstance(activation, Shifted) else 0.0) / 2**0.5) / 2
    assert measured["headline"] == "not zero" and measured["density"][0] == pytest.approx(share, abs=0.01)
    assert measured["kurtosis"] > 4
    assert finding.data["neurons"][0] == pytest.approx(measured["density"][0], abs=0.01)
    assert finding.data["verdicts"] == [verdict(mean) for mean in finding.data["neurons"]]


def test_the_division_into_batches_does_not_matter() -> None:
    windows = text()
    one = activation_density(glass(gaussian("relu", vocab=TOKENS)), windows)
    other = activation_density(glass(gaussian("relu", vocab=TOKENS)), (w for w in torch.cat(windows).split(7)))
    for a, b in zip(one.data["sites"], other.data["sites"], strict=True):
        assert a["density"] == b["density"] and a["quantiles"] == b["quantiles"]
        assert [a["hoyer"], a["kurtosis"], a["rms"]] == pytest.approx([b["hoyer"], b["kurtosis"], b["rms"]], rel=1e-5)


def test_against_the_definitions() -> None:
    """Every figure again in numpy, from the saved activations of a gated network."""
    net = LM(40, 16, Stack(2, Block(Attention(heads=2), GLU("silu", hidden=24)))).build(0)
    windows = text(3, 21, 40)
    finding = activation_density(glass(net), windows, (0.05, 0.5), also=("mlp_in",))
    for site in ("mlp_act[1]", "mlp_in[0]", "resid_post[1]"):
        x = np.concatenate([net.run(w, save=[site])[site][:, 1:].flatten(0, 1).double().numpy() for w in windows])
        measured, rms = row(finding, site), np.sqrt((x**2).mean())
        assert measured["rms"] == pytest.approx(rms)
        for i, cut in enumerate((0, 0.05, 0.5)):
            assert measured["density"][i] == pytest.approx((abs(x) > cut * rms).mean(), abs=1e-6)
        centred = x - x.mean(0)
        kurtosis = (centred**4).mean(0) / (centred**2).mean(0) ** 2
        assert measured["kurtosis"] == pytest.approx(np.median(kurtosis), rel=1e-4)
        root = np.sqrt(x.shape[1])
        sparse = (root - abs(x).sum(1) / np.sqrt((x**2).sum(1))) / (root - 1)
        assert measured["hoyer"] == pytest.approx(sparse.mean(), rel=1e-5)


def test_hoyer_at_its_ends() -> None:
    rows = torch.tensor([[1.0, 1, -1, 1], [0, 0, 3, 0], [0, 0, 0, 0], [3, 0, 3, 0]])
    assert hoyer(rows).tolist() == pytest.approx([0, 1, 1, 2 - 2**0.5], abs=1e-6)
    assert hoyer(torch.ones(2, 1)).tolist() == [0, 0]


def test_layers_of_experts_are_named_and_left_out() -> None:
    mix = Attention(heads=2)
    blocks = (Block(mix, MoE(3, 1, GLU(hidden=8))), Block(mix, MLP("relu", hidden=20)))
    finding = activation_density(glass(LM(TOKENS, 16, Stack(4, blocks)).build(0)), text())
    assert finding.data["skipped"] == {"0": "MoE", "2": "MoE"}
    assert [r["site"] for r in finding.data["sites"] if "mlp_act" in r["site"]] == ["mlp_act[1]", "mlp_act[3]"]
    assert "layers of experts left out: 0, 2" in finding.summary


def test_where_a_density_lies_among_the_claims() -> None:
    assert CLAIMS == {"transformer": (0.0, 0.005), "cortex": (0.01, 0.05)}
    assert verdict(0.004).startswith("under the 0.5%")
    assert verdict(0.007).startswith("between the 0.5%")
    assert "within the 1% to 5% of cortex" in verdict(0.03)
    assert verdict(0.2).startswith("over both")


def test_a_finding_that_can_be_kept_and_seen(tmp_path) -> None:
    finding = activation_density(glass(wired()), text())
    run = Run.create(tmp_path / "run", recipe="", seed=0, command=[])
    back = Finding.load(finding.save(run))
    assert back.table() == finding.table() and back.summary == finding.summary
    assert (
        finding.table().splitlines()[3].split()[:3] == ["mlp_act[1]", "12", "4.47%"] or "mlp_act[1]" in finding.table()
    )
    page = finding._repr_html_()
    assert page.count('<b class="dot') == 2 * LAYERS and "cortex" in page and "never active" in page
    assert finding.null is not None and finding.null.keys() == finding.figures.keys()
    assert finding.figures["active"] < 0.1 < finding.null["active"]  # Gaussian units, where nothing is sparse


def only_experts() -> Network:
    return LM(TOKENS, 16, Stack(2, Block(Attention(heads=2), MoE(3, 1, GLU(hidden=8))))).build(0)


@pytest.mark.parametrize(
    ("net", "windows", "options", "sentence"),
    [
        (echo, [], {}, "no text"),
        (echo, [torch.zeros(2, 1, dtype=torch.int64)], {}, "no text"),
        (echo, text(1), {"thresholds": ()}, "between 0 and 1"),
        (echo, text(1), {"thresholds": (0.1, 2.0)}, "between 0 and 1"),
        (echo, text(1), {"also": ("z",)}, "one row of units per token"),
        (echo, text(1), {"also": ("nowhere",)}, "nowhere"),
        (only_experts, text(1), {}, "layer 0 holds MoE"),
    ],
)
def test_misuse_of_density_gets_one_sentence(net, windows, options, sentence: str) -> None:
    with pytest.raises(ClocheError, match=sentence):
        activation_density(glass(net()), windows, **options)
