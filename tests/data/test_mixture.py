"""Mixtures: the rows drawn from each source follow the weights to within one row, at every row of the run."""

import json
from pathlib import Path

import numpy as np
import pytest
from corpora import of_documents

from cloche.data import (
    Batches,
    BestFit,
    Draw,
    Mixture,
    NearDuplicates,
    PackedTokens,
    Source,
    Turns,
    prepare,
    prepare_mixture,
)
from cloche.data.mixture import shares
from cloche.errors import ClocheError
from cloche.text import Tokenizer


@pytest.mark.parametrize(
    ("wanted", "period"),
    [([1.0], 1), ([0.75, 0.25], 4), ([0.7, 0.2, 0.1], 10), ([1 / 3] * 3, 3), ([0.98, 0.01, 0.01], 100)],
)
def test_after_every_row_each_source_has_had_its_share_to_within_a_row(wanted: list[float], period: int):
    turns = Turns(wanted)
    assert turns.period == period and turns.shares == pytest.approx(wanted)
    _within_a_row(turns, wanted, 3 * period)


@pytest.mark.parametrize("sources", [2, 5, 9])
def test_so_it_is_for_shares_that_are_no_fractions(sources: int):
    rng = np.random.default_rng(sources)
    wanted = rng.dirichlet(np.full(sources, 0.5))
    turns = Turns(wanted.tolist())
    assert turns.period == 65_536 and np.abs(turns.shares - wanted).max() <= 2 / 65_536
    _within_a_row(turns, turns.shares, 65_536)


def _within_a_row(turns: Turns, wanted: list[float], rows: int) -> None:
    drawn, before = turns.draw(np.arange(rows))
    for i, share in enumerate(wanted):
        had = np.cumsum(drawn == i)
        assert np.abs(had - share * np.arange(1, rows + 1)).max() < 1
        assert before[drawn == i].tolist() == list(range(had[-1]))
        assert [turns.drawn(i, row) for row in (0, 1, rows // 2, rows)] == [0, had[0], had[rows // 2 - 1], had[-1]]


def test_a_source_with_hardly_any_share_still_has_a_turn():
    assert Turns([1 - 1e-9, 1e-9]).counts.tolist() == [65_535, 1]
    assert Turns([0.5 - 1e-9, 0.5 - 1e-9, 1e-9, 1e-9]).counts.min() == 1


def test_weights_and_temperature():
    assert shares([3, 1]) == [0.75, 0.25] and shares([900, 100], 2) == pytest.approx([0.75, 0.25])
    assert shares([9, 1], 1e6) == pytest.approx([0.5, 0.5], abs=1e-5)
    assert shares([9e300, 1e-300], 0.01)[0] == 1.0  # no overflow
    by_size = Mixture((Source(("a",)), Source(("b",))), temperature=1 / 0.3)  # mT5's exponent
    assert by_size.shares([1000, 10])[0] == pytest.approx(1000**0.3 / (1000**0.3 + 10**0.3))


def test_each_source_has_its_own_epochs_and_any_step_can_be_computed():
    tokens = of_documents([80] * 50, [40] * 3, names=("large", "small"))
    batches = Batches(tokens, 10, 6, seed=1, draw=Draw(weights=(2, 1)))
    straight = [batches.next() for _ in range(60)]
    rows = np.concatenate(straight)
    small = rows[:, 1:].max(axis=1) > 4000
    assert small.sum() == 120 and batches.shares == pytest.approx({"large": 2 / 3, "small": 1 / 3})
    assert batches.epochs == {"large": 240 / 400, "small": 120 / 12}
    for epoch in range(10):  # every window of the small source once an epoch
        seen = rows[small][12 * epoch : 12 * (epoch + 1), 1:].ravel()
        assert (np.unique(seen, return_counts=True)[1][1:] == 1).all()
    again = Batches(tokens, 10, 6, seed=1, draw=Draw(weights=(2, 1)))
    again.restore(json.loads(json.dumps({**batches.state(), "step": 31})))
    assert all(np.array_equal(again.next(), straight[step]) for step in range(31, 60))
    assert not np.array_equal(again.at(0), Batches(tokens, 10, 6, seed=2, draw=Draw(weights=(2, 1))).at(0))
    with pytest.raises(ClocheError, match="saved with weights"):
        Batches(tokens, 10, 6, seed=1, draw=Draw(weights=(1, 1))).restore(batches.state())


def test_the_order_of_a_single_source_is_what_it_was_before_there_were_mixtures():
    batches = Batches(of_documents([7] * 300), 10, 4, seed=5)
    assert batches.at(123)[:, 0].tolist() == [0, 1116, 1046, 256] and batches.state() == {
        "step": 0,
        "tokens": 2100,
        "length": 10,
        "batch": 4,
        "seed": 5,
    }


def test_a_source_smaller_than_a_window_is_refused_or_padded():
    tokens = of_documents([80] * 50, [5], names=("large", "tiny"))
    with pytest.raises(ClocheError, match="tiny has 5 tokens, fewer than one window of 10"):
        Batches(tokens, 10, 6, draw=Draw(weights=(2, 1)))
    rows = Batches(tokens, 10, 6, draw=Draw(BestFit(), weights=(2, 1))).rows(0)
    assert (rows.weights.sum(axis=1) == 5).sum() == 2


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_none_gets_a_sentence(weight: float):
    with pytest.raises(ClocheError, match=r"code has weight .* must be a finite number above zero"):
        Source(("code",), weight=weight)


def test_unusable_mixtures_get_a_sentence(tmp_path: Path):
    for sources, match in (
        ((), "has no sources"),
        ((Source(("a",), 1), Source(("b",))), "b has no weight and a has one"),
        ((Source(("a",)), Source(("a",))), "called 'a'"),
    ):
        with pytest.raises(ClocheError, match=match):
            Mixture(sources)
    for temperature in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ClocheError, match="temperature"):
            Mixture((Source(("a",)),), temperature)
    with pytest.raises(ClocheError, match="2 weights and 1 sources"):
        Batches(of_documents([80]), 10, 1, draw=Draw(weights=(1, 2)))
    with pytest.raises(ClocheError, match=r"There is no|no file|does not exist|nothing"):
        prepare_mixture(Mixture((Source((str(tmp_path / "none"),)),)), tmp_path / "run")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, count in (("code", 30), ("books", 12)):
        (tmp_path / name).mkdir()
        for i in range(count):
            words = [f"{name}{j}" for j in rng.integers(40, size=60)]
            (tmp_path / name / f"{i}.txt").write_text(" ".join(words))
    return tmp_path


def mixture(texts: Path) -> Mixture:
    return Mixture(tuple(Source((str(texts / name),), name=name) for name in ("code", "books")))


def test_sources_are_packed_one_after_the_other_and_told_apart(texts: Path):
    index = prepare_mixture(mixture(texts), texts / "run", vocab=300, validation=0.1)
    tokenizer, stored = Tokenizer.load(texts / "run"), json.loads((texts / "run/data/data.json").read_text())
    assert stored == index and index["sources"]["files"] == 42
    for side in ("train", "validation"):
        tokens = PackedTokens.open(texts / "run", side)
        assert [part.name for part in tokens.parts] == ["code", "books"]
        assert sum(len(part) for part in tokens.parts) == len(tokens)
        assert sum(part.bytes for part in tokens.parts) == tokens.bytes
        for part in tokens.parts:
            text = tokenizer.decode(part.window(0, len(part)).tolist())
            other = {"code": "books", "books": "code"}[part.name]
            assert part.name in text and other not in text
            assert part.documents == text.count("<|endoftext|>") or part.documents == len(part.ends())
    assert index["sources"]["split"].count(":") == 2


def test_patterns_hold_files_out_of_the_sources_that_have_them(texts: Path):
    index = prepare_mixture(mixture(texts), texts / "run", vocab=300, validation=["1*.txt"])
    held = [part["documents"] for part in index["splits"]["validation"]["mixture"]]
    assert held == [11, 3]
    with pytest.raises(ClocheError, match="No file of any source matches"):
        prepare_mixture(mixture(texts), texts / "other", vocab=300, validation=["*.md"])


def test_one_source_is_packed_as_without_a_mixture(texts: Path):
    prepare([texts / "code"], texts / "one", vocab=300)
    prepare_mixture(Mixture((Source((str(texts / "code"),)),)), texts / "two", vocab=300)
    files = [path.relative_to(texts / "one") for path in (texts / "one").rglob("*.*")]
    assert len(files) == 5 and all((texts / "one" / f).read_bytes() == (texts / "two" / f).read_bytes() for f in files)


def test_a_source_of_which_nothing_is_left_to_train_on_is_named(texts: Path):
    for i in range(12):
        (texts / "books" / f"{i}.txt").write_text((texts / "code" / f"{i}.txt").read_text())
    with pytest.raises(ClocheError, match="No text of books is left to train on"):
        prepare_mixture(mixture(texts), texts / "run", vocab=300, validation=["29.txt"], duplicates=NearDuplicates())


def test_a_share_of_zero_is_one_sentence_at_once():
    with pytest.raises(ClocheError, match=r"books would never be drawn: its share is zero, with 1e-300 beside 1e\+300"):
        Mixture((Source(("code",), weight=1e300), Source(("books",), weight=1e-300)))
    with pytest.raises(ClocheError, match=r"books would never be drawn: .* at a temperature of 1e-09"):
        Mixture((Source(("code",)), Source(("books",))), temperature=1e-9).shares([900, 100])
    assert Mixture((Source(("code",)), Source(("books",))), temperature=1e-9).shares([900, 900]) == [0.5, 0.5]
