"""Files and models that cannot be scored are one sentence; what JSON and Unicode allow is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cloche
from cloche import evals
from cloche.errors import ArgumentRange, ClocheError, FileUnreadable, NotFinite, RecordInvalid, TaskInvalid
from cloche.evals.intervals import bootstrap_ratio
from cloche.tasks import Add, FromFile

PAIR = {"sentence_good": "a\u2028b", "sentence_bad": "a c"}


@pytest.fixture(scope="module")
def diverged(tokenizer: cloche.Tokenizer) -> cloche.Glass:
    net = cloche.LM(259, 32, cloche.Stack(1, cloche.Block(cloche.Attention(4), cloche.GLU(hidden=64)))).build(seed=0)
    with torch.no_grad():
        net.embed.weight.fill_(float("nan"))
    return cloche.Glass(net, tokenizer)


def test_a_byte_order_mark_and_separators_inside_json_are_read(untrained: cloche.Glass, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"\ufeff{json.dumps(PAIR, ensure_ascii=False)}\n", encoding="utf-8")
    assert evals.minimal_pairs(untrained, path).data["pairs"] == 1


BAD: dict[str, tuple[bytes, type[ClocheError], str]] = {
    "numbers": (b'{"sentence_good": 5, "sentence_bad": ["a"]}', RecordInvalid, "no text under sentence_good and"),
    "UTF-16": (json.dumps(PAIR).encode("utf-16"), FileUnreadable, "is not UTF-8 text"),
    "a lone surrogate": (
        b'{"sentence_good": "a\\ud800", "sentence_bad": "b"}',
        RecordInvalid,
        "Line 1 .* sentence_good",
    ),
    "an endless number": (b'{"n": ' + b"9" * 5000 + b"}", RecordInvalid, "a number in it has more than 4,300 digits"),
    "nested": (b"[" * 10**5, RecordInvalid, "it is nested too deeply"),
    "bytes": (bytes(range(128, 256)), FileUnreadable, "is not UTF-8 text"),
}


@pytest.mark.parametrize("case", BAD)
def test_records_that_are_no_text(untrained: cloche.Glass, tmp_path: Path, case: str) -> None:
    data, error, match = BAD[case]
    (tmp_path / "pairs.jsonl").write_bytes(data)
    with pytest.raises(error, match=match):
        evals.minimal_pairs(untrained, tmp_path / "pairs.jsonl")


@pytest.mark.parametrize(
    "options",
    [{"context": 1}, {"context": -5}, {"context": 2.5}, {"stride": 0}, {"stride": 2.5}, {"limit": -1}, {"limit": 1}],
)
def test_windows_that_are_none(untrained: cloche.Glass, tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "text").write_text("It was a dark night. " * 9)
    with pytest.raises(ArgumentRange):
        evals.perplexity(untrained, tmp_path / "text", **options)


def test_bytes_that_are_no_text_have_no_perplexity(untrained: cloche.Glass, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"caf\xe9 " * 9)
    with pytest.raises(FileUnreadable, match="is not UTF-8 text"):
        evals.perplexity(untrained, tmp_path / "text")


def test_a_diverged_model_has_no_figures(diverged: cloche.Glass, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("It was a dark night. " * 9)
    (tmp_path / "lines").write_text('{"text": "He ran home"}')
    with pytest.raises(NotFinite, match="weights have diverged"):
        evals.perplexity(diverged, tmp_path / "text")
    with pytest.raises(NotFinite, match="weights have diverged"):
        evals.last_words(diverged, tmp_path / "lines")


def test_a_byte_order_mark_is_no_part_of_a_text(untrained: cloche.Glass, tmp_path: Path) -> None:
    figures = []
    for name, mark in (("plain", ""), ("marked", "\ufeff")):
        (tmp_path / name).write_text(f"{mark}It was a dark night.", encoding="utf-8")
        figures.append(evals.perplexity(untrained, tmp_path / name).figures)
    assert figures[0] == figures[1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_waited_for(untrained: cloche.Glass, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "pipe.jsonl")
    for path in (tmp_path / "folder" / "pipe.jsonl", tmp_path / "folder"):
        with pytest.raises(FileUnreadable, match="a folder or a device"):
            evals.minimal_pairs(untrained, path)
        with pytest.raises(FileUnreadable, match="a folder or a device"):
            evals.perplexity(untrained, path)


def test_no_limit_is_below_one(untrained: cloche.Glass, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text('{"text": "He ran home"}')
    with pytest.raises(ArgumentRange, match="limit=0"):
        evals.last_words(untrained, tmp_path / "lines", limit=0)
    with pytest.raises(ArgumentRange, match="n=0"):
        evals.contamination(["Add"], ["x"], n=0)
    with pytest.raises(ArgumentRange, match="limit='x'"):
        evals.contamination(["Add"], ["x"], limit="x")  # type: ignore[arg-type]
    with pytest.raises(TaskInvalid, match="5 is no list of tasks"):
        evals.contamination(5, ["x"])  # type: ignore[arg-type]


def test_a_task_and_a_text_alone_are_lists_of_one_and_a_task_counts_once() -> None:
    found = evals.contamination("Add", "3 + 4 = 7", limit=8)
    assert found.data == evals.contamination(["Add", Add()], ["3 + 4 = 7"], limit=8).data
    assert found.data["words"] == 5 and len(found.data["tasks"]) == 1


def test_questions_of_a_file_are_looked_for_in_a_corpus(tmp_path: Path) -> None:
    rows = [{"prompt": f"The capital of country {n} and of no other is", "answer": f"town{n}"} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = [f"{row['prompt']} {row['answer']}." for row in rows[:5]]
    found = evals.contamination([FromFile(str(tmp_path / "rows.jsonl"))], corpus)
    assert found.figures["whole"] == pytest.approx(5 / 20)
    assert found.null == {"whole": 0, "overlap": 0}


def test_resamples_are_those_of_one_draw() -> None:
    above, below = np.arange(1.0, 8.0), np.ones(7)
    drawn = np.random.default_rng(3).integers(7, size=(2000, 7))
    wanted = np.quantile(above[drawn].sum(1) / below[drawn].sum(1), (0.025, 0.975))
    assert bootstrap_ratio(list(above), list(below), 3) == pytest.approx(tuple(wanted))
