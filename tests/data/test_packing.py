"""Packing: no token is dropped, documents stay whole where they fit, padding is never a target."""

import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from corpora import END, of_documents

from cloche.data import Batches, BestFit, Draw, PackedTokens, Packing, Stream, document_numbers
from cloche.errors import ClocheError
from cloche.part import part_from_line


def sizes(count: int, seed: int, most: int = 90) -> list[int]:
    return (1 + np.random.default_rng(seed).integers(1, most, size=count)).tolist()


@pytest.mark.parametrize("fill", [0.0, 0.995, 1.0])
@pytest.mark.parametrize("length", [16, 64, 100])
def test_every_token_is_in_one_slot_and_nothing_else_is(length: int, fill: float):
    tokens = of_documents(sizes(200, seed=length))
    layout = BestFit(fill=fill, buffer=70).layout(tokens, length)
    rows = layout.read(np.arange(layout.count), shift=0)
    targets, weights, documents = rows.ids[:, 1:], rows.weights, rows.documents
    held = targets != END  # an end token stands where it was, or is padding
    whole = tokens.window(0, len(tokens))
    assert sorted(targets[held].tolist()) == whole[whole != END].tolist()
    assert layout.used * layout.count * length == pytest.approx(len(tokens))
    ends, lost = int((weights * ~held).sum()), held & (weights == 0)
    # A target of weight 0 that is no padding is the first of a document's rest, behind another document.
    assert not lost[:, 0].any() and (np.diff(documents, axis=1)[lost[:, :-1]] == 1).all()
    assert 200 - layout.count <= ends <= 200
    # Each input's number is that of its own document; tokens are their places, so their documents are known.
    of = np.searchsorted(tokens.ends(), rows.ids[:, :-1])
    for row, numbers, inputs in zip(of, documents, rows.ids[:, :-1], strict=True):
        for number in range(numbers.max() + 1):
            assert len(set(row[(numbers == number) & (inputs != END)])) <= 1
    # Padding is behind everything else of its row.
    filled = weights.cumsum(axis=1) == weights.sum(axis=1, keepdims=True)
    assert (held <= ~filled | (weights > 0) | lost).all()


def test_a_target_is_predicted_from_what_is_before_it_in_its_document():
    """Truth by construction: token t follows token t - 1, and the first of a document follows an end token."""
    tokens = of_documents(sizes(120, seed=1))
    layout = BestFit().layout(tokens, 48)
    rows = layout.read(np.arange(layout.count), shift=0)
    before, after = rows.ids[:, :-1][rows.weights > 0], rows.ids[:, 1:][rows.weights > 0]
    opens = before == END
    assert (before[~opens & (after != END)] + 1 == after[~opens & (after != END)]).all()
    starts = {1} | {int(t) + 1 for t in (tokens.ends() + 1)[:-1]}
    assert set(after[opens & (after != END)].tolist()) <= starts


@pytest.mark.parametrize("fill", [0.9, 0.995])
def test_the_share_asked_for_is_used_where_whole_documents_would_leave_more(fill: float):
    tokens = of_documents([40] * 400)  # one of 40 in a row of 64 leaves 24 slots that nothing fits
    whole = BestFit(fill=0).layout(tokens, 64)
    assert whole.used == 40 / 64 and whole.whole == 1.0
    layout = BestFit(fill=fill).layout(tokens, 64)
    assert fill <= layout.used < fill + 0.01 and 0.2 < layout.whole < 1


def test_documents_that_fit_together_are_whole():
    layout = BestFit().layout(of_documents([10, 22, 16, 16, 30, 2] * 50), 32)
    assert layout.used == 1.0 and layout.whole == 1.0


def test_one_document_alone_is_one_padded_row():
    tokens = of_documents([9])
    layout = BestFit().layout(tokens, 32)
    rows = layout.read([0], shift=0)
    assert layout.count == 1 and rows.weights.sum() == 9 and layout.whole == 1
    assert Batches(tokens, 32, 4, draw=Draw(BestFit())).next().shape == (4, 33)
    with pytest.raises(ClocheError, match=r'fewer than one window of 32; .* rows\.packing = "BestFit"'):
        Stream().layout(tokens, 32)


def test_a_stream_numbers_its_documents_within_the_row():
    tokens = of_documents([5, 5, 5, 5])
    rows = Stream().layout(tokens, 10).read([0, 1], shift=2)
    assert rows.weights is None and rows.ids[0].tolist() == [3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13]
    assert rows.documents[0].tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert document_numbers(np.array([[END, END, 3]]), END).tolist() == [[0, 1, 1]]


def test_rows_do_not_depend_on_how_they_are_asked_for():
    tokens = of_documents(sizes(300, seed=2))
    batches = [Batches(tokens, 32, 5, seed=3, draw=Draw(BestFit())) for _ in range(2)]
    straight = [batches[0].next_rows() for _ in range(88)]
    for step in (39, 3, 17):  # as several readers would, each its own steps
        for one, other in zip(batches[1].rows(step), straight[step], strict=True):
            assert np.array_equal(one, other)
    per_epoch = batches[0].windows_per_epoch
    firsts = np.concatenate([rows.ids[:, 1] for rows in straight])[:per_epoch]
    assert len(set(firsts.tolist())) == per_epoch  # each row once an epoch


def test_a_cursor_of_another_packing_is_refused():
    tokens = of_documents(sizes(100, seed=4))
    state = Batches(tokens, 32, 4, draw=Draw(BestFit())).state()
    with pytest.raises(ClocheError, match="saved with packing BestFit"):
        Batches(tokens, 32, 4).restore(state)
    with pytest.raises(ClocheError, match="saved with packing None"):
        Batches(tokens, 32, 4, draw=Draw(BestFit())).restore(Batches(tokens, 32, 4).state())


@pytest.mark.parametrize("line", ["BestFit(fill=1.5)", "BestFit(fill=nan)", "BestFit(buffer=0)", "BestFit(full=1)"])
def test_settings_out_of_range_get_a_sentence(line: str):
    with pytest.raises(ClocheError, match=r"must lie between|has no field"):
        part_from_line(line, Packing)


def test_a_packing_of_ones_own_draws_the_batches():
    @dataclass(frozen=True)
    class FirstHalf(Packing):
        def layout(self, tokens: PackedTokens, length: int):
            return Stream().layout(tokens.part(0, len(tokens) // 2), length)

    tokens = of_documents([50] * 20)
    seen = Batches(tokens, 10, 5, draw=Draw(FirstHalf())).at(7)
    assert seen.max() < 500


def test_a_token_beyond_the_vocabulary_gets_a_sentence():
    tokens = PackedTokens([np.array([1, 2, 300], dtype="<u2")], {"bytes": 3, "documents": 1}, end=0, vocab=300)
    assert tokens.window(0, 2).tolist() == [1, 2]
    with pytest.raises(ClocheError, match="token 300, beyond its vocabulary of 300"):
        tokens.window(0, 3)


@pytest.mark.slow
def test_a_layout_takes_a_small_share_of_the_memory_of_its_tokens(tmp_path: Path):
    """64 MB of memory-mapped tokens in long documents: 22 bytes for each row of 256 are kept, and little more is ever held."""
    count = 32 << 20
    row = np.lib.format.open_memmap(tmp_path / "tokens.npy", mode="w+", dtype="<u2", shape=(count,))
    row[:] = 5
    row[np.random.default_rng(0).integers(count, size=500)] = END
    tracemalloc.start()
    tokens = PackedTokens([np.load(tmp_path / "tokens.npy", mmap_mode="r")], {"bytes": count, "documents": 500}, END)
    batches = Batches(tokens, 256, 8, draw=Draw(BestFit()))
    kept = tracemalloc.get_traced_memory()[0]
    for step in range(100):
        batches.rows(997 * step)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept < 0.06 * 2 * count and peak < 0.4 * 2 * count
