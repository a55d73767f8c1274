"""`cloche why`: planted faults are named with their evidence, and healthy runs get no fault."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.diagnose.damage import damage
from cloche.data import PackedTokens
from cloche.diagnose import explain, usual_remedies
from cloche.diagnose.history import History
from cloche.diagnose.why.course import course_of, jumps
from cloche.diagnose.why.documents import place_of
from cloche.diagnose.why.rates import peak_rate
from cloche.diagnose.why.text import learnable
from cloche.diagnose.why.weights import bits_of
from cloche.drawing import Finding
from cloche.errors import NotFinite, RunDamaged
from cloche.runs import Run
from cloche.train import Callback, Every, Recipe, Trainer, prepare_data

STEPS = 120


class Rounded(Callback):
    """Weights rounded to five bits after each step."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(Every(trainer.plan, 1))
        self.net = trainer.net

    @torch.no_grad()
    def run(self, step: int) -> list[Any]:
        for p in self.net.parameters():
            mantissa, exponent = torch.frexp(p)
            p.copy_(torch.ldexp((mantissa * 32).round() / 32, exponent))
        return []


def freeze(trainer: Trainer) -> None:
    trainer.net.layers[0].requires_grad_(False)


def noise(recipe: Recipe, run: Run, steps: range) -> None:
    """Overwrites the batches of these steps in the packed text, before training."""
    rng = np.random.default_rng(0)
    damage(run.path, recipe, dict.fromkeys(steps, recipe.run.batch), lambda tokens: rng.integers(1, 270, len(tokens)))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, tiny: Recipe) -> Recipe:
    """One layer of width 24, trained 120 steps on text enough not to be repeated."""
    folder, rng = tmp_path_factory.mktemp("text"), random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 6))) for _ in range(60)]
    following = {word: rng.choices(words, k=4) for word in words}  # so that one word tells of the next
    text, word = [], words[0]
    for _ in range(9000):
        word = rng.choice(following[word])
        text.append(word)
    (folder / "words.txt").write_text(" ".join(text))
    settings = {"data.paths": [str(folder / "words.txt")], "run.steps": STEPS, "log.every": 1, "log.health_every": 20}
    return tiny.with_set({**settings, "run.batch": 8, "evaluate.validations": 3, "checkpoint.count": 4})


Planted = Callable[..., Run]


@pytest.fixture(scope="session")
def train(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Trains `small` with a fault: settings, another recipe, and what is done before training."""
    made: dict[str, Run] = {}

    def run(name: str, recipe: Recipe = small, prepare: Any = None, change: Any = None, **settings: Any) -> Run:
        if name not in made:
            recipe = recipe.with_set({key.replace("__", "."): value for key, value in settings.items()})
            made[name] = Run.create(tmp_path_factory.mktemp(name) / "run", recipe.to_toml())
            if prepare is not None:
                prepare(recipe, made[name])
            trainer = Trainer.start(recipe, made[name])
            if change is not None:
                trainer.callbacks += [found] if (found := change(trainer)) is not None else []
            try:
                for _ in trainer:
                    pass
            except NotFinite:  # its log says so
                pass
        return made[name]

    return run


def cause(finding: Finding) -> str:
    assert next(iter(finding.figures)) == "confidence" and finding.null is not None
    assert 0.5 < finding.figures["confidence"] <= 1
    return str(finding.data["cause"])


def test_a_healthy_run_has_no_fault(train: Planted) -> None:
    run = train("healthy")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    finding = explain(run)
    assert cause(finding) == "none" and "No fault found" in finding.summary
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert not finding.data["batch"] and finding.data["step"] is None


FAULTS: dict[str, dict[str, Any]] = {
    "initialisation": {"initialisation": "Normal(std=2.0)"},
    "frozen": {"change": freeze},
    "precision": {"change": Rounded},
    "decay": {"optimizer": "AdamW(lr=0.01, weight_decay=20.0)"},
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(train: Planted, name: str) -> None:
    finding = explain(train(name, **FAULTS[name]))
    assert cause(finding) == name
    assert all(each["value"] is not None for each in finding.data["evidence"]), "each verdict has its evidence"
    assert finding.data["evidence"][0]["says"] in finding.summary


def test_rows_are_found_in_the_packed_text_with_their_document(train: Planted) -> None:
    run = train("healthy")
    tokens = PackedTokens.open(run.path / "data", "train")
    row = tokens.window(1234, 17)
    place = place_of(tokens, row)
    assert place is not None and (tokens.window(place.token, 17) == row).all() and place.document == 0
    assert place_of(tokens, np.full(17, 5)) is None


def test_text_of_another_kind_can_be_learned_and_noise_cannot() -> None:
    rng = np.random.default_rng(0)

    def chain(tokens: int) -> np.ndarray:
        """Text in which each token is followed by one of three."""
        following, ids = rng.integers(0, tokens, (tokens, 3)), [0]
        while len(ids) < 200 * 33:
            ids.append(int(following[ids[-1], rng.integers(3)]))
        return np.array(ids).reshape(200, 33)

    usual, other = chain(60), chain(90)
    assert learnable(other, usual, 100) > 0.7
    assert learnable(rng.integers(0, 90, (200, 33)), usual, 100) < 0.1, "noise"
    assert learnable(rng.permuted(usual, axis=1), usual, 100) < 0.1, "shuffled"
    assert learnable(np.full((200, 33), 7), usual, 100) < 0.1, "one token repeated"


def test_bits_of_mantissa() -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert (
        bits_of({"x": x}) == 24 and bits_of({"x": x.bfloat16()}) == 8 and bits_of({"x": x.half().float()}) in (11, 12)
    )
    assert bits_of({"x": torch.zeros(8, 8)}) is None


def history(losses: list[float], **series: list[float]) -> History:
    found = {("loss", ""): np.array(losses)} | {(name, "layer 1"): np.array(values) for name, values in series.items()}
    return History(np.array(losses), found, 1, {}, [], [])


def test_what_moved_first_is_found_before_the_loss_moves() -> None:
    rng = np.random.default_rng(0)
    losses = [3 + 0.05 * rng.standard_normal() for _ in range(100)] + [6 + 0.05 * t for t in range(40)]
    calm = [1 + 0.1 * rng.random() for _ in range(140)]
    moved = [value * (10 if t >= 91 else 1) for t, value in enumerate(calm)]
    course = course_of(history(losses, calm=calm, moved=moved))
    assert course.diverged == 101 and course.onset == 92
    assert course.mover is not None and (course.mover.quantity, course.mover.place) == ("moved", "layer 1")
    assert course_of(history(losses[:100], calm=calm[:100])).onset is None


def test_a_jump_of_the_loss_is_found_with_its_step() -> None:
    losses = np.linspace(5, 3, 100) + 0.02 * np.random.default_rng(0).standard_normal(100)
    assert jumps(losses) == (0.0, None, 0)
    losses[60] += 2
    height, step, count = jumps(losses)
    assert step == 61 and count == 1 and 1.8 < height < 2.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "expected"), [(range(60, STEPS), "poison"), (range(60, 84), "batch"), (range(60, 61), "none")]
)
def test_noise_in_the_text_is_told_by_how_long_it_lasts(train: Planted, steps: range, expected: str) -> None:
    def prepare(recipe: Recipe, run: Run) -> None:
        prepare_data(recipe, run)
        noise(recipe, run, steps)

    finding = explain(train(expected, prepare=prepare, optimizer="AdamW(lr=0.01)"))
    assert cause(finding) == expected
    if expected != "none":
        assert 55 <= finding.data["step"] <= 66
        batch = finding.data["batch"]
        assert batch[0]["step"] == 61 and batch[0]["source"] == "words.txt" and batch[0]["document"] == 0
        assert batch[0]["nats"] > 5 and batch[0]["text"]


def copied(run: Run, to: Path) -> Run:
    shutil.copytree(run.path, to)
    return Run.open(to)


def test_a_run_without_checkpoints_or_the_log_of_each_step_is_explained_all_the_same(
    train: Planted, tmp_path: Path
) -> None:
    run = copied(train("healthy"), tmp_path / "run")
    shutil.rmtree(run.path / "checkpoints")
    (run.path / "log" / "steps.jsonl").unlink()
    finding = explain(run)
    assert finding.data["cause"] == "none"
    assert any("no checkpoint" in note for note in finding.notes)
    assert not any("log/steps.jsonl" in note for note in finding.notes), "metrics.jsonl has every step"


def test_damaged_text_and_weights_are_said_and_the_rest_is_explained(train: Planted, tmp_path: Path) -> None:
    run = copied(train("initialisation", **FAULTS["initialisation"]), tmp_path / "run")
    (run.path / "data" / "train-00000.bin").write_bytes(b"other")
    finding = explain(run)
    assert finding.data["cause"] == "initialisation" and not finding.data["batch"]
    assert any("train-00000.bin" in note for note in finding.notes)
    (run.path / "checkpoints" / "step-000000" / "model.safetensors").write_bytes(b"")
    assert any("step-000000" in note for note in explain(run).notes)


def test_steps_that_the_log_lacks_are_no_divergence() -> None:
    losses = np.concatenate([np.full(60, 3.0), np.full(30, np.nan), np.full(40, 2.9), np.full(30, 6.0)])
    history = History(losses, {("loss", ""): losses}, 1, {}, [], [])
    course = course_of(history)
    assert course.diverged == course.jumped == 131, "counted with the steps that are missing"


def test_a_rate_that_only_the_log_tells_of_is_seen(small: Recipe) -> None:
    recipe = small.with_set({"optimizer": "AdamW(lr=0.006)", "run.steps": 3})
    metrics = [{"step": step, "lr": 0.006, "lr_rest": 0.006, "lr_matrix": rate} for step, rate in ((1, 0.03), (3, 0.9))]
    history = History(np.zeros(3), {}, 1, {}, metrics, [])
    assert peak_rate(recipe, history, 3) == 0.9 and peak_rate(recipe, history, 2) == 0.03
    scaled = recipe.with_set({"initialisation": "MuP()"})
    assert peak_rate(scaled, history, 3) <= 0.006


def test_a_run_in_training_is_explained_as_far_as_it_is(train: Planted, small: Recipe, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", small.to_toml())
    trainer = Trainer.start(small, run)
    for record in trainer:
        if record.get("step") == 40:
            assert any("not over" in note for note in explain(run).notes)
            break
    assert run.checkpoints()[-1].step == 40


def test_what_was_never_trained_is_refused(small: Recipe, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", small.to_toml())
    with pytest.raises(RunDamaged, match="no log of a trained step"):
        explain(run)


@pytest.mark.slow
def test_a_fix_is_proved_by_replaying(train: Planted) -> None:
    def prepare(recipe: Recipe, run: Run) -> None:
        prepare_data(recipe, run)
        noise(recipe, run, range(60, 84))

    run = train("batch", prepare=prepare, optimizer="AdamW(lr=0.01)")
    finding = explain(run, prove=True)
    if finding.data["diverged"] is None:
        assert "neither did the run" in finding.data["proof"]["says"] and not finding.figures["proved"]
    else:
        assert finding.data["proof"]["proved"] and finding.figures["proved"] >= 1


@pytest.mark.slow
def test_a_run_that_breaks_at_once_is_said_to_have_at_once_and_replays_say_what_ends_lower(train: Planted) -> None:
    finding = explain(train("hot", optimizer="Muon(lr=3.0)"), prove=True)
    assert finding.data["cause"] == "rate" and finding.data["step"] <= 10
    assert "a tenth of the rate at " in finding.data["proof"]["says"]


def test_what_no_replay_mends_is_not_replayed() -> None:
    assert usual_remedies(40, "overfitting") == usual_remedies(40, "rate_low") == []


@pytest.mark.slow
def test_the_jumps_of_another_objective_are_no_fault(train: Planted) -> None:
    mix = "Attention(heads=2, position=RoPE(), mask=Full())"
    finding = explain(train("hidden", objective="MaskedDiffusion()", **{"model.body.block.mix": mix}))
    assert finding.data["cause"] == "none"
