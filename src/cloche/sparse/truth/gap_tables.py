"""Table of autoencoders, learned and fixed dictionaries: FVU, recovery, and the error due to the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.drawing import text_table
from cloche.errors import DictionaryMissing, SettingConflict
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.metrics import Report
from cloche.sparse.pursuit import OMP
from cloche.sparse.truth.gap import Gap, gap_report
from cloche.sparse.truth.grading import Grade, grade
from cloche.sparse.truth.synthetic_reports import Learned


@dataclass(frozen=True, eq=False)
class Row:
    """One dictionary: its gap and, if the truth is known, its grades with its own encoder and with a pursuit."""

    name: str
    gap: Gap
    own: Grade | None
    same: Grade | None


@dataclass(frozen=True, eq=False)
class GapTable:
    """One row per dictionary, with FVU beside F1, because better explained variance does not imply better recovery.

    >>> from cloche.sparse import SyntheticFeatures, gap_table
    >>> from cloche.sparse.pursuit import OMP
    >>> data = SyntheticFeatures(width=8, features=12, active=1)
    >>> table = gap_table({"truth": OMP(k=1).over(data.dictionary)}, data.sample(200)[0])
    >>> [(row.name, round(abs(row.gap.of_encoder), 3)) for row in table.rows]
    [('truth', 0.0)]
    """

    rows: list[Row]
    truth: tuple[Report, Grade] | None  # the true atoms, with OMP

    def __str__(self) -> str:
        header = ["", "FVU", "by pursuit", "L0", "dead", "cosine", "F1", "by pursuit"]
        lines = [[row.name, *_explained(row.gap), *_graded(row)] for row in self.rows]
        if self.truth is not None:
            seen, found = self.truth
            explained = ["", f"{seen.fvu:.4f}", f"{seen.l0:.2f}", f"{seen.dead_share:.1%}"]
            lines.append(["the true atoms", *explained, f"{found.cosine:.3f}", "", f"{found.f1:.3f}"])
        shown = len(header) if self.truth is not None else 5
        return text_table(header[:shown], [line[:shown] for line in lines])


def gap_table(
    learned: Mapping[str, Learned], x: Tensor, truth: Dictionary | None = None, code: Code | None = None
) -> GapTable:
    """`gap_report` of each dictionary on the same signals `x` [n, d]; also graded if the `truth` and its `code` are given.

    `learned` maps names to encoders with dictionaries: an SAE, or `pursuit.over(D)` for a learned or fixed dictionary. Each
    is compared at its own L0, the true atoms at that of the first. An atom that is mostly used negatively is graded with
    its sign flipped, because signed codes leave the sign of an atom undetermined.

    >>> from cloche.sparse import SAE, SyntheticFeatures, gap_table
    >>> from cloche.sparse.pursuit import OMP
    >>> data = SyntheticFeatures(width=8, features=12, active=1)
    >>> x, code = data.sample(200)
    >>> dictionaries = {"untrained SAE": SAE(8, 12, l0=1), "true atoms": OMP(k=1).over(data.dictionary)}
    >>> table = gap_table(dictionaries, x, data.dictionary, code)
    >>> [row.own.cosine > 0.99 for row in table.rows]
    [False, True]
    """
    if not learned:
        raise DictionaryMissing("A gap table needs at least one dictionary: give a mapping from names to encoders.")
    if (truth is None) != (code is None):
        raise SettingConflict("Grades need both the true atoms and the true code: give both or neither.")

    def graded(encoder: Learned) -> Grade | None:
        if truth is None or code is None:
            return None
        turned = _Turned.after(encoder, x)
        return grade(turned, turned.dictionary, x, truth, code)

    rows = []
    for name, each in learned.items():
        gap = gap_report(each, each.dictionary, x, truth)
        rows.append(Row(name, gap, graded(each), graded(gap.pursuit)))
    if truth is None or code is None or (best := rows[0].gap.best) is None:
        return GapTable(rows, None)
    exact = OMP(k=max(1, round(best.l0))).over(truth)
    return GapTable(rows, (best, grade(exact, truth, x, truth, code)))


@dataclass(frozen=True, eq=False)
class _Turned:
    """An encoder with atom signs flipped so that they are mostly used positively."""

    encoder: Learned
    signs: Tensor  # [N] 1 or -1

    @classmethod
    def after(cls, encoder: Learned, x: Tensor) -> _Turned:
        """Flips signs according to the code of signals `x`."""
        code = encoder.encode(x)
        total = torch.zeros(code.size, dtype=code.values.dtype)
        total.index_add_(0, code.indices.flatten(), code.values.flatten())
        return cls(encoder, torch.where(total < 0, -1.0, 1.0).to(code.values.dtype))

    @property
    def dictionary(self) -> Dictionary:
        of = self.encoder.dictionary
        return Dictionary(of.atoms * self.signs[:, None], of.bias)

    def encode(self, x: Tensor) -> Code:
        code = self.encoder.encode(x)
        return Code(code.indices, code.values * self.signs[code.indices], code.size)


def _explained(gap: Gap) -> list[str]:
    return [f"{gap.own.fvu:.4f}", f"{gap.same.fvu:.4f}", f"{gap.own.l0:.2f}", f"{gap.own.dead_share:.1%}"]


def _graded(row: Row) -> list[str]:
    if row.own is None or row.same is None:
        return ["", "", ""]
    return [f"{row.own.cosine:.3f}", f"{row.own.f1:.3f}", f"{row.same.f1:.3f}"]
