"""Autoencoders, learned atoms and fixed families in one table: what each explains, finds, and loses by its encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.drawing import text_table
from cloche.errors import ArgumentRange, SettingConflict
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.metrics import Report
from cloche.sparse.pursuit import OMP
from cloche.sparse.truth.gap import Gap, gap_report
from cloche.sparse.truth.grading import Grade, grade
from cloche.sparse.truth.planted_reports import Learned


@dataclass(frozen=True, eq=False)
class Row:
    """One dictionary: its gap, and, where the truth is known, its grades by its own encoder and by a pursuit."""

    name: str
    gap: Gap
    own: Grade | None
    same: Grade | None


@dataclass(frozen=True, eq=False)
class GapTable:
    """A row a dictionary. FVU beside F1: what explains better has not always found more."""

    rows: list[Row]
    truth: tuple[Report, Grade] | None  # the true atoms, by OMP

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
    """`gap_report` of every dictionary on the same signals `x` [n, d]; with the `truth` and the `code` that made them, graded.

    `learned` are encoders that name their dictionary, by name: an SAE, or `pursuit.over(D)` for learned atoms and for those of
    a fixed family. Each is compared at its own L0, the true atoms at that of the first. An atom that is mostly used negatively
    is graded as its opposite: where codes have signs, an atom's own means nothing.
    """
    if not learned:
        raise ArgumentRange("A table of gaps needs a dictionary: give at least one, by name.")
    if (truth is None) != (code is None):
        raise SettingConflict("Grades need the true atoms and the code that made the signals: give both, or neither.")

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
    """An encoder whose atoms are turned so that they are mostly used positively."""

    encoder: Learned
    signs: Tensor  # [N] 1 or -1

    @classmethod
    def after(cls, encoder: Learned, x: Tensor) -> _Turned:
        """Turned as the code of signals `x` has it."""
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
