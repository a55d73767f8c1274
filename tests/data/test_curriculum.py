"""Curricula: easy rows first, by measures with known answers; any step again, exact on resume."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from corpora import of_documents

from cloche.data import (
    Batches,
    BestFit,
    Compression,
    Curriculum,
    Difficulty,
    DocumentLength,
    Draw,
    Easiest,
    PackedTokens,
    Stream,
    UnigramLoss,
)
from cloche.data.difficulty import Material, easiest_first
from cloche.errors import ClocheError
from cloche.part import part_from_line


@dataclass(frozen=True)
class Place(Difficulty):
    """Where a row stands: the truth is known for every row."""

    def of(self, rows, material):
        return rows.ids[:, 1].astype(float)


def plain(count: int) -> PackedTokens:
    return PackedTokens([np.arange(1, count + 1, dtype="<u4")], {"bytes": count, "documents": 1}, end=0)


@pytest.mark.parametrize(("start", "until", "stages"), [(0.2, 0.5, 4), (0.1, 1.0, 10), (0.5, 0.0, 3)])
def test_the_pool_grows_from_start_to_all_at_until(start: float, until: float, stages: int):
    curriculum = Easiest(Place(), start, until, stages)
    batches = Batches(plain(4000), 10, 8, seed=0, draw=Draw(curriculum=curriculum, steps=200))
    for step in range(0, 200, 7):
        begin, share = curriculum.stage(step, 200)
        assert begin <= step and start <= share <= 1 and (share == 1) == (step >= until * 200)
        if share < 1:  # row n of the ring holds targets 10 n + 2 .. 10 n + 11
            assert batches.at(step)[:, 0].max() <= 10 * share * 400
    shares = [curriculum.stage(step, 200)[1] for step in range(200)]
    assert shares == sorted(shares) and len(set(shares)) <= stages + 1


def test_within_a_stage_every_row_of_the_pool_comes_before_one_comes_again():
    curriculum = Easiest(Place(), start=0.1, until=1.0, stages=2)
    batches = Batches(plain(4000), 10, 8, seed=3, draw=Draw(curriculum=curriculum, steps=100))
    firsts = np.concatenate([batches.at(step)[:, 0] for step in range(50)])
    for epoch in range(10):  # 40 rows in the pool, 5 steps an epoch
        assert sorted(firsts[40 * epoch : 40 * (epoch + 1)]) == list(range(1, 401, 10))
    assert list(firsts[:40]) != list(firsts[40:80])


def test_a_curriculum_that_begins_with_all_is_none():
    draw = Draw(curriculum=Easiest(Place(), start=1.0), steps=100)
    one, other = Batches(plain(4000), 10, 8, draw=draw), Batches(plain(4000), 10, 8)
    assert all(np.array_equal(one.at(step), other.at(step)) for step in (0, 49, 50, 99))


def test_after_the_ramp_it_is_an_ordinary_epoch():
    batches = Batches(plain(4000), 10, 8, draw=Draw(curriculum=Easiest(Place(), 0.5, 0.2), steps=100))
    rows = np.concatenate([batches.at(step)[:, 1:] for step in range(20, 70)])
    assert len(np.unique(rows)) == rows.size == 4000


def test_any_step_again_and_resumed_with_the_steps_it_began_with():
    draw = Draw(BestFit(), (1, 1), Easiest(start=0.3), steps=60)
    sizes = np.random.default_rng(0).integers(3, 40, size=200).tolist()
    tokens = of_documents(sizes, sizes[:50])
    batches = Batches(tokens, 32, 5, seed=1, draw=draw)
    straight = [batches.next() for _ in range(60)]
    assert all(np.array_equal(batches.at(step), straight[step]) for step in (59, 3, 31))
    longer = Batches(tokens, 32, 5, seed=1, draw=Draw(BestFit(), (1, 1), Easiest(start=0.3), steps=600))
    longer.restore(json.loads(json.dumps({**batches.state(), "step": 20})))
    assert all(np.array_equal(longer.next(), straight[step]) for step in range(20, 60))
    with pytest.raises(ClocheError, match="saved with curriculum"):
        Batches(tokens, 32, 5, seed=1, draw=Draw(BestFit(), (1, 1))).restore(batches.state())


def test_measures_order_planted_rows():
    """Rows of one token over and over, of a few frequent tokens, and of all tokens alike."""
    rng = np.random.default_rng(0)
    easy, middle = np.full(1000, 7), rng.integers(1, 5, size=1000)
    hard = rng.integers(1, 500, size=1000)
    ids = np.concatenate([hard, easy, middle]).astype("<u4")
    tokens = PackedTokens([ids], {"bytes": 3000, "documents": 1}, end=0)
    layout = Stream().layout(tokens, 50)
    for measure in (UnigramLoss(), Compression()):
        order = easiest_first(layout, tokens, measure)
        kinds = np.array([2] * 20 + [0] * 20 + [1] * 20)[order]
        assert kinds.tolist() == sorted(kinds.tolist()), measure
    found = UnigramLoss().of(layout.read([20], 0), Material(tokens))[0]
    assert found == pytest.approx(np.log(3000 / (ids == 7).sum()))


def test_rows_of_short_documents_are_easy_by_length():
    tokens = of_documents([32] * 10 + [4] * 80 + [16] * 20)
    order = easiest_first(layout := BestFit().layout(tokens, 32), tokens, DocumentLength())
    documents = layout.read(order, 0).documents.max(axis=1) + 1
    assert documents.tolist() == [8] * 10 + [2] * 10 + [1] * 10


def test_a_curriculum_that_leaves_less_than_a_batch_gets_a_sentence():
    for start in (0.0, 0.01):
        with pytest.raises(
            ClocheError, match=r"begins with .* of 400 rows, which leaves \d, fewer than one batch of 8"
        ):
            Batches(plain(4000), 10, 8, draw=Draw(curriculum=Easiest(Place(), start), steps=10))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measure_that_is_no_number_gets_a_sentence(value: float):
    @dataclass(frozen=True)
    class Broken(Difficulty):
        def of(self, rows, material):
            return np.where(rows.ids[:, 1] == 32, value, 1.0)

    with pytest.raises(ClocheError, match="measures row 3 as"):
        Batches(plain(400), 10, 2, draw=Draw(curriculum=Easiest(Broken()), steps=10))


@pytest.mark.parametrize("line", ["Easiest(start=2)", "Easiest(until=nan)", "Easiest(stages=0)", "Easiest(by=Stream)"])
def test_settings_out_of_range_get_a_sentence(line: str):
    with pytest.raises(ClocheError, match=r"must lie between|must be a Difficulty"):
        part_from_line(line, Curriculum)
