"""Log-probabilities, minimal pairs, last words and perplexity, with transformers as the oracle on the same files."""

from __future__ import annotations

import json
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch

import cloche
from cloche import evals

transformers = pytest.importorskip("transformers")

GOOD = ["The cats run home.", "She sees herself.", "A dog barks at them.", "They have eaten."]
BAD = ["The cats runs home.", "She sees himself.", "A dog bark at them.", "They has eaten."]
TEXTS = ["He opened the door and saw the garden", "Nobody had told her about the letter", "It rained all day long"]


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def glass(folder: Path) -> cloche.Glass:
    return cloche.load(folder)


@torch.no_grad()
def logprobs(model: Any, ids: list[int]) -> torch.Tensor:
    """Of each id but the first."""
    told = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    return told.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def write(path: Path, records: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_minimal_pairs(glass: cloche.Glass, theirs: Any, tmp_path: Path) -> None:
    records = [
        {"sentence_good": a, "sentence_bad": b, "UID": f"kind {i % 2}"}
        for i, (a, b) in enumerate(zip(GOOD, BAD, strict=True))
    ]
    found = evals.minimal_pairs(glass, write(tmp_path / "pairs.jsonl", records))
    tokenizer = glass.tokenizer
    assert tokenizer is not None and tokenizer.end is not None
    wanted = [
        float(logprobs(theirs, [tokenizer.end, *tokenizer.encode(text)]).sum())
        for pair in zip(GOOD, BAD, strict=True)
        for text in pair
    ]
    assert found.data["scores"] == pytest.approx(wanted, abs=1e-3)
    right = [a > b for a, b in zip(wanted[::2], wanted[1::2], strict=True)]
    assert found.figures["accuracy"] == sum(right) / 4
    assert found.data["groups"]["kind 0"] == {"pairs": 2, "accuracy": (right[0] + right[2]) / 2}


def test_a_limit_is_of_each_file(glass: cloche.Glass, tmp_path: Path) -> None:
    for kind in ("agreement", "binding"):
        write(
            tmp_path / f"{kind}.jsonl",
            [{"sentence_good": a, "sentence_bad": b} for a, b in zip(GOOD, BAD, strict=True)],
        )
    found = evals.minimal_pairs(glass, tmp_path, limit=3)
    assert found.data["pairs"] == 6


def test_last_words(glass: cloche.Glass, theirs: Any, tmp_path: Path) -> None:
    found = evals.last_words(glass, write(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS]))
    tokenizer = glass.tokenizer
    assert tokenizer is not None
    wanted = []
    for text in TEXTS:
        word = text.rpartition(" ")[2]
        wanted.append(float(logprobs(theirs, tokenizer.encode(text))[-len(word) - 1 :].sum()))
    assert found.data["logprobs"] == pytest.approx(wanted, abs=1e-3)
    assert found.figures["perplexity"] == pytest.approx(exp(-sum(wanted) / 3), rel=1e-3)


@pytest.mark.parametrize("stride", [16, 32, 63])
def test_perplexity(glass: cloche.Glass, theirs: Any, tmp_path: Path, stride: int) -> None:
    text = "Call me Ishmael. Some years ago, never mind how long precisely, having little money, I went to sea. " * 3
    path = tmp_path / "book.txt"
    path.write_text(text)
    found = evals.perplexity(glass, path, stride=stride, context=64)
    tokenizer = glass.tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode(text)
    # Hugging Face's recipe of strided windows: each scores what the one before has not.
    nats, done, start = 0.0, 1, 0
    while done < len(ids):
        end = min(start + 64, len(ids))
        nats -= float(logprobs(theirs, ids[start:end])[-(end - done) :].sum())
        done, start = end, start + stride
    assert found.data["tokens"] == len(ids) - 1
    assert found.figures["nats_per_token"] == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    assert found.figures["bits_per_byte"] == pytest.approx(nats / log(2) / (len(text) - 1), rel=1e-5)
    assert found.figures["low"] < found.figures["bits_per_byte"] < found.figures["high"]
    whole = evals.perplexity(glass, path, stride=stride, limit=40)
    assert whole.data["tokens"] == 39 and "low" not in whole.figures and "interval" not in whole.summary


def test_padding_changes_nothing(glass: cloche.Glass, theirs: Any) -> None:
    tokenizer = glass.tokenizer
    assert tokenizer is not None
    rows = [evals.continuation_ids(tokenizer, text[: 5 + 7 * i], text[5 + 7 * i :]) for i, text in enumerate(TEXTS)]
    for scored, (before, after) in zip(evals.score_ids(glass.net, rows), rows, strict=True):
        wanted = logprobs(theirs, [*before, *after])[-len(after) :]
        assert scored.logprob == pytest.approx(float(wanted.sum()), abs=1e-3)
        assert scored.tokens == len(after)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "holds no records; give JSON lines with sentence_good and sentence_bad"),
        ("{", "Line 1 of .* is not JSON"),
        ('{"sentence_good": "a"}', "Line 1 of .* has no text under sentence_bad"),
        ("[1]", "Line 1 of .* has no text under sentence_good and sentence_bad"),
    ],
)
def test_a_file_that_is_not_pairs_is_refused(glass: cloche.Glass, tmp_path: Path, text: str, wanted: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    with pytest.raises(cloche.ClocheError, match=wanted):
        evals.minimal_pairs(glass, path)
    with pytest.raises(cloche.ClocheError, match="write the path of a file of JSON lines"):
        evals.minimal_pairs(glass, tmp_path / "absent")
    with pytest.raises(cloche.ClocheError, match="There is no file"):
        evals.perplexity(glass, tmp_path / "absent")
