"""Variation of figures over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from statistics import fmean

from cloche.drawing import Interval
from cloche.errors import CorpusEmpty
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.truth.assignment import match


def over_seeds(measure: Callable[[int], dict[str, float]], seeds: Iterable[int] = range(5)) -> dict[str, Interval]:
    """The figures of `measure(seed)`, each as an interval over the `seeds`.

    >>> from cloche.sparse.truth import over_seeds
    >>> over_seeds(lambda seed: {"fvu": 0.1 + 0.01 * seed}, range(3))["fvu"].mean
    0.11
    """
    rows = [measure(seed) for seed in seeds]
    if len(rows) < 2 or any(row.keys() != rows[0].keys() for row in rows):
        raise CorpusEmpty("An interval needs the same figures from two or more seeds: give more seeds.")
    return {name: Interval(tuple(row[name] for row in rows)) for name in rows[0]}


def stability(dictionaries: Sequence[Dictionary]) -> Interval:
    """Mean cosine of atoms matched one to one, over all pairs of dictionaries learned with different seeds.

    Pairs that share a dictionary are not independent, so the interval is over Tukey's pseudo-values: the contribution of
    each dictionary to the mean over all pairs. Two dictionaries are one pair, which has no interval.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.truth import stability
    >>> atoms = [SyntheticFeatures(width=8, features=12, seed=seed).dictionary for seed in (0, 0, 1)]
    >>> stability(atoms[:2]).mean > 0.999 > stability(atoms[1:]).mean
    True
    """
    n = len(dictionaries)
    if n < 2:
        raise CorpusEmpty("Stability needs two or more dictionaries: learn with more seeds.")
    pairs = {(i, j): float(match(dictionaries[i], dictionaries[j])[1].mean()) for i, j in combinations(range(n), 2)}
    whole = fmean(pairs.values())
    if n == 2:
        return Interval((whole,))
    without = [fmean(cosine for pair, cosine in pairs.items() if i not in pair) for i in range(n)]
    return Interval(tuple(n * whole - (n - 1) * rest for rest in without))
