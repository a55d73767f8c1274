"""Learned lenses where the map is known, where there is nothing to learn, over all families, and kept in a run."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hand_built import glass
from torch import Tensor

import cloche
from cloche.data import prepare
from cloche.errors import ClocheError
from cloche.interp import (
    JacobianConfig,
    Lens,
    LensConfig,
    lens_comparison,
    open_lens,
    save_lens,
    train_lens,
    tuned_lens,
)
from cloche.model import (
    GLU,
    LM,
    MLP,
    Attention,
    Block,
    LayerNorm,
    Network,
    NoNorm,
    Norm,
    RMSNorm,
    RoPE,
    Stack,
    load_network,
    save_network,
)
from cloche.runs import Run, verify

sys.path.append(str(Path(__file__).resolve().parents[1] / "model"))  # the table of families
WIDTH, VOCAB = 16, 40


def straight(norm: Norm) -> Network:
    """Three layers, the last two of which are h + W_out W_in h: no norm, identity activation, attention that writes 0."""
    first = Block(Attention(2, position=RoPE()), GLU("silu", hidden=24), RMSNorm())
    linear = Block(Attention(2, position=RoPE()), MLP("identity", hidden=12), NoNorm())
    net = LM(VOCAB, WIDTH, Stack(3, (first, linear, linear)), norm).build(seed=3)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "mix.out" in name and not name.startswith("body.layers.0."):
                parameter.zero_()
    return net


def product(net: Network, layers: int) -> Tensor:
    """The product of I + W_out W_in over the last layers."""
    found = torch.eye(WIDTH)
    for block in net.layers[-layers:]:
        found = found + block.map.outer.weight.detach() @ block.map.inner.weight.detach() @ found
    return found


def text(rows: int, length: int = 32, vocab: int = VOCAB, seed: int = 0) -> Tensor:
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", [RMSNorm(), LayerNorm()])
def test_layers_that_are_linear_are_found(norm: Norm) -> None:
    net = straight(norm)
    lens = train_lens(glass(net), [text(64)], LensConfig(steps=8, batch=512))
    found = lens_comparison(glass(net), [text(16, seed=1)], lens)
    weight = lens.maps["tuned lens"].weight
    assert weight is not None
    for before, layers in ((1, 2), (2, 1)):  # sites: embed, resid_post[0], resid_post[1]
        assert found.data["kl"]["tuned lens"][before] < 1e-6 < found.data["kl"]["logit lens"][before]
        assert torch.allclose(torch.eye(WIDTH) + weight[before], product(net, layers), atol=1e-4)
    assert found.data["kl"]["tuned lens"][0] > 0.01, "the first layer is not linear"


def test_shuffled_targets_teach_the_mean_prediction_alone() -> None:
    subject, held = glass(straight(NoNorm())), [text(16, seed=1)]  # a norm would fix how sure a constant prediction is
    lens = train_lens(subject, [text(128)], LensConfig(steps=24, batch=1024, shuffled=True))
    found = lens_comparison(subject, held, lens)
    assert found.null is not None
    for kl in found.data["kl"]["tuned lens"]:
        assert kl == pytest.approx(found.data["unigram"], rel=0.06)
    learned = train_lens(subject, [text(128)], LensConfig(steps=4, batch=1024))
    assert lens_comparison(subject, held, learned).figures["tuned"] < 0.5 * found.null["tuned"]


@pytest.fixture(scope="module")
def random_model() -> Callable[[int], Any]:
    """transformers' model of a number; the first numbers are of different families."""
    pytest.importorskip("transformers")
    from family_table import built
    from random_configs import random_config

    return lambda number: built(*random_config(number), seed=number)


@pytest.mark.parametrize("number", range(14))
def test_in_every_family_a_richer_lens_is_nearer_at_every_layer(
    number: int, random_model: Callable[[int], Any], tmp_path: Path
) -> None:
    random_model(number).save_pretrained(tmp_path)
    subject = glass(load_network(tmp_path, check_sites=False))
    vocab = subject.net.spec.vocab
    lens = train_lens(subject, [text(64, 24, vocab)], LensConfig(steps=8, batch=384))
    found = lens_comparison(subject, [text(24, 24, vocab, seed=1)], lens)
    kl = {kind: torch.tensor(values) for kind, values in found.data["kl"].items()}
    slack = 0.01 * kl["logit lens"] + 1e-4  # of other text
    assert (kl["tuned lens"] <= kl["bias only"] + slack).all() and (kl["bias only"] <= kl["logit lens"] + slack).all()
    assert found.figures["tuned"] < found.figures["logit"]
    shown = tuned_lens(subject, text(1, 12, vocab)[0], lens, top=3)
    own = subject.net.run(text(1, 12, vocab)).logits[0].argmax(-1)
    assert shown.arrays["top_ids"][-1, :, 0].tolist() == own.tolist() and shown.data["kl"][-1] < 1e-5


@torch.no_grad()
def test_the_divergence_is_that_of_plain_arithmetic() -> None:
    net = straight(LayerNorm())
    lens = train_lens(glass(net), [text(8)], LensConfig(steps=0))
    ids = text(3, seed=2)
    found = lens_comparison(glass(net), [ids], lens)
    result = net.run(ids, save=[net.sites.embed])
    own = result.logits.double().log_softmax(-1)
    h = result["embed"].double()
    each = lens.maps["ridge map"]
    assert each.weight is not None
    moved = h + h @ each.weight[0].double().T + each.bias[0].double()
    q = net.unembed(net.final_norm(moved.float())).double().log_softmax(-1)
    assert found.data["kl"]["ridge map"][0] == pytest.approx(float((own.exp() * (own - q)).sum(-1).mean()), rel=1e-4)
    mean = own.exp().mean((0, 1)).log()
    assert found.data["unigram"] == pytest.approx(float((own.exp() * (own - mean)).sum(-1).mean()), rel=1e-4)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, config = glass(straight(RMSNorm())), LensConfig(steps=0)
    whole = lens_comparison(subject, [text(4)], train_lens(subject, [text(16)], config))
    monkeypatch.setattr("cloche.interp.lenses.divergence.CELLS", 7 * VOCAB)
    parts = lens_comparison(subject, [text(4)], train_lens(subject, [text(16)], config))
    assert parts.figures == pytest.approx(whole.figures, rel=1e-5)


def test_a_model_in_bfloat16_has_a_lens() -> None:
    net = LM(VOCAB, WIDTH, Stack(2, Block(Attention(2), GLU(hidden=24)))).build(seed=0)
    whole, half = ([text(32)], [text(8, seed=1)]), glass(net.to(torch.bfloat16))
    lens = train_lens(half, whole[0], LensConfig(steps=8, batch=256))
    found = lens_comparison(half, whole[1], lens).figures
    assert found["tuned"] < found["bias"] < found["logit"] and found["share"] > 0.5
    assert tuned_lens(half, [1, 2, 3], lens, top=2).figures["kl"] < 1


def small_run(folder: Path, checkpoints: int = 2) -> Run:
    (folder / "text.txt").write_text(" ".join(f"the cat {i} sat on the mat {i * i}." for i in range(900)))
    run = Run.create(folder / "run", recipe="")
    prepare([folder / "text.txt"], run.path, vocab=280)
    for step in range(checkpoints):
        net = LM(280, 16, Stack(2, Block(Attention(2), GLU(hidden=16)))).build(seed=step)
        with run.new_checkpoint(step) as checkpoint:
            save_network(net, checkpoint)
    return run


def test_a_lens_is_kept_in_the_run_and_read_again(tmp_path: Path) -> None:
    run = small_run(tmp_path, 1)
    subject = cloche.load(run)
    lens = train_lens(subject, [text(8, vocab=280)], LensConfig(steps=1))
    save_lens(run, lens)
    again = open_lens(run, subject.checkpoint)
    assert again.sites == lens.sites and again.checkpoint == subject.checkpoint and again.tokens == lens.tokens
    for kind, each in lens.maps.items():
        for one, two in zip(each, again.maps[kind], strict=True):
            assert (one is None and two is None) or torch.equal(one, two)
    assert not verify(run.path).problems and run.is_recorded(f"lenses/{subject.checkpoint}/lens.json")
    other = cloche.Glass(subject.net, subject.tokenizer, checkpoint="step-000999")
    assert "trained on step-000000" in tuned_lens(other, [1, 2, 3], again).notes[0]


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("lens.json", b"{}", "lens.json format: field required"),
        ("lens.json", b"", "lens.json is not JSON"),
        ("lens.json", b"[]", "lens.json: input should be a valid dictionary"),
        ("lens.json", b"null", "lens.json: input should be a valid dictionary"),
        ("lens.json", b"[" * 5000, "lens.json is not JSON"),
        ("lens.json", b'{"format": 2}', "lens.json has format 2, and this version of cloche reads 1"),
        ("lens.json", b'{"format": 1, "kind": "untuned"}', "lens.json kind: input should be 'tuned'"),
        ("lens.json", b"x" * 2_000_000, "lens.json is too large"),
        ("lens.json", None, "it has no lens.json"),
        ("lens.safetensors", b"no", "the sha256 of lens.safetensors differs"),
        ("lens.safetensors", None, "it has no lens.safetensors"),
    ],
)
def test_a_damaged_lens_is_one_sentence(tmp_path: Path, file: str, content: bytes | None, sentence: str) -> None:
    run = Run.create(tmp_path / "run", recipe="")
    subject = glass(straight(RMSNorm()))
    folder = save_lens(run, train_lens(subject, [text(4)], LensConfig(steps=0)), "mine")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ClocheError, match=r"cannot be read as a lens \(" + re.escape(sentence)) as caught:
        open_lens(run, "mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [0, 9, 200, -1])
def test_a_flipped_byte_is_found(tmp_path: Path, place: int) -> None:
    run = Run.create(tmp_path / "run", recipe="")
    path = save_lens(run, train_lens(glass(straight(RMSNorm())), [text(4)], LensConfig(steps=0)), "mine")
    data = bytearray((path / "lens.safetensors").read_bytes())
    data[place] ^= 4
    (path / "lens.safetensors").write_bytes(data)
    with pytest.raises(ClocheError, match="sha256"):
        open_lens(run, "mine")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": "16"}, "width: input should be a valid integer"),
        ({"width": 8}, "do not have the shapes"),
        ({"sites": ["embed"]}, "do not have the shapes"),
        ({"sites": [1, 2, 3]}, "sites 0: input should be a valid string"),
        ({"kinds": []}, "kinds of maps"),
        ({"kinds": ["other"]}, "kinds of maps"),
        ({"kinds": ["Jacobian lens"]}, "do not have the shapes"),
        ({"jacobian": "yes"}, "jacobian: input should be a valid dictionary"),
        ({"jacobian": {"texts": 1}}, "jacobian tokens: field required"),
    ],
)
def test_a_card_of_another_lens_is_one_sentence(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    run = Run.create(tmp_path / "run", recipe="")
    card = save_lens(run, train_lens(glass(straight(RMSNorm())), [text(4)], LensConfig(steps=0)), "mine") / "lens.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    with pytest.raises(ClocheError, match=sentence) as caught:
        open_lens(run, "mine")
    assert "\n" not in str(caught.value)


def test_misuse_gets_one_sentence(tmp_path: Path) -> None:
    subject = glass(straight(RMSNorm()))
    run = Run.create(tmp_path / "run", recipe="")
    lens = train_lens(subject, [text(4)], LensConfig(steps=0))
    other = glass(LM(VOCAB, WIDTH, Stack(2, Block(Attention(2), GLU()))).build(seed=0))
    for sentence, misuse in (
        ("of width 16 at embed, resid_post", lambda: tuned_lens(other, [1, 2], lens)),
        ("of width 16 at embed, resid_post", lambda: lens_comparison(other, [text(1)], lens)),
        ("at least two windows", lambda: train_lens(subject, [text(1)])),
        ("no tokens", lambda: lens_comparison(subject, [], lens)),
        ("has no lens 'mine'", lambda: open_lens(run, "mine")),
        ("cannot name a lens", lambda: open_lens(run, "../mine")),
        ("rate above 0", lambda: LensConfig(rate=0)),
        ("steps of 0 or more", lambda: LensConfig(steps=-1)),
    ):
        with pytest.raises(ClocheError, match=sentence):
            misuse()
    assert not list(tmp_path.glob("run/lenses/*"))


def test_look_and_trace_train_a_lens_for_each_checkpoint_and_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloche.interp import Materials, fill_in, find_instrument

    monkeypatch.setattr("cloche.interp.lenses.keeping.DEFAULT", LensConfig(steps=1, tokens=1024))
    monkeypatch.setattr("cloche.interp.lenses.keeping.JACOBIAN_DEFAULT", JacobianConfig(tokens=512))
    run = small_run(tmp_path)
    with pytest.raises(ClocheError, match="has no tuned lens of step-000001 yet"):
        fill_in(*find_instrument("tuned-lens"), {}, Materials(cloche.load(run), run, paths=False))
    found = cloche.trace(run, "lens-comparison")
    assert found.null is not None and "gain" in found.null
    assert found.data["figure"] == "tuned" and np_shape(found.data["values"]) == (2, 3)
    assert sorted(path.name for path in (run.path / "lenses").iterdir()) == ["step-000000", "step-000001"]
    written = (run.path / "lenses/step-000001/lens.json").stat().st_mtime_ns
    arguments = fill_in(*find_instrument("tuned-lens"), {}, Materials(cloche.load(run), run))
    assert isinstance(arguments["lens"], Lens) and arguments["lens"].checkpoint == "step-000001"
    assert (run.path / "lenses/step-000001/lens.json").stat().st_mtime_ns == written
    assert not verify(run.path).problems


def np_shape(values: list[list[float]]) -> tuple[int, int]:
    return len(values), len(values[0])
