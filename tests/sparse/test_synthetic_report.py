"""The report on synthetic features: the true dictionary scores (nearly) 1, a learner above chance, and noise at chance."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from cloche.sparse import SAE
from cloche.sparse.learners import OnlineDictionaryLearning
from cloche.sparse.pursuit import OMP
from cloche.sparse.pursuit.base import Pursued
from cloche.sparse.truth import Families, Hierarchy, SyntheticFeatures, SyntheticReport, Usage, match, synthetic_report

TRUTH = Hierarchy(width=32, features=48, active=2, families=Families(4, 2), usage=Usage(0.5, groups=4), bias=0.0)


def test_the_true_atoms_by_a_pursuit_are_nearly_perfect() -> None:
    seen = []

    def knows(stream: Iterator[Tensor], seed: int) -> Pursued:
        seen.append(next(stream))
        return OMP(residual=TRUTH.noise * TRUTH.width**0.5 * 1.2).over(TRUTH.dictionary)

    report = synthetic_report(knows, TRUTH, seeds=range(3), batch=64, held_out=2_048)
    figures = report.figures
    for name in ("max_cosine", "cosine", "stability"):
        assert figures[name].mean == pytest.approx(1), name
        assert 0.3 < report.chance[name].mean < 0.6, name
    assert figures["f1"].mean > 0.97 and figures["fvu"].mean < 0.02 and figures["dead_share"].mean == 0
    assert figures["shrinkage"].mean == pytest.approx(1, abs=0.01) and abs(figures["absorption"].mean) < 0.02
    assert figures["l0"].mean == pytest.approx(float(TRUTH.sample(4_096)[1].active.float().mean()), rel=0.05)
    assert report.control is None and sum(report.density["counts"]) == pytest.approx(TRUTH.features)
    # Each seed trains on signals of its own, and is graded on others.
    assert [x.shape for x in seen] == [(64, 32)] * 3 and not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], TRUTH.sample(64, 0)[0])


def test_a_learner_of_the_same_seed_does_not_start_at_the_truth() -> None:
    for truth in (TRUTH, SyntheticFeatures(seed=3)):
        start = SAE(truth.width, truth.features, 2, seed=truth.seed).dictionary
        assert float(match(truth.dictionary, start)[1].mean()) < 0.7


def test_a_learner_finds_the_truth_and_nothing_in_noise() -> None:
    report = _learned(TRUTH)
    assert report.control is not None
    for name in ("max_cosine", "cosine", "stability"):
        found, noise, chance = (part[name].mean for part in (report.figures, report.control, report.chance))
        assert found > chance + 0.25 and noise == pytest.approx(chance, abs=0.03), name
    assert report.figures["f1"].mean > report.control["f1"].mean + 0.3
    lines = str(report).splitlines()
    assert lines[0].split() == ["mean", "±", "95%", "on", "noise", "chance"] and len(lines) == 12
    assert lines[6].startswith("cosine one to one") and lines[6].count("±") == 3
    assert "▇" in lines[-1] or "█" in lines[-1]


def test_features_without_hierarchy_have_no_absorption() -> None:
    report = _learned(SyntheticFeatures(width=16, features=24, active=2), control=False)
    assert "absorption" not in report.figures and "absorption" not in str(report)
    again = _learned(replace(TRUTH, families=Families(parents=0)), control=False)
    assert "absorption" not in again.figures


def _learned(truth: Hierarchy | SyntheticFeatures, control: bool = True) -> SyntheticReport:
    def learn(stream: Iterator[Tensor], seed: int) -> Pursued:
        x = torch.cat(list(islice(stream, 4)))
        return OnlineDictionaryLearning(truth.features, OMP(k=2), passes=8, seed=seed).fit(x - x.mean(0))[1]

    return synthetic_report(learn, truth, seeds=range(2), batch=512, held_out=1_024, control=control)
