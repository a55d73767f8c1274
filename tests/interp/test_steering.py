"""Steering vectors: planted directions are found, they steer as the algebra says, nulls do not, files hold what was made."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

import cloche
from cloche import GLU, LM, Attention, Block, Stack
from cloche.cli.app import app
from cloche.errors import (
    ClocheError,
    CorpusEmpty,
    EditInvalid,
    FeatureUnknown,
    FileDamaged,
    FileExists,
    FileMissing,
    FileUnreadable,
    InstrumentOption,
    PathInvalid,
    PromptInvalid,
    RecordInvalid,
    SiteUnknown,
    SiteUnsuitable,
    TokenizerMissing,
    WeightsInvalid,
)
from cloche.interp import (
    Concept,
    SteeringVector,
    feature_vector,
    load_vector,
    mean_norm,
    read_concept,
    steering_comparison,
    steering_vector,
    token_vector,
)
from cloche.interp.steering.making import METHODS, direction_of
from cloche.model import save_network
from cloche.sparse import SAE

WIDTH = 32
SPEC = LM(64, WIDTH, Stack(2, Block(Attention(4), GLU())))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def glass() -> cloche.Glass:
    return cloche.Glass(SPEC.build(seed=0), checkpoint="seed-0")


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randint(64, (4, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def concept() -> Concept:
    """The last token is 7 rather than 8, after any other."""
    return Concept("seven", tuple([i, 7] for i in range(10, 30)), tuple([i, 8] for i in range(10, 30)))


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_shift_is_found(method: str) -> None:
    shift = drawn(64, seed=1)
    shift = 3 * shift / shift.norm()
    base = drawn(2000, 64)
    positive = base + shift + 0.1 * drawn(2000, 64, seed=2)  # pairs that share their base
    found = direction_of(positive, base, method)
    assert float(torch.cosine_similarity(found, shift, dim=0)) > 0.97
    assert float(found @ (positive.mean(0) - base.mean(0))) > 0  # PCA has no sign of its own


def test_the_probe_does_better_than_the_means_where_noise_has_a_direction() -> None:
    shift, noise = torch.eye(8)[0], torch.eye(8)[0] + torch.eye(8)[1]
    positive = shift + 5 * drawn(500, 1) * noise + 0.1 * drawn(500, 8, seed=1)
    negative = 5 * drawn(500, 1, seed=2) * noise + 0.1 * drawn(500, 8, seed=3)
    probe, means = (direction_of(positive, negative, each) for each in ("probe", "mean-difference"))
    spread = [(rows @ d / d.norm()).std() for d in (probe, means) for rows in (positive,)]
    gap = [(positive.mean(0) - negative.mean(0)) @ d / d.norm() for d in (probe, means)]
    assert gap[0] / spread[0] > 2 * gap[1] / spread[1]


def test_after_the_last_layer_a_logit_moves_as_the_head_says(glass: cloche.Glass) -> None:
    net = glass.net
    vector = SteeringVector(drawn(WIDTH), "resid_post[1]", unit=3.0)
    ids = torch.tensor([[1, 2, 3]])
    steered = net.run(ids, save=["final_scale"], edits=vector.edits(net, 0.5))
    clean = net.run(ids, save=["resid_post[1]"])
    stream = clean["resid_post[1]"] + 1.5 * vector.direction
    expected = net.unembed(stream / steered["final_scale"] * net.final_norm.gain)
    assert torch.allclose(steered.logits, expected, atol=1e-4)
    late = net.run(ids, edits=vector.edits(net, 0.5, start=2)).logits
    assert torch.equal(late[:, :2], clean.logits[:, :2]) and not torch.equal(late[:, 2], clean.logits[:, 2])


def test_methods_beat_random_directions_and_shuffled_labels(
    glass: cloche.Glass, concept: Concept, text: Tensor
) -> None:
    found = steering_comparison(glass, concept, [text], "resid_post[0]")
    assert found.figures["auroc"] == 1.0 and found.figures["p"] == pytest.approx(1 / 41)
    assert found.figures["effect"] > 3 * found.null["effect"] and found.figures["consistency"] > 0.5
    assert found.figures["removal"] > 5 * found.null["removal"]
    curve = found.data["methods"][0]["curve"]
    assert [kl for kl, _ in curve] == sorted(kl for kl, _ in curve)  # a longer vector changes more
    assert found.data["budget"] == 0.1 and len(found.data["random"]) == len(found.data["shuffled"]) == 20
    again = steering_comparison(glass, concept, [text], "resid_post[0]")
    assert again.data == found.data


def test_a_concept_that_is_not_there_is_not_found(glass: cloche.Glass, text: Tensor) -> None:
    rows = torch.randint(64, (40, 3), generator=torch.Generator().manual_seed(3)).tolist()
    found = steering_comparison(glass, Concept("nothing", rows[:20], rows[20:]), [text], "resid_post[0]")
    assert 0.2 < found.figures["auroc"] < 0.8 and found.figures["consistency"] < 0.5


def test_features_and_lens_rows_are_directions_too(glass: cloche.Glass, concept: Concept, text: Tensor) -> None:
    sae = SAE(WIDTH, 16, l0=4)
    with pytest.raises(InstrumentOption, match="not an autoencoder of a site"):
        feature_vector(glass, sae, 0, 1.0)
    sae.trained_on = replace(sae.trained_on, site="embed")
    names = [row["method"] for row in steering_comparison(glass, concept, [text], "embed", sae=sae).data["methods"]]
    assert names[:3] == list(METHODS) and names[3].startswith("feature ")
    with pytest.raises(FeatureUnknown, match="0 to 15"):
        feature_vector(glass, sae, 16, 1.0)
    assert torch.allclose(feature_vector(glass, sae, 3, 1.0).direction, sae.dictionary.atoms[3], atol=1e-6)
    row = glass.net.unembed_weight()[5] - glass.net.unembed_weight().mean(0)
    assert torch.allclose(token_vector(glass, 5, "embed", 1.0).direction, row / row.norm(), atol=1e-5)


def test_one_head_is_steered_and_compared_like_a_site(glass: cloche.Glass, concept: Concept, text: Tensor) -> None:
    vector = steering_vector(glass, concept, "z[0].head(1)")
    runs = [glass.net.run([[1, 2]], save=["z[0]"], edits=edits)["z[0]"] for edits in (vector.edits(glass.net, 1.0), [])]
    moved = runs[0] - runs[1]
    assert torch.allclose(moved[0, :, 1], (vector.unit * vector.direction).expand(2, -1), atol=1e-5)
    assert not moved[:, :, [0, 2, 3]].any()
    found = steering_comparison(glass, concept, [text], "z[0].head(1)")
    assert found.data["site"] == "z[0].head(1)" and found.figures["auroc"] == 1.0


def test_texts_of_unequal_number_are_compared_without_pairs(
    glass: cloche.Glass, concept: Concept, text: Tensor
) -> None:
    odd = Concept("odd", concept.positive, concept.negative[:5])
    found = steering_comparison(glass, odd, [text], "resid_post[0]")
    assert [row["method"] for row in found.data["methods"]] == ["mean-difference", "probe"]
    assert "consistency" not in found.figures and found.figures["auroc"] == 1.0
    whole = steering_comparison(glass, odd, [text.flatten()[None]], "resid_post[0]")  # one long text: several windows
    assert whole.figures["p"] == found.figures["p"]


# ---- files


def test_a_vector_is_read_as_it_was_written(tmp_path: Path, glass: cloche.Glass, concept: Concept) -> None:
    made = steering_vector(glass, concept, "resid_post[0]")
    path = made.save(tmp_path / "seven.safetensors")
    read = load_vector(path)
    assert torch.equal(read.direction, made.direction) and (read.site, read.unit, read.card) == (
        made.site,
        made.unit,
        made.card,
    )
    assert read.card["concept"] == "seven" and read.card["positive"] == 20
    with pytest.raises(FileExists):
        made.save(path)
    with pytest.raises(WeightsInvalid, match="width 32, and resid_post"):
        read.edits(LM(64, 16, Stack(1, Block(Attention(2), GLU()))).build(seed=0), 1.0)


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    path = SteeringVector(drawn(8), "resid_post[2]", 3.0, {"concept": "seven"}).save(tmp_path / "v.safetensors")
    whole = path.read_bytes()
    start = whole.index(b"concept") - 40
    for place in (*range(start, start + 60, 3), len(whole) - 32, len(whole) - 1):  # the card, and the direction
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(FileDamaged):
            load_vector(path)


CARD = {"format": 1, "site": "embed", "unit": 1.0}


@pytest.mark.parametrize(
    ("tensors", "card"),
    [
        ({}, CARD),
        ({"direction": torch.ones(4)}, CARD),
        ({"direction": torch.eye(4)}, CARD),
        ({"direction": torch.full((4,), torch.nan)}, CARD),
        ({"direction": torch.eye(4, dtype=torch.long)[0]}, CARD),
        ({"direction": torch.eye(4)[0]}, CARD | {"format": 2}),
        ({"direction": torch.eye(4)[0]}, CARD | {"site": 3}),
        ({"direction": torch.eye(4)[0]}, CARD | {"unit": "1"}),
        ({"direction": torch.eye(4)[0]}, CARD | {"unit": -1.0}),
        ({"direction": torch.eye(4)[0]}, {"format": 1}),
        ({"direction": torch.eye(4)[0]}, []),
        ({"direction": torch.eye(4)[0]}, None),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, tensors: dict[str, Tensor], card: Any) -> None:
    path = tmp_path / "v.safetensors"
    save_file(tensors, path, metadata=None if card is None else {"cloche": json.dumps(card)})
    with pytest.raises(FileDamaged, match="cannot be read as a steering vector") as caught:
        load_vector(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 100, b"x" * 9])
def test_bytes_that_are_no_vector_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.safetensors").write_bytes(content)
    with pytest.raises(FileDamaged):
        load_vector(tmp_path / "v.safetensors")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "null",
        "{}",
        '{"positive": "a"}',
        '{"positive": "a", "negative": 3}',
        '{"positive": "", "negative": "a"}',
        '{"positive": "\\ud800", "negative": "a"}',
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, line: str) -> None:
    good = '{"positive": "a", "negative": "b"}'
    (tmp_path / "c.jsonl").write_text(f"{good}\n\n{line}\n{good}\n")
    with pytest.raises(RecordInvalid, match=r"c\.jsonl:3 is not a record"):
        read_concept(tmp_path / "c.jsonl")


def test_a_concept_in_another_encoding_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"positive": "a\u2028b", "negative": "b"}\n' * 2, encoding="utf-16")
    with pytest.raises(FileUnreadable, match="not UTF-8 text"):
        read_concept(tmp_path / "c.jsonl")
    (tmp_path / "c.jsonl").write_text('{"positive": "a\u2028b", "negative": "b"}\r\n' * 2, encoding="utf-8-sig")
    assert read_concept(tmp_path / "c.jsonl").positive == ("a\u2028b",) * 2  # a line separator may be in a text


def test_bad_input_is_one_sentence(glass: cloche.Glass, concept: Concept, text: Tensor, tmp_path: Path) -> None:
    few = Concept("few", concept.positive[:3], concept.negative[:3])
    same, odd = (
        Concept("same", concept.positive, concept.positive),
        Concept("odd", concept.positive, concept.negative[:5]),
    )
    carded = partial(SteeringVector, torch.ones(4), "embed", 1.0)
    trained, narrow = SAE(WIDTH, 8, l0=2), SAE(16, 8, l0=2)
    trained.trained_on = narrow.trained_on = replace(trained.trained_on, site="embed")
    cases: list[tuple[type[ClocheError], str, Any]] = [
        (PromptInvalid, "give at least 2", lambda: Concept("none", (), ())),
        (PromptInvalid, "at least 4 texts", lambda: steering_comparison(glass, few, [text])),
        (InstrumentOption, "above zero", lambda: steering_comparison(glass, concept, [text], budget=0.0)),
        (PromptInvalid, "predicts the same", lambda: steering_comparison(glass, same, [text])),
        (InstrumentOption, "needs pairs", lambda: steering_vector(glass, odd, method="paired-pca")),
        (PromptInvalid, "same states", lambda: steering_vector(glass, same)),
        (EditInvalid, "not a finite number", lambda: steering_vector(glass, concept).edits(glass.net, float("nan"))),
        (PathInvalid, "ends in .safetensors", lambda: steering_vector(glass, concept).save(tmp_path / "v.bin")),
        (WeightsInvalid, "finite direction", lambda: SteeringVector(torch.zeros(4), "embed", 1.0)),
        (InstrumentOption, "is one of mean-", lambda: steering_vector(glass, concept, method="pca")),  # type: ignore[arg-type]
        (PromptInvalid, "outside the vocabulary", lambda: token_vector(glass, 64, None, 1.0)),
        (SiteUnsuitable, "one vector per token", lambda: steering_vector(glass, concept, "pattern[0]")),
        (SiteUnsuitable, "one vector per token", lambda: steering_vector(glass, concept, "resid_post.all")),
        (CorpusEmpty, "neutral text", lambda: steering_comparison(glass, concept, [text[:, :1]])),
        (PromptInvalid, "same states", lambda: steering_vector(glass, same, method="paired-pca")),
        (PromptInvalid, "same states", lambda: steering_vector(glass, same, method="probe")),
        (EditInvalid, "too long", lambda: steering_vector(glass, concept).edits(glass.net, 1e30)),
        (EditInvalid, "not a finite number", lambda: steering_vector(glass, concept).edits(glass.net, "1")),  # type: ignore[arg-type]
        (SiteUnsuitable, "one vector per token", lambda: SteeringVector(torch.ones(8), "z[0]", 1.0).at(glass.net)),
        (SiteUnsuitable, "one vector per token", lambda: SteeringVector(torch.ones(32), "resid_post.all", 1.0).at(glass.net)),
        (SiteUnknown, "resid_post", lambda: SteeringVector(torch.ones(32), "resid_post[9]", 1.0).at(glass.net)),
        (TokenizerMissing, "tokenizer", lambda: steering_vector(glass, Concept("texts", "ab", "cd"))),
        (WeightsInvalid, "an entry that the file has", lambda: carded({"site": 1}).save(tmp_path / "v.safetensors")),
        (WeightsInvalid, "cannot be saved", lambda: carded({"x": text}).save(tmp_path / "v.safetensors")),
        (InstrumentOption, "trained on embed", lambda: steering_comparison(glass, concept, [text], "mlp_out[0]", sae=trained)),
        (WeightsInvalid, "has width 16", lambda: feature_vector(glass, narrow, 0, 1.0)),
        (SiteUnsuitable, "not as wide", lambda: token_vector(glass, 1, "z[0].head(1)", 1.0)),
        (CorpusEmpty, "measured on text", lambda: mean_norm(glass, "embed", [])),
        (FileMissing, "There is no steering vector", lambda: load_vector(tmp_path / "none.safetensors")),
        (FileMissing, "a file of records", lambda: read_concept(tmp_path / "none.jsonl")),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_cloche_steer_and_generate(tmp_path: Path) -> None:
    save_network(LM(259, WIDTH, Stack(2, Block(Attention(4), GLU()))).build(seed=0), tmp_path / "m")
    cloche.train_bpe(["a"], vocab=259).save(tmp_path / "m")
    lines = [json.dumps({"positive": f"{i} is good", "negative": f"{i} is bad"}) for i in "abcd"]
    (tmp_path / "good.jsonl").write_text("\n".join(lines))
    out = tmp_path / "good.safetensors"
    run = CliRunner().invoke
    made = run(app, ["steer", str(tmp_path / "m"), str(tmp_path / "good.jsonl"), "--out", str(out), "--json"])
    assert made.exit_code == 0 and json.loads(made.stdout)["site"] == "resid_post[0]", made.output
    plain = ["generate", str(tmp_path / "m"), "a", "--new", "8", "--temperature", "0", "--json"]
    texts = [
        json.loads(run(app, [*plain, *more]).stdout)["ids"]
        for more in ([], ["--steer", f"{out}:0"], ["--steer", f"{out}:20"])
    ]
    assert texts[0] == texts[1] != texts[2]
    late = json.loads(run(app, [*plain, "--steer", f"{out}:20.at(-1:)"]).stdout)
    assert late["ids"] != texts[0] and late["edits"] == [f"{out}:20.at(-1:)"]
    for bad in (f"{out}", f"{out}:x", f"{tmp_path / 'none.safetensors'}:1", ":1", f"{out}:1.at(x)", f"{out}:1.at("):
        done = run(app, [*plain, "--steer", bad])
        assert done.exit_code and done.exception is not None


def test_cloche_steer_from_a_task_a_feature_and_a_token(tmp_path: Path) -> None:
    from cloche.runs import Run

    run, invoke = Run.create(tmp_path / "run", recipe=""), CliRunner().invoke
    net = LM(259, WIDTH, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    with run.new_checkpoint(1) as folder:
        save_network(net, folder)
    cloche.train_bpe(["a"], vocab=259).save(run.path)
    sae = SAE(WIDTH, 16, l0=4)
    sae.trained_on = replace(sae.trained_on, site="resid_post[0]")
    sae.save(run.path / "dictionaries" / "mine")
    (tmp_path / "text.txt").write_text("some neutral text")
    text = ["--text", str(tmp_path / "text.txt")]
    made: dict[str, SteeringVector] = {}
    for name, more in {
        "task": ["--task", "Add()", "--shots", "2", "--heads", "2", "--level", "2"],
        "feature": ["--feature", "mine[3]", *text],
        "token": ["--token", "a", "--site", "embed", *text],
    }.items():
        out = tmp_path / f"{name}.safetensors"
        done = invoke(app, ["steer", str(run.path), "--out", str(out), *more])
        assert done.exit_code == 0, (done.output, done.exception)
        made[name] = load_vector(out)
    assert made["task"].card["task"] == "Add" and made["task"].card["level"] == 2
    assert torch.allclose(made["feature"].direction, sae.dictionary.atoms[3], atol=1e-5)
    assert made["token"].site == "embed" and made["token"].unit == pytest.approx(
        float(net.run([[1]], save=["embed"])["embed"].norm()), rel=0.5
    )
    for bad, words in (
        ([], "none was given"),
        (["--task", "Add()", "--token", "a"], "--task and --token were given"),
        (["--task", "Add()", "--method", "probe"], "--method has no effect"),
        (["--feature", "mine"], "not a feature"),
        (["--feature", "mine[16]", *text], "no feature 16"),
        (["--feature", "other[1]", *text], "no dictionary"),
        (["--token", "ab", *text], "must be one token"),
        (["--token", "a", "--lens", "x", *text], "has no lens"),
        (["--token", "a", "--text", "none.txt"], "no file none.txt"),
        (["--task", "Nothing()"], "Nothing"),
    ):
        done = invoke(app, ["steer", str(run.path), "--out", str(tmp_path / "x.safetensors"), *bad])
        assert done.exit_code and words in str(done.exception) + done.output, (bad, done.exception)
        assert not (tmp_path / "x.safetensors").exists()
