"""Looking into a run from beginning to end, and findings on disk."""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hand_built import answering, glass

from cloche.drawing import Provenance
from cloche.errors import ClocheError
from cloche.glass import Glass
from cloche.interp import (
    DictionaryConfig,
    Finding,
    Progress,
    TokenBudget,
    harvest,
    logit_lens,
    look_inside,
    train_dictionary,
)
from cloche.model import GLU, LM, Attention, Block, RMSNorm, RoPE, Stack
from cloche.runs import Run
from cloche.sparse import load_sae
from cloche.text import train_bpe

QUICK = DictionaryConfig(
    features=48, k=4, budget=TokenBudget(tokens=6_000, passes=2, shown=4_000, length=64, batch=256)
)
FEATURES = {
    *("dictionary", "site", "places", "tokens_seen", "fvu", "l0", "dead_share", "density_histogram", "features")
}


class Text:
    """Tokens in memory, as PackedTokens gives them from disk."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def window(self, start: int, length: int) -> np.ndarray:
        return self.ids[start : start + length]


def subject(layers: int = 3) -> tuple[Glass, Text]:
    words = ["the cat", " sat on", " a mat", ".\n", " and", " ran <b>&", " off"]
    rng = np.random.default_rng(0)
    story = "".join(words[i] for i in rng.integers(len(words), size=6_000))
    tokenizer = train_bpe(iter([story]), vocab=280)
    block = Block(mix=Attention(heads=2, position=RoPE()), map=GLU("silu", hidden=24), norm=RMSNorm())
    net = LM(vocab=280, width=16, body=Stack(layers, block)).build(seed=0)
    return Glass(net, tokenizer, "first/step-000003", "step-000003"), Text(np.array(tokenizer.encode(story)))


def looked(path: Path, seed: int = 0) -> tuple[Run, list[Progress]]:
    run = Run.create(path, recipe="")
    model, tokens = subject()
    return run, list(look_inside(run, model, tokens, ["the cat sat"], seed=seed, config=QUICK))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[Progress]]:
    return looked(tmp_path_factory.mktemp("runs") / "first")


def test_it_leaves_a_dictionary_and_two_findings(first: tuple[Run, list[Progress]]) -> None:
    run, _ = first
    sae = load_sae(run.path / "dictionaries" / "resid_post_1")
    assert (sae.width, sae.features, sae.l0) == (16, 48, 4)
    assert sae.trained_on.site == "resid_post[1]" and sae.trained_on.checkpoint == "step-000003"
    (features,) = run.findings("features")
    (lens,) = run.findings("logit-lens")
    assert features["data"].keys() == FEATURES and features["data"]["dictionary"] == "resid_post_1"
    assert lens["data"].keys() == {"prompt", "tokens", "layers", "top", "entropy", "rank", "next", "shuffled", "notes"}
    assert lens["data"]["prompt"] == "the cat sat" == "".join(lens["data"]["tokens"])
    for finding in (features, lens):
        assert (
            finding["checkpoint"] == "step-000003" and len(finding["plan"]) == 16 and finding["summary"].endswith(".")
        )
    page = features["data"]["features"][0]
    assert page.keys() == {
        *("id", "density", "max", "quantiles", "examples", "top_logits", "bottom_logits", "neighbours", "shares")
    }
    assert all(len(example["tokens"]) == len(example["acts"]) for example in page["examples"])


def test_progress_goes_forward_through_the_stages(first: tuple[Run, list[Progress]]) -> None:
    _, progress = first
    stages = list(dict.fromkeys(step.stage for step in progress))
    assert stages == ["harvest", "dictionary", "lens", "features"]
    for stage in stages:
        done = [step.done for step in progress if step.stage == stage]
        assert done == sorted(done) and done[-1] == next(s for s in reversed(progress) if s.stage == stage).total
    assert all(str(step) for step in progress)


def test_the_same_seed_finds_the_same_and_again_is_safe(first: tuple[Run, list[Progress]], tmp_path: Path) -> None:
    run, _ = first
    other, _ = looked(tmp_path / "other")
    weights = [(r.path / "dictionaries/resid_post_1/dictionary.safetensors").read_bytes() for r in (run, other)]
    assert weights[0] == weights[1]
    model, tokens = subject()
    list(look_inside(other, model, tokens, ["the cat sat"], config=QUICK))
    for name in ("features", "logit-lens"):
        (mine,), (again,) = run.findings(name), other.findings(name)
        assert mine["id"] == again["id"] and mine["data"] == again["data"]
    different, _ = looked(tmp_path / "different", seed=1)
    assert different.findings("features")[0]["data"] != run.findings("features")[0]["data"]


def test_without_a_prompt_the_text_is_read_and_a_short_text_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", recipe="")
    model, tokens = subject(layers=1)
    steps = list(look_inside(run, model, Text(tokens.ids[:400]), config=QUICK))
    assert any(step.stage == "lens" for step in steps) and len(run.findings("logit-lens")[0]["data"]["tokens"]) == 16
    with pytest.raises(ClocheError, match="too short to train a dictionary on"):
        list(look_inside(run, model, Text(tokens.ids[:3]), config=QUICK))
    with pytest.raises(ClocheError, match="no site 'resid_pots'"):
        list(look_inside(run, model, tokens, config=DictionaryConfig(site="resid_pots[0]")))


@pytest.mark.parametrize("kind", ["batchtopk", "relu", "gated", "jumprelu"])
def test_the_wanted_number_of_features_is_active_on_text_never_seen(tmp_path: Path, kind: str) -> None:
    model, tokens = subject()
    config = replace(QUICK, kind=kind, budget=replace(QUICK.budget, passes=6))
    course = train_dictionary(Run.create(tmp_path / "run", recipe=""), model, tokens, config=config)
    while True:
        try:
            next(course)
        except StopIteration as end:
            _, sae, shown = end.value
            break
    unseen = torch.cat(list(harvest(model.net, shown, "resid_post[1]")))
    assert sae.report(unseen).l0 == pytest.approx(4, rel=0.02)


def test_a_finding_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", recipe="")
    finding = logit_lens(glass(answering()), [2, 4, 7], top=3)
    path = finding.save(run)
    assert path == run.path / "findings" / "logit-lens" / f"{finding.id}.json" and finding.save(run.path) == path
    again = Finding.load(path)
    assert again.id == finding.id == json.loads(path.read_bytes())["id"]
    assert (again.summary, again.data, again.plan) == (finding.summary, finding.data, finding.plan)
    assert all(np.array_equal(again.arrays[name], value) for name, value in finding.arrays.items())
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(ClocheError, match="cannot be read"):
        Finding.load(path)


def test_findings_show_themselves_offline_and_escape_what_they_show(first: tuple[Run, list[Progress]]) -> None:
    run, _ = first
    model, _ = subject()
    lens = logit_lens(model, "the cat ran <b>& off")
    assert lens.table().splitlines()[0].split() == [token.replace(" ", "·") for token in lens.data["tokens"]]
    assert len(lens.table().splitlines()) == 2 + 4
    features = Finding.load(next((run.path / "findings" / "features").glob("*.json")))
    assert len(features.table().splitlines()) == 2 + len(features.data["features"])
    for finding in (lens, features, Finding(Provenance("other", "step-1"), "Nothing.", {"figure": 1.5})):
        html = finding._repr_html_()
        ElementTree.fromstring(re.sub(r"(<img[^>]*)>", r"\1/>", html))
        assert "<b>&" not in html and "src=" not in html and "href=" not in html
        assert "&lt;" in html or finding is not lens
