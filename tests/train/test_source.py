"""Training on packed rows, document masks, mixtures and curricula: as drawn, logged, and exact on resume."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from test_resume import crashed, fingerprint
from tiny_training import tiny_recipe

from cloche.data import Batches, BestFit, Difficulty, Draw, PackedTokens, Packing, Stream
from cloche.errors import ClocheError
from cloche.runs import Run, verify
from cloche.train import NextToken, Recipe, TokenBatch, Trainer
from cloche.train.source import TokenSource

TEXTS = {"short": (30, 12), "long": (4, 300)}  # documents, words of each


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    rng = np.random.default_rng(0)
    for name, (count, words) in TEXTS.items():
        (tmp_path / name).mkdir()
        for i in range(count):
            text = " ".join(f"{name}{j}" for j in rng.integers(30, size=words))
            (tmp_path / name / f"{i}.txt").write_text(text)
    sources = [f"Source(paths=['{tmp_path / name}'], name='{name}')" for name in TEXTS]
    return tiny_recipe(data__paths=[]).with_set(
        {
            "data.mixture": f"Mixture([{', '.join(sources)}], temperature=2.0)",
            "data.duplicates": "NearDuplicates(threshold=0.8)",
            "rows.packing": "BestFit(fill=0.9)",
            "rows.document_masks": True,
            "rows.curriculum": "Easiest(by=UnigramLoss, start=0.5, until=0.6, stages=3)",
            "run.steps": 12,
            "checkpoint.count": 8,
        }
    )


def test_all_of_it_together_trains_is_logged_and_is_exact_on_resume(recipe: Recipe, tmp_path: Path):
    straight, broken = (Run.create(tmp_path / name, recipe.to_toml()) for name in ("straight", "broken"))
    trainer = Trainer.start(recipe, straight)
    list(trainer)
    crashed(broken, 10)
    resumed = Trainer.resume(broken)
    assert 0 < resumed.step < 12
    list(resumed)
    assert fingerprint(broken) == fingerprint(straight)
    assert verify(broken.path).problems == []
    last = [record for record in straight.read_log("metrics") if "loss" in record][-1]
    assert last["epochs_long"] > 0 < last["epochs_short"]
    epochs = trainer.batches.epochs
    assert epochs == {"short": last["epochs_short"], "long": last["epochs_long"]}
    (started,) = [event["message"] for event in straight.read_log("events") if event["kind"] == "start"]
    assert "0 duplicates of 0 bytes were left out by NearDuplicates" in started
    assert "rows from short " in started and "of the slots of long hold tokens" in started
    assert "attention stays within documents" in started and "Easiest(by=UnigramLoss, start=0.5" in started
    index = json.loads((straight.path / "data/data.json").read_text())
    assert index["sources"]["duplicates"]["documents"] == 0
    assert Recipe.parse(straight.recipe) == trainer.recipe


def test_a_masked_document_has_the_loss_it_has_alone(new_run):
    """Truth: the rows' losses are those of their documents, each run by itself from an end token."""
    run = new_run("run", tiny_recipe())
    tokens = PackedTokens.open(run.path, "train").part(0, 600)
    net = tiny_recipe().model.build(0)
    source = TokenSource(Batches(tokens, 300, 2, draw=Draw(BestFit())), "cpu", {}, masks=True)
    batch = source.next()
    with torch.no_grad():
        found, total = NextToken().nats(net, batch)
        alone, count = 0.0, 0
        for row in range(2):
            for number in batch.documents[row].unique():
                here = (batch.documents[row] == number).nonzero().flatten().tolist()
                if batch.weights[row, here].any():
                    ids = batch.ids[row : row + 1, here[0] : here[-1] + 2]
                    nats, _ = NextToken().nats(net, TokenBatch(ids, weights=batch.weights[row : row + 1, here]))
                    alone, count = alone + nats.item(), count + int(batch.weights[row, here].sum())
    assert total == count > 0 and found.item() == pytest.approx(alone, rel=1e-5)


def test_settings_of_a_run_that_has_begun_are_fixed(recipe: Recipe, tmp_path: Path):
    run = Run.create(tmp_path / "run", recipe.to_toml())
    list(Trainer.start(recipe.with_set({"run.steps": 2}), run))
    for change in ({"rows.packing": "Stream"}, {"data.mixture": []}, {"rows.document_masks": False}):
        with pytest.raises(ClocheError, match=r"is fixed once training has begun|has no sources"):
            Trainer.resume(run, change | {"run.steps": 4})


def test_an_objective_that_has_no_use_for_documents_is_refused_before_the_first_step(recipe: Recipe, tmp_path: Path):
    recipe = recipe.with_set({"objective": "PrefixLM", "model.body.block.mix.mask": {"part": "Prefix"}})
    with pytest.raises(ClocheError, match=r"turn off rows\.document_masks"):
        Trainer.start(recipe, Run.create(tmp_path / "run", recipe.to_toml()))


@dataclass(frozen=True)
class Halves(Packing):
    """A packing of one's own: the first half of each source."""

    share: float = 0.5

    def layout(self, tokens: PackedTokens, length: int):
        return Stream().layout(tokens.part(0, int(self.share * len(tokens))), length)


@dataclass(frozen=True)
class Alternating(Difficulty):
    """A measure of one's own."""

    def of(self, rows, material):
        return rows.ids.sum(axis=1) % 2


def test_parts_of_ones_own_are_named_in_a_recipe_and_trained_with(recipe: Recipe, tmp_path: Path):
    own = {"rows.packing": "Halves(share=0.6)", "rows.curriculum": "Easiest(by=Alternating)", "run.steps": 2}
    recipe = recipe.with_set(own)
    assert recipe.rows.packing == Halves(0.6) and "test_source:Halves(share=0.6)" in recipe.to_toml()
    assert Recipe.parse(recipe.to_toml()) == recipe
    run = Run.create(tmp_path / "run", recipe.to_toml())
    list(Trainer.start(recipe, run))
    assert run.checkpoint("last").step == 2
    with pytest.raises(ClocheError, match="--import nowhere"):
        Recipe.parse(recipe.to_toml().replace("test_source:", "nowhere:"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rows.packing": "BestFitt"}, "unknown Packing 'BestFitt'.*did you mean 'BestFit'"),
        ({"rows.pack": "BestFit"}, r"\[rows\] has no key 'pack'; its keys are packing"),
        ({"data.packing": "BestFit"}, r"\[data\] has no key 'packing'; did you mean rows.packing"),
        ({"rows.packing": 3}, "should be an instance of Packing"),
        ({"rows.curriculum": "Easiest(start=2)"}, "must lie between 0 and 1"),
        ({"rows.curriculum": "Easiest(by=Size)"}, "unknown Difficulty 'Size'"),
        ({"rows.document_masks": "perhaps"}, "boolean"),
        ({"data.mixture": [3]}, "a mixture is a list of sources"),
        ({"data.mixture": ["Source(weight=1)"]}, "Source needs paths"),
        ({"data.mixture": ["Source(['a'], weight=nan)"]}, "a has weight nan"),
        ({"data.mixture": "Mixture([Source(['a'])], temperature=0)"}, "A temperature of 0"),
        ({"data.mixture": ["Source(['a'])"], "data.paths": ["b"]}, "paths and mixture both name text"),
        ({"data.mixture": ["Source(['a'])"], "data.glob": "*.md"}, "glob is read with paths, and there is a mixture"),
        ({"data.mixture": ["Source(['a'])"], "data.field": "story"}, "field is read with paths"),
        ({"data.duplicates": "NearDuplicates(threshold=8)"}, "must lie between 0.3 and 1"),
    ],
)
def test_what_a_recipe_cannot_say_gets_a_sentence(change: dict, match: str):
    with pytest.raises(ClocheError, match=match):
        Recipe().with_set(change)
