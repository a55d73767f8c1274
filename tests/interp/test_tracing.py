"""The onset of a headline over checkpoints, where the step at which it sets in is known, and where nothing does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hand_built import TOKENS, echo

import cloche
from cloche.drawing import Finding, Lines, Provenance
from cloche.errors import ClocheError
from cloche.interp import find_onset, logit_lens
from cloche.model import save_network
from cloche.runs import Run

STEPS = tuple(range(0, 800, 100))
COUNTING = [[(start + i) % TOKENS for i in range(6)] for start in range(5)]  # what `counts` foresees


def made(folder: Path, strengths: list[float]) -> Run:
    """A run of checkpoints that each foresee the next token of `COUNTING` as surely as their strength says."""
    run = Run.create(folder, recipe="")
    for step, strength in zip(STEPS, strengths, strict=False):
        net = echo()
        with torch.no_grad():
            net.unembed_weight().copy_(strength * torch.eye(TOKENS).roll(1, 0))
        with run.new_checkpoint(step) as checkpoint:
            save_network(net, checkpoint)
    return run


def test_the_step_at_which_a_skill_was_put_in_is_the_onset(tmp_path: Path) -> None:
    run = made(tmp_path, [0.0, 0.02, 0.01, 0.0, 0.02, 2.0, 2.0, 2.1])
    found = cloche.trace(run, "logit-lens", prompt=COUNTING)
    assert found.figures["onset"] == 500 == found.figures["onset_low"] == found.figures["onset_high"]
    assert next(iter(found.figures)) == "onset" and found.figures["gain"] > 0.5
    assert found.null is not None and abs(found.null["gain"]) < found.figures["gain"]
    assert found.data["steps"] == list(STEPS) and np.shape(found.data["values"]) == (8, 5)
    assert "sets in at step 500" in found.summary
    (curve,) = found.panels
    assert isinstance(curve, Lines) and curve.marks == ((500.0, "onset"),) and len(curve.series) == 2
    again = Finding.load(found.save(run))
    assert again.figures == found.figures and again.instrument == "trace"


def test_what_comes_and_goes_has_not_set_in(tmp_path: Path) -> None:
    run = made(tmp_path, [0.0, 2.0, 2.0, 0.0, 0.0, 0.0, 2.0, 2.0])
    assert cloche.trace(run, logit_lens, prompt=COUNTING).figures["onset"] == 600


def test_without_a_jump_there_is_no_onset(tmp_path: Path) -> None:
    run = made(tmp_path, [0.3, 0.31, 0.29, 0.3, 0.32, 0.28, 0.3, 0.3001])
    found = cloche.trace(run, "logit_lens", prompt=COUNTING)
    assert "onset" not in found.figures and next(iter(found.figures)) == "gain"
    assert found.data["onset"] is None and "no onset" in found.summary
    assert found.panels[0].marks == ()  # type: ignore[union-attr]


def test_a_figure_that_falls_sets_in_too(tmp_path: Path) -> None:
    run = made(tmp_path, [0.0, 0.0, 0.0, 2.0, 2.0, 2.0])
    found = cloche.trace(run, "logit-lens", figure="entropy", prompt=COUNTING)
    assert found.figures["onset"] == 300 and found.figures["gain"] < 0


@pytest.mark.parametrize("seed", range(5))
def test_noise_over_checkpoints_is_no_onset_and_a_jump_in_it_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise, null = 0.1 * rng.standard_normal((2, 20, 12))
    assert find_onset(noise, null, seed).at is None
    noise[13:] += 1
    found = find_onset(noise, null, seed)
    assert found.at == 13 and (found.low, found.high) == (13, 13)


def test_without_a_null_noise_that_prompts_share_is_seldom_an_onset_and_a_rise_is_one() -> None:
    noise = np.random.default_rng(0).standard_normal((200, 20, 1)) + np.zeros((1, 1, 8))
    found = [find_onset(each, np.zeros(0)) for each in noise]
    assert sum(each.at is not None for each in found) < 0.15 * len(found)
    rise = np.linspace(0, 1, 11)[:, None] + np.zeros((1, 8))
    assert find_onset(rise, np.zeros(0)).at == 6


def test_the_interval_holds_the_steps_at_which_prompts_differ() -> None:
    values = np.zeros((10, 16))
    for prompt in range(16):
        values[3 + prompt % 5 :, prompt] = 1  # the prompts set in at 3, 4, 5, 6 and 7
    found = find_onset(values, np.zeros(1))
    assert found.at is not None and found.low is not None and found.high is not None
    assert 3 <= found.low <= found.at <= found.high <= 7 and found.low < found.high


def test_a_gain_within_two_spreads_of_the_null_is_none() -> None:
    values = np.repeat([[0.0], [1.0]], 4, axis=1)
    assert find_onset(values, np.array([-0.6, 0.6])).at is None
    assert find_onset(values, np.array([-0.4, 0.4])).at == 1
    assert find_onset(np.array([[0.0], [1.0]]), np.zeros(0)) == (1, None, None, 1.0, 0.0)


def level(subject: object) -> Finding:
    """An instrument without prompts, windows or a null: the size of the unembedding."""
    size = float(subject.net.unembed_weight().abs().max())  # type: ignore[attr-defined]
    return Finding(Provenance("level", subject.checkpoint), f"It is {size}.", {"size": size})  # type: ignore[attr-defined]


def test_any_function_can_be_traced(tmp_path: Path) -> None:
    found = cloche.trace(made(tmp_path, [0.0, 0.5, 3.0]), level)
    assert found.figures["onset"] == 200 and "onset_low" not in found.figures and found.null is None
    assert found.data["instrument"] == "level"


def test_what_cannot_be_traced_is_said(tmp_path: Path) -> None:
    with pytest.raises(ClocheError, match="has 1 checkpoints"):
        cloche.trace(made(tmp_path / "one", [1.0]), "logit-lens", prompt=COUNTING)
    run = made(tmp_path / "two", [0.0, 1.0])
    with pytest.raises(ClocheError, match="no instrument 'logit-lense'; did you mean 'logit-lens'"):
        cloche.trace(run, "logit-lense")
    with pytest.raises(ClocheError, match="no option 'promt'; did you mean 'prompt'"):
        cloche.trace(run, "logit-lens", promt=COUNTING, prompt=COUNTING)
    with pytest.raises(ClocheError, match="has no figure hoyer; it has next_probability"):
        cloche.trace(run, "logit-lens", figure="hoyer", prompt=COUNTING)
    with pytest.raises(ClocheError, match="holds no packed text"):
        cloche.trace(run, "logit-lens")


def rows_of_tokens(subject: cloche.Glass, windows: list[object] | None = None) -> Finding:
    """An instrument that takes no prompt: of text only where it is given."""
    size = float(subject.net.unembed_weight().abs().mean()) + 0.01 * len(str(windows or ""))
    return Finding(Provenance("rows-of-tokens", subject.checkpoint), "It is so.", {"size": size}, {})


@pytest.mark.parametrize(
    ("options", "over"),
    [({}, ""), ({"windows": ["a b", "c d e"]}, "2 pieces of text"), ({"windows": ["a b"]}, "1 piece of text")],
    ids=["no text", "two pieces", "one piece"],
)
def test_prompts_are_named_only_where_there_are_prompts(tmp_path: Path, options: dict, over: str) -> None:
    run = made(tmp_path, [0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0])
    found = cloche.trace(run, rows_of_tokens, **options)
    assert found.data["over"] == over and "prompt" not in found.text()
    assert found.summary.endswith(f", over {over}." if over else ".")
    assert cloche.trace(run, "logit-lens", prompt=COUNTING).summary.endswith(", over 5 prompts.")
