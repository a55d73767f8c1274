"""`model_diff`: a planted change is found and nothing else; equal models do not differ; bad input is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import cloche
from cloche import GLU, LM, Attention, Block, Stack
from cloche.cli.app import app
from cloche.drawing import Bars, Tokens
from cloche.errors import CorpusEmpty, InstrumentOption
from cloche.interp import model_diff
from cloche.interp.similarity.diff_panels import second_share
from cloche.model import save_network
from cloche.sparse import SAE
from cloche.sparse.saes import Wiring

SPEC = LM(64, 32, Stack(3, Block(Attention(4), GLU())))
WIDE = LM(259, 32, Stack(3, Block(Attention(4), GLU())))  # as many tokens as a tokenizer of bytes


def model(seed: int = 0, spec: LM = SPEC) -> cloche.Glass:
    return cloche.Glass(spec.build(seed=seed), checkpoint=f"seed-{seed}")


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randint(64, (8, 30), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def changed() -> cloche.Glass:
    return planted(model())


def planted(glass: cloche.Glass) -> cloche.Glass:
    """With an MLP of layer 1 that also writes along the row of the head for token 7."""
    weight = glass.net.layers[1].map.outer.weight
    with torch.no_grad():
        direction = glass.net.unembed_weight()[7]
        weight += 0.5 * torch.outer(direction / direction.norm(), torch.randn(weight.shape[1]))
    return glass


def test_a_planted_change_is_found_where_it_is(changed: cloche.Glass, text: Tensor) -> None:
    found = model_diff(model(), [text], changed)
    first, *rest = found.data["moved"]
    assert first["name"] == "body.layers.1.map.outer.weight" and first["leading"] > 0.999
    assert "7" in (first["tokens"][0], first["tokens"][-1])  # either end: a direction has no sign
    assert all(each["relative"] == 0 and each["cosine"] == pytest.approx(1) for each in rest)
    assert (
        found.arrays["distance"][:2].tolist() == [0, 0] and found.arrays["distance"][2] > 0.1
    )  # embed, layer 0, layer 1
    assert found.arrays["lens"][0] == pytest.approx(0, abs=1e-6) and found.arrays["lens"][2] > 0.01
    losses = torch.stack(
        [torch.nn.functional.cross_entropy(g.net(text)[:, :-1].mT, text[:, 1:]) for g in (model(), changed)]
    )
    assert found.figures["loss_change"] == pytest.approx(float((losses[1] - losses[0]).detach()), abs=1e-5)
    assert found.figures["loss_low"] < found.figures["loss_change"] < found.figures["loss_high"]
    passages = next(panel for panel in found.panels if isinstance(panel, Tokens)).passages
    change = torch.from_numpy(found.arrays["losses"]).diff(dim=0)
    assert max(passages[0].values) == pytest.approx(float(-change.min()))  # the easiest comes first


def test_equal_models_do_not_differ(text: Tensor) -> None:
    found = model_diff(model(), [text], model())
    assert set(found.figures.values()) == {0.0} and found.summary.endswith("no parameter differs.")
    assert found.null["loss_change"] == 0


def test_the_null_is_what_a_seed_changes_or_random_halves_of_the_text(changed: cloche.Glass, text: Tensor) -> None:
    small = model_diff(model(), [text], changed)
    reseeded = model_diff(model(), [text], changed, reseeded=model(1))
    assert reseeded.null["moved"] > 1 > reseeded.figures["moved"] > 0
    changes = torch.from_numpy(small.arrays["losses"]).diff(dim=0).view(8, -1).mean(1)
    assert small.null["loss_change"] == pytest.approx(
        float(2 * changes.std(correction=0) / 7**0.5), rel=0.2
    )  # of 4 against 4


def test_models_of_other_sizes_are_compared_by_their_losses(text: Tensor) -> None:
    found = model_diff(model(), [text], model(0, LM(64, 16, Stack(1, Block(Attention(2), GLU())))))
    assert set(found.figures) == {"loss_change", "loss_low", "loss_high"} and found.data["moved"] == []
    assert "different trees" in found.summary


def test_features_of_a_crosscoder_are_ranked_by_model(text: Tensor) -> None:
    sae = SAE(Wiring((32, 32)), 16, l0=4)
    with torch.no_grad():
        sae.decoder[3, :32] = 0
        sae.decoder[5, 32:] = 0
    share = second_share(sae)
    assert share[3] == 1 and share[5] == 0 and 0 < share[0] < 1
    panels = model_diff(model(), [text], model(1), sae=sae).panels
    assert any(isinstance(panel, Bars) for panel in panels) and panels[-1].rows[0] == ("feature 5", 0.0)
    with pytest.raises(InstrumentOption, match="two places"):
        model_diff(model(), [text], model(1), sae=SAE(32, 16, l0=4))


def test_bad_input_is_one_sentence(text: Tensor) -> None:
    other = model(0, LM(65, 32, Stack(3, Block(Attention(4), GLU()))))
    with pytest.raises(InstrumentOption, match=r"other= has 65 tokens and this model 64"):
        model_diff(model(), [text], other)
    with pytest.raises(InstrumentOption, match=r"reseeded= has 65"):
        model_diff(model(), [text], model(), reseeded=other)
    with pytest.raises(CorpusEmpty, match="no second token"):
        model_diff(model(), [text[:, :1]], model())


def test_cloche_diff_writes_a_page_and_json(tmp_path: Path) -> None:
    for name, glass in (("a", model(0, WIDE)), ("b", planted(model(0, WIDE)))):
        save_network(glass.net, tmp_path / name)
        cloche.train_bpe(["a"], vocab=259).save(tmp_path / name)
    (tmp_path / "text.txt").write_text("a b c d e f g " * 9)
    command = ["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--text", str(tmp_path / "text.txt"), "--json"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["data"]["moved"][0]["name"] == "body.layers.1.map.outer.weight"
    assert (
        "<h1>" in (tmp_path / "page.html").read_text()
        and "Parameters that moved most" in (tmp_path / "page.html").read_text()
    )


def test_weights_that_were_all_zero_moved_by_a_finite_share() -> None:
    nothing, other = cloche.Glass(SPEC.build(seed=0)), cloche.Glass(SPEC.build(seed=1))
    with torch.no_grad():
        for parameter in nothing.net.parameters():
            parameter.zero_()
    ids = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))
    assert model_diff(nothing, [ids], other).figures["moved"] == 1.0
    assert model_diff(nothing, [ids], nothing).figures["moved"] == 0.0
