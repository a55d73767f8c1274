"""Planted items are found, word for word and in part, and nothing is where nothing was planted."""

from __future__ import annotations

from pathlib import Path

import pytest

import cloche
from cloche.data import Document
from cloche.evals import contamination
from cloche.evals.answering import items_of
from cloche.tasks import Add, FromFile

TEXT = "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals. " * 20


def test_planted_items_are_found_and_only_those() -> None:
    items = items_of(Add(), 80, None, 0)
    planted = [item for item in items if item.level >= 5][:9]
    found = contamination([Add()], [TEXT, *(f"so {i.prompt.upper()} {i.answer}, see?" for i in planted)], limit=80)
    assert sorted(found.data["held"]) == sorted(item.problem_id for item in planted)
    assert found.figures["whole"] == pytest.approx(9 / len(items))
    assert found.null is not None and found.null["whole"] == 0
    assert f"{planted[0].prompt}{planted[0].answer}" in {row[1] for row in found.panels[1].rows}  # type: ignore[union-attr]


def test_a_corpus_without_them_is_clean() -> None:
    found = contamination([Add()], [TEXT], limit=40)
    assert found.figures == {"whole": 0, "overlap": 0} and found.data["words"] > 100


def test_an_item_across_two_pieces_of_a_document_is_found_and_across_two_documents_is_not() -> None:
    (item,) = items_of(Add(), 1, 6)
    text = f"{TEXT} {item.prompt}{item.answer} {TEXT}"
    cut = text.index(item.prompt) + 2
    for last, found in ((False, 1), (True, 0)):
        pieces = [Document("a", text[:cut], last=last), Document("a", text[cut:])]
        assert len(contamination([Add()], pieces, limit=8 * 40).data["held"]) == found


def test_questions_of_a_file_are_found_and_their_words_in_another_order_are_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,answer\nThe sky over the northern sea is,blue\nThe grass of the old garden is,green\n")
    found = contamination([FromFile(str(path))], [TEXT, "the sky over the northern sea is blue."], n=4)
    assert found.figures == {"whole": 0.5, "overlap": 0.5}
    assert found.null == {"whole": 0, "overlap": 0}


def test_what_cannot_be_checked_is_one_sentence() -> None:
    with pytest.raises(cloche.ClocheError, match="holds no words"):
        contamination([Add()], [""], limit=8)
    with pytest.raises(cloche.ClocheError, match="n=0 must be a whole number"):
        contamination([Add()], [TEXT], n=0)
    with pytest.raises(cloche.ClocheError, match="There is no task"):
        contamination([], [TEXT])
