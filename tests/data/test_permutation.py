import numpy as np
import pytest

from cloche.data.permutation import mix, permuted


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 1000, 65_537])
def test_it_is_a_permutation(n: int):
    for seed in range(3):
        assert np.array_equal(np.sort(permuted(np.arange(n), n, seed)), np.arange(n))


def test_any_element_alone_equals_the_whole():
    whole = permuted(np.arange(777), 777, seed=5)
    assert [int(permuted(np.array([i]), 777, seed=5)[0]) for i in range(777)] == whole.tolist()


def test_it_is_the_same_everywhere():
    """Integer arithmetic only: a change of these numbers would change every recorded run."""
    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 seeded with 0, as published
    assert permuted(np.arange(10), 10, seed=0).tolist() == [7, 1, 6, 8, 3, 4, 5, 9, 0, 2]


def test_it_looks_like_a_random_one():
    """Against what uniform permutations give: where 0 goes (chi-squared), displacement, neighbours, fixed points."""
    seeds, n = 1600, 16
    where = np.bincount([int(permuted(np.array([0]), n, seed)[0]) for seed in range(seeds)], minlength=n)
    assert ((where - seeds / n) ** 2 / (seeds / n)).sum() < 37.7  # 99.9% of chi-squared with 15 degrees of freedom
    large = 50_000
    order = permuted(np.arange(large), large, seed=1)
    assert abs(np.abs(order - np.arange(large)).mean() / large - 1 / 3) < 0.01
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(order, permuted(np.arange(large), large, seed=2))[0, 1]) < 0.02
    assert (order == np.arange(large)).sum() < 8


def test_a_huge_domain_needs_no_memory():
    n = 10**12
    some = permuted(np.arange(n - 1000, n), n, seed=3)
    assert len(set(some.tolist())) == 1000 and some.min() >= 0 and some.max() < n
