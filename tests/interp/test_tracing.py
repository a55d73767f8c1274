"""The onset of a headline over checkpoints, where the step at which it sets in is known, and where nothing does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_built import TOKENS, echo, induction

import cloche
from cloche.drawing import Finding, Heatmap, Lines, Provenance, Table
from cloche.errors import ClocheError, CorpusEmpty
from cloche.interp import find_onset, logit_lens
from cloche.interp.tracing.curves import Family, find_onsets
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


# ---- curves of an array's entries

RISES = {0: 300, 2: 500}  # entries that rise, and the step at which each does


def heights(subject: cloche.Glass, seed: int = 0, shape: str = "") -> Finding:
    """An instrument of four entries, of which two rise with the step that the checkpoint's weights hold."""
    step = round(float(subject.net.unembed_weight().detach().abs().max()) * 100)
    rng = np.random.default_rng([seed, step])
    values = 0.05 * rng.standard_normal((2, 2 + (shape == "grows" and step > 300)))
    for entry, at in RISES.items():
        values.reshape(-1)[entry] += 2.0 * (step >= at)
    null = 0.05 * np.random.default_rng(seed).standard_normal((2, 2))
    labels = ["a", "b", "c", "d"] if shape != "mislabelled" else ["a"]
    if shape == "renames":
        labels[0] = f"a at {step}"
    data = {"curves": {"height": labels}}
    arrays = {"height": values, "height_null": null, "other": values[0] * 0 + (step >= 300), "text": np.array(["x"])}
    about = Provenance("heights", subject.checkpoint)
    return Finding(about, "", {"most": float(values.max())}, data, arrays, {"most": float(null.max())})


@pytest.fixture(scope="module")
def rising(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose checkpoints hold their own step."""
    return made(tmp_path_factory.mktemp("rising"), [step / 100 for step in STEPS])


def test_every_entry_of_a_named_array_has_an_onset_or_none(rising: Run) -> None:
    found = cloche.trace(rising, heights)
    assert found.arrays["height"].shape == (8, 2, 2)
    assert found.arrays["height_onset"].reshape(-1) == pytest.approx([300, np.nan, 500, np.nan], nan_ok=True)
    first = found.data["curves"]["height"]["onsets"][0]
    assert (first["low"], first["onset"], first["high"]) == (300, 300, 300) and found.data["over"] == "4 seeds"
    assert found.figures["curves_with_onset"] == 2 and found.figures["onset"] == 300
    _, table, grid = found.panels
    assert isinstance(table, Table) and {row[1] for row in table.rows} == {"a", "c"} and "2 of 4" in table.note
    assert isinstance(grid, Heatmap) and grid.rows == ("a", "b", "c", "d") and grid.columns[3] == "300"
    assert "Of 4 curves 2 have an onset; the clearest, height of" in found.summary
    assert Finding.load(found.save(rising)).arrays["height"] == pytest.approx(found.arrays["height"])


def test_a_single_seed_has_onsets_without_intervals_and_another_array_is_followed_by_name(rising: Run) -> None:
    single = cloche.trace(rising, heights, seeds=1)
    assert single.arrays["height_onset"].reshape(-1) == pytest.approx([300, np.nan, 500, np.nan], nan_ok=True)
    assert single.data["curves"]["height"]["onsets"][0]["low"] is None and single.data["over"] == ""
    other = cloche.trace(rising, heights, figure="other")
    assert list(other.data["curves"]) == ["other"] and list(other.arrays["other_onset"]) == [300, 300]
    assert other.figures["onset"] == 300 and other.data["curves"]["other"]["labels"] == ["0", "1"]


@pytest.mark.parametrize("units", [1, 2])
def test_of_many_curves_of_noise_seldom_one_has_an_onset(units: int) -> None:
    noise, null = np.random.default_rng(0).standard_normal((2, 50, 12, units, 32))
    null[:] = null[:, :1]  # the null is the same at every checkpoint
    families = [Family("noise", [""] * 32, (32,), *each) for each in zip(noise, null, strict=True)]
    having = [sum(one is not None and one.at is not None for one in find_onsets([each])["noise"]) for each in families]
    assert sum(count > 0 for count in having) <= 4


def test_named_heads_of_attention_patterns_are_followed(tmp_path: Path) -> None:
    run = made(tmp_path, [0.0, 1.0, 2.0])
    found = cloche.trace(run, "attention-patterns", prompt=COUNTING, heads=["0.0", "1.0"])
    assert found.arrays["concentration"].shape == (3, 2) and "concentration" in found.data["curves"]
    assert "curves" not in cloche.trace(run, "attention-patterns", prompt=COUNTING).data


def test_curves_that_cannot_be_followed_are_said(rising: Run, tmp_path: Path) -> None:
    with pytest.raises(ClocheError, match=r"'height' of heights has shape \(2, 3\) at step-000400 and \(2, 2\) before"):
        cloche.trace(rising, heights, shape="grows")
    with pytest.raises(ClocheError, match="labels 1 curves of its array 'height', which has 4 entries"):
        cloche.trace(rising, heights, shape="mislabelled")
    with pytest.raises(ClocheError, match="entries of 'height' of heights are others at step-000100 than before"):
        cloche.trace(rising, heights, shape="renames")
    with pytest.raises(ClocheError, match="no figure text; it has most"):
        cloche.trace(rising, heights, figure="text")
    run = made(tmp_path / "two", [0.0, 1.0])
    with run.new_checkpoint(200) as checkpoint:
        save_network(induction(), checkpoint)
    with pytest.raises(ClocheError, match=r"step-000200 of .* is another model than step-000000"):
        cloche.trace(run, heights)
    assert not list(run.path.glob("findings/*"))


def wide(subject: cloche.Glass, windows: Any, seed: int = 0) -> Finding:
    """An instrument that needs 12 windows at once."""
    if (count := sum(map(len, windows))) < 12:
        raise CorpusEmpty(f"12 windows are needed, not {count}.")
    return level(subject)


def test_windows_that_are_too_few_when_divided_are_read_at_once(tmp_path: Path) -> None:
    run = made(tmp_path, [0.0, 0.5, 3.0])
    windows = [torch.zeros(16, 4, dtype=torch.long)]
    found = cloche.trace(run, wide, windows=windows)
    assert found.figures["onset"] == 200 and found.data["values"] == [[0.0], [0.5], [3.0]]
    with pytest.raises(CorpusEmpty, match="not 6"):
        cloche.trace(run, wide, windows=[windows[0][:6]])
