"""Structured synthetic features have the statistics they promise; absorption built by hand is found, and its control is not."""

from dataclasses import replace
from itertools import islice
from math import inf

import pytest
import torch
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse import Code, Dictionary, grade
from cloche.sparse.truth import Families, Hierarchy, Interval, Usage, absorption, over_seeds, stability

TRUTH = Hierarchy(width=64, features=128, active=4, families=Families(parents=8, children=4))


class Given:
    """An encoder that answers with a code known beforehand."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def encode(self, x: Tensor) -> Code:
        assert len(x) == len(self.code)
        return self.code


def test_signals_are_the_atoms_times_the_code_and_depend_on_the_seed_alone() -> None:
    x, code = TRUTH.sample(2_000)
    again, _ = TRUTH.sample(2_000)
    assert torch.equal(x, again) and not torch.equal(x, TRUTH.sample(2_000, seed=2)[0])
    assert float((x - TRUTH.dictionary.decode(code)).std()) == pytest.approx(TRUTH.noise, rel=0.02)
    first, second = islice(TRUTH.stream(100, seed=3), 2)
    assert torch.equal(first, TRUTH.sample(100, 3)[0]) and torch.equal(second, TRUTH.sample(100, 4)[0])


def test_a_child_is_active_only_with_its_parent_and_at_the_rate_asked_for() -> None:
    on = TRUTH.sample(8_000)[1].dense() != 0
    children = (TRUTH.parent >= 0).nonzero()[:, 0]
    parents = TRUTH.parent[children]
    assert not bool((on[:, children] & ~on[:, parents]).any())
    assert float(on[:, children].sum() / on[:, parents.unique()].sum()) == pytest.approx(0.5, abs=0.02)


def test_frequencies_follow_zipf() -> None:
    share = (TRUTH.sample(20_000)[1].dense() != 0)[:, : TRUTH.roots].double().mean(0)
    assert share[0] > share[:8].mean() > share[40:48].mean() > share[-8:].mean() > 0


def test_groups_go_together_and_without_correlation_they_do_not() -> None:
    assert _lift_of_groups(replace(TRUTH, usage=Usage(correlation=2.0))) > 1.5
    assert _lift_of_groups(replace(TRUTH, usage=Usage(correlation=0.0))) == pytest.approx(1, abs=0.05)


def _lift_of_groups(truth: Hierarchy) -> float:
    """Pairs of a group over pairs of two groups, each as a share of what independent roots of these frequencies give.

    The first root is left out: it is in nearly every signal, which the draw without replacement makes up for elsewhere.
    """
    on = (truth.sample(40_000)[1].dense() != 0)[:, 1 : truth.roots].double()
    share = on.mean(0)
    pairs, expected = on.T @ on / len(on), share[:, None] * share
    group = torch.arange(1, truth.roots) % truth.usage.groups
    same = group[:, None] == group
    apart = ~same
    same.fill_diagonal_(False)
    return float(pairs[same].sum() / expected[same].sum() / (pairs[apart].sum() / expected[apart].sum()))


def test_absorption_built_by_hand_is_found_and_its_control_is_not() -> None:
    x, code = TRUTH.sample(2_000)
    truth = TRUTH.dictionary
    atoms = truth.atoms.clone()
    children = TRUTH.parent >= 0
    atoms[children] += truth.atoms[TRUTH.parent[children]]  # a child's atom that holds its parent's
    dense = code.dense()
    for child in children.nonzero()[:, 0].tolist():
        dense[dense[:, child] != 0, int(TRUTH.parent[child])] = 0  # and the parent silent beside it
    every = torch.arange(code.size).expand(len(x), -1)
    absorbed = Given(Code(every, dense, code.size))
    found = grade(absorbed, Dictionary(atoms), x, truth, code)
    assert absorption(absorbed, x, code, TRUTH.parent, found.partner).rate == 1.0
    clean = grade(Given(code), truth, x, truth, code)
    assert clean.cosine == pytest.approx(1) and clean.f1 == pytest.approx(1)
    assert absorption(Given(code), x, code, TRUTH.parent, clean.partner).rate == 0.0
    # Parents missed at random, child or not, are missed and not absorbed.
    missed = code.dense() * (torch.rand(code.size * len(x), generator=torch.Generator().manual_seed(0)) > 0.4).view(
        len(x), -1
    )
    random = absorption(Given(Code(every, missed, code.size)), x, code, TRUTH.parent, clean.partner)
    assert random.with_child > 0.3 and abs(random.rate) < 0.05


def test_intervals_and_stability_have_known_answers() -> None:
    figure = over_seeds(lambda seed: {"a": float(seed), "b": 2.0})
    assert figure["a"].mean == 2 and figure["a"].half == pytest.approx(2.776445 * 2.5**0.5 / 5**0.5)
    assert figure["b"] == Interval((2.0,) * 5) and figure["b"].half == 0
    same = Dictionary(TRUTH.dictionary.atoms.flip(0))  # order does not matter
    other = replace(TRUTH, seed=7).dictionary
    assert stability([TRUTH.dictionary, same]).mean == pytest.approx(1)
    assert stability([TRUTH.dictionary, other]).mean < 0.4 and stability([TRUTH.dictionary, other]).half == inf
    # Two that agree and one that agrees with neither: the mean over pairs, and an interval that says how little it means.
    three = stability([TRUTH.dictionary, same, other])
    chance = stability([TRUTH.dictionary, other]).mean
    assert three.mean == pytest.approx((1 + 2 * chance) / 3) and three.half > 1


def test_bad_plants_and_seeds_are_refused_in_a_sentence() -> None:
    with pytest.raises(ClocheError, match="raise features"):
        Hierarchy(features=100)
    with pytest.raises(ClocheError, match="more seeds"):
        over_seeds(lambda seed: {"a": 1.0}, [0])
    with pytest.raises(ClocheError, match="needs two or more"):
        stability([TRUTH.dictionary])
