"""The lm-eval adapter against what the harness's own Hugging Face model answered (bench/evals/lm_eval.py made the file)."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import cloche
from bench.evals.lm_eval import CHOICES, LONG, make_model
from cloche.evals import Harness, harness_model

GOLDEN = json.loads((Path(__file__).parent / "golden" / "lm_eval.json").read_text())["answers"]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return Harness(cloche.load(folder))


def test_choices_are_as_likely(harness: Harness) -> None:
    asked = [(each["question"], f" {choice}") for each in CHOICES for choice in each["choices"]]
    wanted = [tuple(answer) for answers in GOLDEN["local_choice"] for answer in answers]
    for ours, theirs in zip(harness.loglikelihoods(asked), wanted, strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=2e-3) and ours[1] == theirs[1]


def test_texts_longer_than_the_context_are_as_likely(harness: Harness) -> None:
    assert harness.rolling(LONG) == pytest.approx([answer[0] for answer in GOLDEN["local_rolling"]], rel=1e-5)


def test_the_same_texts_are_written(harness: Harness) -> None:
    options: dict[str, Any] = {"until": ["e"], "max_gen_toks": 12, "do_sample": False}
    found = harness.generate_until([(each["question"], options) for each in CHOICES])
    assert found == [answer[0] for answer in GOLDEN["local_writing"]]


def test_sampling_is_refused(harness: Harness) -> None:
    with pytest.raises(cloche.ClocheError, match="do_sample: false"):
        harness.generate_until([("a", {"do_sample": True})])


def test_a_context_longer_than_the_models_loses_its_beginning(harness: Harness) -> None:
    long = " ".join(LONG)
    assert harness.loglikelihoods([(long, " end")]) == harness.loglikelihoods([("x" * 500 + long, " end")])


def test_without_lm_eval_one_sentence_says_how_to_install_it(harness: Harness) -> None:
    if find_spec("lm_eval") is not None:
        pytest.skip("lm-eval is installed")
    with pytest.raises(cloche.ClocheError, match=r"run `pip install 'cloche\[lm-eval\]'`"):
        harness_model(harness.subject)
