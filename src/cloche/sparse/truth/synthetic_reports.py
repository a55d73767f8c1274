"""Synthetic benchmark report of a learner: explained variance, recovery of the truth, and variation over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cloche.drawing import text_table
from cloche.errors import ClocheError
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary, Encoder, mean_max_cosine, random_atoms
from cloche.sparse.metrics import Report, report
from cloche.sparse.truth.absorbing import absorption
from cloche.sparse.truth.assignment import match
from cloche.sparse.truth.grading import grade
from cloche.sparse.truth.hierarchy import Hierarchy
from cloche.sparse.truth.seeds import Interval, over_seeds, stability
from cloche.sparse.truth.synthetic import SyntheticData, isotropic_noise

_APART = 100_000  # batches between the streams of two seeds
_BARS = " ▁▂▃▄▅▆▇█"
_NAMES = {
    "fvu": "FVU",
    "l0": "L0",
    "dead_share": "dead share",
    "max_cosine": "mean max cosine",
    "cosine": "cosine one to one",
    "f1": "F1 of supports",
    "shrinkage": "shrinkage",
    "absorption": "absorption",
    "stability": "stability",
}


class Learned(Encoder, Protocol):
    """Result of a learner: an encoder with its dictionary, such as an `SAE` or `pursuit.over(D)`."""

    @property
    def dictionary(self) -> Dictionary: ...


Train = Callable[[Iterator[Tensor], int], Learned]  # (endless batches [n, width], seed) -> encoder with its dictionary


@dataclass(frozen=True, eq=False)
class SyntheticReport:
    """Figures with intervals over seeds, beside chance and a control.

    Of `figures`, fvu, l0 and dead_share are as in `Report`; max_cosine is `mean_max_cosine`; cosine, f1 and shrinkage are
    as in `Grade`; absorption, for data with a hierarchy, is `Absorption.rate` (NaN if a seed had no case of it), and
    stability compares the seeds.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.pursuit import OMP
    >>> from cloche.sparse.truth import synthetic_report
    >>> data = SyntheticFeatures(width=8, features=12, active=1)
    >>> report = synthetic_report(lambda stream, seed: OMP(k=1).over(data.dictionary), data, range(2), held_out=256)
    >>> report.figures["cosine"].mean > 0.999 > report.chance["cosine"].mean
    True
    """

    figures: dict[str, Interval]
    chance: dict[str, Interval]  # max_cosine, cosine and stability of the same number of random atoms
    control: dict[str, Interval] | None  # the same learner, trained on noise and measured on the data
    density: dict[str, list[float]]  # number of atoms by log10 of their density, as in `Report`, averaged over seeds

    def __str__(self) -> str:
        rows = []
        for key, interval in self.figures.items():
            elsewhere = [(column or {}).get(key) for column in (self.control, self.chance)]
            rows.append([_NAMES[key], str(interval), *("" if found is None else f"{found}" for found in elsewhere)])
        edges, counts = self.density["edges"], self.density["counts"]
        bars = "".join(_BARS[math.ceil(8 * count / max(1, *counts))] for count in counts)
        table = text_table(["", "mean ± 95%", "on noise", "chance"], rows)
        return f"{table}\n{'density':<{max(map(len, _NAMES.values()))}}  10^{edges[0]:.1f} {bars} 1"


def synthetic_report(
    train: Train,
    data: SyntheticData = Hierarchy(),  # noqa: B008 (a value)
    seeds: Iterable[int] = range(5),
    *,
    batch: int = 2_048,
    held_out: int = 8_192,
    control: bool = False,
) -> SyntheticReport:
    """Trains once per seed on fresh signals of `data` and measures on `held_out` other signals.

    `train` takes an endless stream of batches [batch, width] and the seed, and may stop reading at any time. With
    `control`, it is also trained on isotropic noise of the same norm: its cosines should equal those of chance, and its
    stability is the agreement between trainings that has other reasons than the truth.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.learners import OnlineDictionaryLearning
    >>> from cloche.sparse.pursuit import OMP
    >>> from cloche.sparse.truth import synthetic_report
    >>> def train(stream, seed):
    ...     learner = OnlineDictionaryLearning(12, OMP(k=1), batch=64, seed=seed)
    ...     return learner.fit(next(stream))[1]
    >>> report = synthetic_report(train, SyntheticFeatures(width=8, features=12, active=1), range(2), batch=512, held_out=256)
    >>> report.figures["f1"].mean > 0.5
    True
    """
    seeds = list(seeds)
    figures, dictionaries, reports = _measure(
        train, data, lambda seed: data.stream(batch, _APART * (seed + 1)), seeds, held_out
    )
    size = dictionaries[0].size
    random = {seed: Dictionary(random_atoms(size, data.width, _rng(seed))) for seed in seeds}
    chance = over_seeds(lambda seed: _matching(data.dictionary, random[seed]), seeds)
    chance["stability"] = stability(list(random.values()))
    counts = torch.tensor([seen.density_histogram()["counts"] for seen in reports]).double().mean(0)
    density = {"edges": reports[0].density_histogram()["edges"], "counts": counts.tolist()}
    if not control:
        return SyntheticReport(figures, chance, None, density)
    level = float(data.sample(held_out)[0].square().mean().sqrt())
    noise, _, _ = _measure(
        train, data, lambda seed: _noise(data.width, batch, level, _APART * (seed + 1)), seeds, held_out
    )
    telling = {name: noise[name] for name in ("max_cosine", "cosine", "f1", "stability")}
    return SyntheticReport(figures, chance, telling, density)


def _measure(
    train: Train, data: SyntheticData, stream: Callable[[int], Iterator[Tensor]], seeds: list[int], held_out: int
) -> tuple[dict[str, Interval], list[Dictionary], list[Report]]:
    """Trains on the `stream` of each seed and measures on `data`."""
    dictionaries: list[Dictionary] = []
    reports: list[Report] = []

    def one(seed: int) -> dict[str, float]:
        learned = train(stream(seed), seed)
        figures, seen = _figures(learned, data, *data.sample(held_out, seed))
        dictionaries.append(learned.dictionary)
        reports.append(seen)
        return figures

    figures = over_seeds(one, seeds)
    return figures | {"stability": stability(dictionaries)}, dictionaries, reports


def _figures(learned: Learned, data: SyntheticData, x: Tensor, code: Code) -> tuple[dict[str, float], Report]:
    truth, dictionary = data.dictionary, learned.dictionary
    seen = report(learned, dictionary, x, truth.atoms)
    found = grade(learned, dictionary, x, truth, code)
    figures = {
        "fvu": seen.fvu,
        "l0": seen.l0,
        "dead_share": seen.dead_share,
        "max_cosine": math.nan if seen.cosine is None else seen.cosine,
        "cosine": found.cosine,
        "f1": found.f1,
        "shrinkage": found.shrinkage,
    }
    if bool((data.parent >= 0).any()):
        try:
            figures["absorption"] = absorption(learned, x, code, data.parent, found.partner).rate
        except ClocheError:  # no case of it
            figures["absorption"] = math.nan
    return figures, seen


def _matching(truth: Dictionary, learned: Dictionary) -> dict[str, float]:
    return {
        "max_cosine": mean_max_cosine(truth.atoms, learned.atoms),
        "cosine": float(match(truth, learned)[1].mean()),
    }


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _noise(width: int, batch: int, level: float, seed: int) -> Iterator[Tensor]:
    while True:
        yield level * isotropic_noise(batch, width, seed)
        seed += 1
