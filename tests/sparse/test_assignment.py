"""One-to-one assignment and Student's quantiles, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import t

from cloche.drawing import student_quantile
from cloche.sparse.truth.assignment import assign


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 40, 61])
def test_the_assignment_gains_what_scipys_does(columns: int) -> None:
    rng = np.random.default_rng(columns)
    for rows in range(1, columns + 1):
        for gain in (rng.normal(size=(rows, columns)), rng.integers(0, 3, (rows, columns)).astype(float)):
            held = assign(gain)
            assert len(set(held.tolist())) == rows and held.min() >= 0
            best = gain[linear_sum_assignment(gain, maximize=True)].sum()
            assert gain[np.arange(rows), held].sum() == pytest.approx(best, abs=1e-9)


def test_the_assignment_is_scipys_where_there_is_one_best() -> None:
    atoms = np.random.default_rng(0).normal(size=(2, 300, 16))
    gain = atoms[0] @ atoms[1].T
    np.testing.assert_array_equal(assign(gain), linear_sum_assignment(gain, maximize=True)[1])


def test_quantiles_are_students() -> None:
    for freedom in (*range(1, 30), 99, 1000):
        for share in (0.6, 0.95, 0.975, 0.999):
            assert student_quantile(share, freedom) == pytest.approx(t.ppf(share, freedom), rel=1e-10)
