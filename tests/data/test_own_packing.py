"""Packings, curricula and rules for duplicates of one's own that misbehave are one sentence."""

from dataclasses import dataclass

import numpy as np
import pytest

from cloche.data import (
    Batches,
    Curriculum,
    Draw,
    Duplicates,
    Layout,
    Mixture,
    PackedTokens,
    Packing,
    Rows,
    Source,
    prepare,
    prepare_mixture,
)
from cloche.errors import ClocheError

LENGTH = 8


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "notes.txt").write_text("the cat sat on the mat. " * 400)
    prepare([folder / "notes.txt"], folder / "corpus", vocab=270, validation=0.1)
    return PackedTokens.open(folder / "corpus", "train")


class _Rows(Layout):
    def __init__(self, count, length):
        self.count, self.length = count, length

    def read(self, places, shift):
        shape = len(places), self.length
        return Rows(np.zeros((shape[0], shape[1] + 1), dtype=np.int64), np.zeros(shape, dtype=np.int64), None)


@dataclass(frozen=True)
class Odd(Packing):
    count: int = 0
    length: int = LENGTH

    def layout(self, tokens, length):
        return None if self.count < 0 else _Rows(self.count, self.length)


def test_a_packing_has_rows_of_the_length(tokens):
    for count in (0, -1):
        with pytest.raises(ClocheError, match=r"Odd.* makes no rows of the corpus"):
            Batches(tokens, LENGTH, 2, draw=Draw(Odd(count)))
    assert Batches(tokens, LENGTH, 2, draw=Draw(Odd(count=5))).next().shape == (2, LENGTH + 1)
    with pytest.raises(ClocheError, match=r"gives rows of shape \[2, 4\] instead of \[2, 9\]"):
        Batches(tokens, LENGTH, 2, draw=Draw(Odd(count=5, length=3))).next()


@dataclass(frozen=True)
class Own(Curriculum):
    kind: str = ""
    begin: int = 0
    share: float = 0.5

    def order(self, layout, tokens):
        order = np.arange(layout.count)
        return {"short": order[:2], "twice": order * 0, "beyond": order + 1, "real": order / 1}.get(self.kind, order)

    def stage(self, step, steps):
        return self.begin, self.share


def test_a_curriculum_orders_every_row_once_and_its_stages_have_begun(tokens):
    assert Batches(tokens, LENGTH, 2, draw=Draw(curriculum=Own(), steps=9)).next().shape == (2, LENGTH + 1)
    for kind in ("short", "twice", "beyond", "real"):
        with pytest.raises(ClocheError, match=r"must put each of the .* rows into its order once"):
            Batches(tokens, LENGTH, 2, draw=Draw(curriculum=Own(kind), steps=9))
    for begin, share in ((3, 0.5), (-1, 0.5), (0, float("nan")), (0, 1.5)):
        with pytest.raises(ClocheError, match=r"says of step 0 that its stage began at"):
            Batches(tokens, LENGTH, 2, draw=Draw(curriculum=Own(begin=begin, share=share), steps=9))


@dataclass(frozen=True)
class Finds(Duplicates):
    def find(self, read):
        return None


def test_a_rule_for_duplicates_returns_what_is_removed(tmp_path):
    (tmp_path / "notes.txt").write_text("the cat sat on the mat. " * 40)
    mixture = Mixture((Source((str(tmp_path / "notes.txt"),)),))
    with pytest.raises(ClocheError, match="Finds must return a Removed from `find`, not None"):
        prepare_mixture(mixture, tmp_path / "corpus", vocab=270, duplicates=Finds())
    assert not (tmp_path / "corpus").exists()
