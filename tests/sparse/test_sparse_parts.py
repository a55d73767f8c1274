"""Every choosable thing of the package is a part: found by its name, written in one line and read back, with few fields."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from cloche.part import Part, part_from_dict, part_from_line
from cloche.part_text import known_names, renamed, subclasses
from cloche.sparse import Gated, JumpReLU, Kind, TopK
from cloche.sparse.learners import ITDA, KSVD, Learner, OnlineDictionaryLearning
from cloche.sparse.pursuit import IHT, OMP, BasisPursuitDenoising, Pursuit
from cloche.sparse.sindy import (
    SR3,
    STLSQ,
    Form,
    Fourier,
    Library,
    Polynomials,
    Products,
    Selector,
    SINDy,
    Stable,
    Strong,
    Weak,
)
from cloche.sparse.transforms import Bandlets, Contourlets, Curvelets, Transform, Wavelets

BASES: dict[type[Any], str] = {
    Kind: "BatchTopK Gated JumpReLU ReLU TopK",
    Pursuit: (
        "BasisPursuit BasisPursuitDenoising ElasticNet FISTA HardThresholdingPursuit IHT LARS Lasso MatchingPursuit "
        "NonNegativeOMP OMP"
    ),
    Learner: "ITDA KSVD OnlineDictionaryLearning",
    Transform: "Bandlets Contourlets Curvelets DirectionalFilterBank SteerablePyramid Wavelets",
    Library: "Custom Fourier Polynomials Products Sum",
    Form: "Strong Weak",
    Selector: "ForwardBackward Greedy SR3 Stable STLSQ",
}
VALUES: list[tuple[Part, type[Any], str]] = [
    (TopK(), Kind, "TopK"),
    (Gated(nested=(8, 32)), Kind, "Gated(nested=[8, 32])"),
    (JumpReLU(bandwidth=0.1), Kind, "JumpReLU(bandwidth=0.1)"),
    (OMP(k=3), Pursuit, "OMP(k=3)"),
    (OMP(residual=0.5), Pursuit, "OMP(residual=0.5)"),
    (IHT(4, tolerance=1e-3), Pursuit, "IHT(k=4, tolerance=0.001)"),
    (BasisPursuitDenoising(0.1, nonnegative=True), Pursuit, "BasisPursuitDenoising(residual=0.1, nonnegative=True)"),
    (KSVD(9, IHT(2), batch=50), Learner, "KSVD(atoms=9, pursuit=IHT(k=2), batch=50)"),
    (ITDA(9, OMP(2), threshold=0.5), Learner, "ITDA(atoms=9, pursuit=OMP(k=2), threshold=0.5)"),
    (OnlineDictionaryLearning(9, OMP()), Learner, "OnlineDictionaryLearning(atoms=9, pursuit=OMP)"),
    (Wavelets((64,), "sym8", 2), Transform, "Wavelets(shape=[64], name='sym8', levels=2)"),
    (Curvelets((32, 48), levels=2), Transform, "Curvelets(shape=[32, 48], levels=2)"),
    (Contourlets((64, 64)), Transform, "Contourlets(shape=[64, 64])"),
    (Bandlets((64, 64), geometry=(-1, 3)), Transform, "Bandlets(shape=[64, 64], geometry=[-1, 3])"),
    (
        Polynomials(3) + Fourier(2, of=(1,)),
        Library,
        "Sum(parts=[Polynomials(degree=3), Fourier(frequencies=2, of=[1])])",
    ),
    (Products(Polynomials(1), Fourier()), Library, "Products(left=Polynomials(degree=1), right=Fourier)"),
    (Weak(), Form, "Weak"),
    (Strong(radius=0.5), Form, "Strong(radius=0.5)"),
    (Stable(STLSQ(0.1), share=0.9), Selector, "Stable(selector=STLSQ(threshold=0.1), share=0.9)"),
    (SR3(), Selector, "SR3"),
    (SINDy(Polynomials(), noise=(0.1, 0.2)), SINDy, "SINDy(library=Polynomials, noise=[0.1, 0.2])"),
]


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_the_parts_of_a_base_have_few_fields_and_are_known_by_name(base: type[Any]) -> None:
    ours = [cls for cls in subclasses(base) if cls.__module__.startswith("cloche.")]
    assert {cls.__name__ for cls in ours if not cls.__name__.startswith("_")} <= set(BASES[base].split())
    assert set(BASES[base].split()) <= set(known_names(base))
    for cls in ours:
        assert len(dataclasses.fields(cls)) <= 8 and cls.__dataclass_params__.frozen, cls


@pytest.mark.parametrize(
    ("value", "base", "line"), VALUES, ids=lambda given: str(given) if isinstance(given, Part) else ""
)
def test_a_part_is_one_line_and_back(value: Part, base: type[Any], line: str) -> None:
    assert str(value) == line
    for back in (
        part_from_line(line, base),
        part_from_line(value.to_line(), base),
        part_from_dict(json.loads(json.dumps(value.to_dict())), base=base),
    ):
        assert back == value and type(back) is type(value) and back.hash == value.hash


@pytest.mark.parametrize("base", [base for base in BASES if renamed(base)], ids=lambda base: base.__name__)
def test_other_spellings_mean_parts_that_there_are(base: type[Any]) -> None:
    for spelling, line in renamed(base).items():
        assert line.partition("(")[0] in known_names(base), spelling


def test_an_alias_may_have_settings_and_more_are_added() -> None:
    value = part_from_line("biorthogonal(shape=[32], levels=2)", Transform)
    assert value == Wavelets((32,), "bior4.4", 2)
    assert part_from_line("htp", Pursuit, options={"k": 3}).to_line() == "HardThresholdingPursuit(k=3, steps=100)"
