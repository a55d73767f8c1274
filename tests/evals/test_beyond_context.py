"""What is longer than the model's context is left out and counted, and costs nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import cloche
from cloche import evals
from cloche.errors import ContextExceeded
from cloche.evals import texts
from cloche.evals.answering import answer_items, items_of
from cloche.tasks import Add, FromFile, ModularAdd

LONG = "word " * 100  # 500 tokens of a tokenizer that merges nothing; the context is 256


def write(path: Path, records: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_items_beyond_the_context_are_left_out_with_a_note_and_the_rest_is_as_without(untrained: cloche.Glass) -> None:
    found = evals.eval(untrained, [Add(), ModularAdd(7)], shots=9, limit=24, controls=False)
    add, modular = found.data["tasks"]
    assert 0 < add["beyond_context"] < 24 and add["items"] == 24 - add["beyond_context"]
    assert list(add["levels"]) == list("1234567")
    (note,) = [note for note in found.notes if " Add" in note]
    assert f"{add['beyond_context']} of 24 items of Add, of level 8, are left out because" in note
    assert "context of 256; give fewer shots or a lower level." in note
    alone = evals.eval(untrained, [ModularAdd(7)], shots=9, limit=24, controls=False).data["tasks"][0]
    assert modular == alone


def test_a_task_of_which_nothing_fits_loses_nothing_of_the_others(untrained: cloche.Glass, tmp_path: Path) -> None:
    path = write(tmp_path / "long.jsonl", [{"prompt": LONG, "answer": "x"}])
    found = evals.eval(untrained, [FromFile(str(path)), Add()], limit=8)
    assert [row["task"] for row in found.data["tasks"]] == ["Add"]
    assert found.notes[0].startswith("1 of 1 items of FromFile") and "shorter items" in found.notes[0]
    with pytest.raises(ContextExceeded, match="1 of 1 items of FromFile"):
        evals.eval(untrained, [FromFile(str(path))])


def test_choices_of_which_one_is_beyond_the_context_are_not_scored(untrained: cloche.Glass, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}:", "answer": "a", "choices": choices} for n, choices in enumerate(("a|b", f"a|{LONG}b"))]
    found = evals.eval(untrained, [FromFile(str(write(tmp_path / "rows.jsonl", rows)))])
    row = found.data["tasks"][0]
    assert (row["items"], row["beyond_context"], row["choice_items"]) == (2, 0, 1)
    assert found.notes[0].startswith("The choices of 1 items of FromFile")


def test_a_long_prompt_beside_a_long_answer_is_no_more_than_each_alone(untrained: cloche.Glass, tmp_path: Path) -> None:
    rows = [
        {"prompt": "x" * 240, "answer": "a", "choices": "a|d"},
        {"prompt": "y", "answer": "b" * 200, "choices": "b|" + "b" * 200},
        {"prompt": "z" * 9, "answer": "c", "choices": "c|e"},
    ]
    task = FromFile(str(write(tmp_path / "rows.jsonl", rows)))
    items = items_of(task, 3)
    together = answer_items(untrained, task, items)
    assert len(together) == 3
    for item, each in zip(items, together, strict=True):
        (alone,) = answer_items(untrained, task, [item])
        assert replace(each, written=alone.written) == alone and each.written.startswith(alone.written.rstrip("\ufffd"))


def test_pairs_and_texts_beyond_the_context_are_left_out(untrained: cloche.Glass, tmp_path: Path) -> None:
    pairs = [{"sentence_good": "He runs.", "sentence_bad": "He run."}, {"sentence_good": LONG, "sentence_bad": "a"}]
    found = evals.minimal_pairs(untrained, write(tmp_path / "pairs.jsonl", pairs))
    assert found.data["pairs"] == 1 and found.notes[0].startswith("1 of 2 pairs of")
    assert found.figures == evals.minimal_pairs(untrained, write(tmp_path / "pairs.jsonl", pairs[:1])).figures
    lines = [{"text": text} for text in ("He ran home", f"{LONG}end", "She went away")]
    found = evals.last_words(untrained, write(tmp_path / "lines.jsonl", lines))
    alone = evals.last_words(untrained, write(tmp_path / "lines.jsonl", lines[::2]))
    assert found.data["texts"] == 2 and found.notes[0].startswith("1 of 3 texts of")
    assert (found.figures, found.null) == (alone.figures, alone.null)
    assert evals.last_words(untrained, write(tmp_path / "lines.jsonl", lines[:1])).null is None  # no other's last word
    for function, records in ((evals.minimal_pairs, pairs[1:]), (evals.last_words, lines[1:2])):
        with pytest.raises(
            ContextExceeded, match=r"1 of 1 .* more tokens than the model's context of 256; shorten them"
        ):
            function(untrained, write(tmp_path / "all.jsonl", records))


@pytest.fixture
def longest(untrained: cloche.Glass, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The longest text that was encoded so far: 200 MB took 8 GB and ended the process."""
    tokenizer, seen = untrained.need_tokenizer(), [0]
    encode = tokenizer.encode_batch

    def noted(texts: list[str], special: bool = True) -> list[list[int]]:
        seen.append(max(map(len, texts)))
        return encode(texts, special)

    monkeypatch.setattr(tokenizer, "encode_batch", noted)
    return lambda: max(seen)


def test_no_text_is_encoded_whole_that_is_far_beyond(
    untrained: cloche.Glass, longest: Callable[[], int], tmp_path: Path
) -> None:
    much = "a b c d e " * 10**5
    records = [{"prompt": much, "answer": "x", "text": f"{much}x", "sentence_good": much, "sentence_bad": "a"}]
    path = write(tmp_path / "much.jsonl", records)
    for call in (
        lambda: evals.eval(untrained, [FromFile(str(path))]),
        lambda: evals.minimal_pairs(untrained, path),
        lambda: evals.last_words(untrained, path),
    ):
        with pytest.raises(ContextExceeded):
            call()
    assert longest() <= 64 * 256


@pytest.mark.parametrize("line", ["It was a dark and stormy night.\n", "no end of line ", "x\u00e9"])
def test_a_large_text_is_encoded_in_pieces_and_no_further_than_asked(
    untrained: cloche.Glass, longest: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    path = tmp_path / "book.txt"
    path.write_text(line * 200, encoding="utf-8")
    tokenizer = untrained.need_tokenizer()
    whole = tokenizer.encode(path.read_text(encoding="utf-8"))
    monkeypatch.setattr(texts, "PIECE", 101)  # bytes, so that it cuts a character of two
    before = longest()
    assert texts._ids(tokenizer, path, None).tolist() == whole  # as this tokenizer merges nothing
    assert longest() == before
    path.write_bytes(path.read_bytes() + b"\xff")  # never read
    assert texts._ids(tokenizer, path, 150).tolist() == whole[:150]


def test_reading_a_text_tells_how_far_it_is(
    untrained: cloche.Glass, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "CELLS", 2 * 64 * 259)  # two windows at a time
    (tmp_path / "book.txt").write_text("It was a dark night. " * 20)
    told: list[tuple[int, int, str]] = []
    found = evals.perplexity(untrained, tmp_path / "book.txt", context=64, on_progress=lambda *a: told.append(a))
    windows = len(found.data["windows"])
    assert [done for done, _, _ in told] == [*range(2, windows, 2), windows] and {n for _, n, _ in told} == {windows}
