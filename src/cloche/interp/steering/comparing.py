"""Ways of finding a concept's direction, compared: how it detects, how it steers, and what its removal takes away."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Panel, Provenance, Scatter, Table
from cloche.errors import CorpusEmpty, InstrumentOption, PromptInvalid
from cloche.interp.lenses.affine import Lens
from cloche.interp.metrics import kl
from cloche.interp.probing.probes import auroc
from cloche.interp.steering.concepts import Concept, ConceptStates, predictions
from cloche.interp.steering.making import METHODS, direction_of, feature_vector, token_vector
from cloche.interp.steering.vectors import SteeringVector, place_of
from cloche.interp.subject import Subject, windows_of
from cloche.sparse import SAE

STRENGTHS = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)  # in units of the site's norm
NULLS = 20  # random directions, and as many from shuffled labels
NEUTRAL = (6, 32)  # windows of neutral text, and tokens of each
FEWEST = 4  # texts of each kind: half are for the vectors, half for their test
SAME = 1e-6  # nats by which the predictions after the two kinds of texts must differ


@dataclass(frozen=True, eq=False)
class Tested:
    """A vector with its measures: AUROC of its projection, (KL, effect) at each strength, and the effect of removing it."""

    vector: SteeringVector
    auroc: float
    curve: list[tuple[float, float]]
    removal: float

    def effect_at(self, budget: float) -> float:
        """The effect where the KL reaches `budget`, between the strengths around it; at the last strength if it never does."""
        before = (0.0, 0.0)
        for moved, effect in self.curve:
            if moved >= budget:
                share = (budget - before[0]) / (moved - before[0]) if moved > before[0] else 1.0
                return before[1] + share * (effect - before[1])
            before = (moved, effect)
        return before[1]


@torch.no_grad()
def steering_comparison(
    subject: Subject,
    concept: Concept,
    windows: Iterable[Any],
    site: str | None = None,
    budget: float = 0.1,
    sae: SAE | None = None,
    lens: Lens | None = None,
    seed: int = 0,
) -> Finding:
    """One table for a concept: its direction by difference of means, a probe, paired PCA, the best feature of a dictionary
    and the best token of a lens; of each, how well it detects the concept, how much it steers at equal KL, and what is lost
    without it.

    Vectors are made from one half of the texts, and tested with the other. Detection: AUROC of the projection at the last
    token. Steering: added at every position of neutral text (`windows`), in several strengths; the effect is how far
    sum_t (p+(t) - p-(t)) log q(t) moves, p+ and p- being the mean predictions after positive and negative texts, in units of
    its difference between the two: 1 moves predictions as far as the concept itself does. It is read where the KL
    from the unsteered predictions, in nats per token, reaches `budget`, because any vector moves everything if it is
    long enough. Removal: the share of that difference which positive texts lose when the direction is projected out.

    The null: 20 random directions and 20 differences of means of shuffled labels (as many texts of each kind on both
    sides); `p` is the share of these 40 that steer no less than the difference of means. `consistency` is the mean cosine of
    a pair's difference with the mean difference of the other pairs (2505.22637): low, and steering reverses on many texts;
    its null has each pair in a random order. `site`: by default the dictionary's if one is given, else the stream after the
    middle layer. `data`: methods with auroc, effect, removal and curve.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import Concept, steering_comparison
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> texts = [[i, 7] for i in range(8)], [[i, 8] for i in range(8)]
    >>> text = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    >>> finding = steering_comparison(glass, Concept("ends in 7", *texts), [text], "embed")
    >>> [row["method"] for row in finding.data["methods"]], finding.data["methods"][0]["auroc"]
    (['mean-difference', 'probe', 'paired-pca'], 1.0)
    """
    if min(len(concept.positive), len(concept.negative)) < FEWEST:
        raise PromptInvalid(f"Steering needs at least {FEWEST} texts of each kind; {concept.name} has fewer.")
    if not (math.isfinite(budget) and budget > 0):
        raise InstrumentOption(f"budget={budget} nats must be above zero, such as 0.1.")
    place = place_of(subject.net, site or (sae.trained_on.site if sae is not None else None))
    if sae is not None and sae.trained_on.site and place_of(subject.net, sae.trained_on.site) != place:
        raise InstrumentOption(
            f"The dictionary was trained on {sae.trained_on.site}, and the directions are compared at {place}; give "
            f"site={sae.trained_on.site}, or no site."
        )
    train, test = concept.halves()
    fitted = ConceptStates(subject, train, place)
    test_of = _Test(subject, ConceptStates(subject, test, place), windows)
    found = {name: test_of(vector) for name, vector in _vectors(subject, fitted, sae, lens).items()}
    nulls = [test_of(vector) for vector in _nulls(fitted, seed)]
    effects = [each.effect_at(budget) for each in nulls]
    figures, null = _figures(found["mean-difference"], nulls, budget)
    if concept.paired:
        figures["consistency"], null["consistency"] = _consistency(fitted, seed)
    methods = [
        {
            "method": name,
            "auroc": each.auroc,
            "effect": each.effect_at(budget),
            "removal": each.removal,
            "curve": each.curve,
        }
        for name, each in found.items()
    ]
    data = {
        "concept": concept.name,
        "site": str(place),
        "budget": budget,
        "texts": [len(concept.positive), len(concept.negative)],
        "strengths": list(STRENGTHS),
        "methods": methods,
        "random": effects[:NULLS],
        "shuffled": effects[NULLS:],
    }
    about = Provenance("steering-comparison", subject.checkpoint, seed=seed)
    arrays = {name: each.vector.direction for name, each in found.items()}
    return Finding(
        about, _summary(data, figures, null), figures, data, arrays, null, _panels(data, found, nulls, budget)
    )


def _figures(first: Tested, nulls: Sequence[Tested], budget: float) -> tuple[dict[str, float], dict[str, float]]:
    """Of the difference of means, and their mean sizes over the nulls."""
    effect, effects = first.effect_at(budget), [each.effect_at(budget) for each in nulls]
    p = (1 + sum(each >= effect for each in effects)) / (1 + len(effects))
    null = {
        "effect": fmean(map(abs, effects)),
        "auroc": fmean(each.auroc for each in nulls),
        "removal": fmean(abs(each.removal) for each in nulls),
        "p": 0.5,
    }
    return {"effect": effect, "auroc": first.auroc, "removal": first.removal, "p": p}, null


class _Test:
    """Measures of vectors on held-out texts of a concept and on neutral text."""

    def __init__(self, subject: Subject, states: ConceptStates, windows: Iterable[Any]) -> None:
        self.net, self.states = subject.net, states
        with_concept, without = (predictions(self.net, ids) for ids in (states.positive_ids, states.negative_ids))
        self.weights = with_concept.exp().mean(0) - without.exp().mean(0)  # [vocab]
        self.with_concept = float((with_concept @ self.weights).mean())
        self.gap = self.with_concept - float((without @ self.weights).mean())
        if not self.gap > SAME:
            raise PromptInvalid(
                "The model predicts the same after the positive and the negative texts, so no vector could move it from one "
                "to the other; choose texts whose continuations differ."
            )
        self.neutral = _neutral(subject, windows)
        clean = self.net.run(self.neutral).logits.float().log_softmax(-1)
        self.clean = clean
        self.start = float((clean @ self.weights.to(clean)).mean())

    def __call__(self, vector: SteeringVector) -> Tested:
        scores = torch.cat([self.states.positive, self.states.negative]) @ vector.direction
        truth = torch.arange(len(scores)) < len(self.states.positive)
        removed = predictions(self.net, self.states.positive_ids, [vector.removal(self.net)])
        lost = (self.with_concept - float((removed @ self.weights).mean())) / self.gap
        edits = [edit for strength in STRENGTHS for edit in vector.edits(self.net, strength)]
        measured = self.net.sweep(self.neutral, edits, self._read)
        curve = [(float(moved), float(effect)) for moved, effect in measured]
        return Tested(vector, auroc(scores.double().numpy(), truth.numpy()), curve, lost)

    def _read(self, logits: Tensor) -> Tensor:
        """(KL from the clean predictions, effect), means over all positions."""
        steered = logits.float().log_softmax(-1)
        return torch.stack(
            [kl(self.clean, steered).mean(), ((steered @ self.weights.to(steered)).mean() - self.start) / self.gap]
        )


def _neutral(subject: Subject, windows: Iterable[Any]) -> Tensor:
    """Windows of one length of neutral text, [window, position]."""
    count, length = NEUTRAL
    rows = [part for ids in windows_of(subject, windows) for row in ids for part in row.split(length) if len(part)]
    rows = [row for row in rows if len(row) >= min(length, max(map(len, rows)))][:count]
    if not rows or len(rows[0]) < 2:
        raise CorpusEmpty("Steering is measured on neutral text, and there is none of two tokens or more; give some.")
    shortest = min(length, min(map(len, rows)))
    return torch.stack([row[:shortest] for row in rows]).to(subject.net.embed.weight.device)


def _vectors(subject: Subject, states: ConceptStates, sae: SAE | None, lens: Lens | None) -> dict[str, SteeringVector]:
    """A vector of each method that the texts, the dictionary and the lens allow, by its name."""
    positive, negative, place, unit = states.positive, states.negative, str(states.site), states.unit
    methods = [method for method in METHODS if method != "paired-pca" or states.paired]
    found: dict[str, SteeringVector] = {
        method: SteeringVector(direction_of(positive, negative, method), place, unit) for method in methods
    }
    if sae is not None:
        codes = [sae.encode(rows).dense() for rows in (positive, negative)]
        best = int((codes[0].mean(0) - codes[1].mean(0)).argmax())
        found[f"feature {best}"] = feature_vector(subject, sae, best, unit)
    if lens is not None:
        likely = [predictions(subject.net, ids).exp().mean(0) for ids in (states.positive_ids, states.negative_ids)]
        found["lens row"] = token_vector(subject, int((likely[0] - likely[1]).argmax()), place, unit, lens)
    return found


def _nulls(states: ConceptStates, seed: int) -> list[SteeringVector]:
    """Random directions, then differences of means of shuffled labels, as many of each kind on both sides."""
    positive, negative, place, unit = states.positive, states.negative, str(states.site), states.unit
    width = positive.shape[1]
    draw = torch.Generator().manual_seed(seed)
    found = [SteeringVector(torch.randn(width, generator=draw), place, unit) for _ in range(NULLS)]
    for _ in range(NULLS):
        # As many of each kind on both sides: else the difference has the concept in it, however little, at norm one.
        halves = [
            each[torch.randperm(len(each), generator=draw)][: len(each) // 2 * 2].chunk(2)
            for each in (positive, negative)
        ]
        difference = torch.cat([half[0] for half in halves]).mean(0) - torch.cat([half[1] for half in halves]).mean(0)
        if float(difference.norm()) < 1e-6 * unit:  # the states of each kind are alike
            difference = torch.randn(width, generator=draw)
        found.append(SteeringVector(difference, place, unit))
    return found


def _consistency(states: ConceptStates, seed: int) -> tuple[float, float]:
    """The mean cosine of a pair's difference with the mean of the others', and its null: each pair in a random order."""
    pairs = states.positive - states.negative
    draw = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (NULLS, len(pairs), 1), generator=draw) * 2.0 - 1

    def mean(pairs: Tensor) -> float:
        return float(torch.cosine_similarity(pairs, pairs.sum(-2, keepdim=True) - pairs, dim=-1).mean())

    return mean(pairs), mean(signs * pairs)


def _summary(data: dict[str, Any], figures: dict[str, float], null: dict[str, float]) -> str:
    best = max(data["methods"], key=lambda row: row["effect"])
    return (
        f"At a KL of {data['budget']:g} nats per token the difference of means at {data['site']} moves predictions by "
        f"{figures['effect']:.0%} of what {data['concept']} does ({null['effect']:.0%} for random directions and shuffled "
        f"labels, p = {figures['p']:.2g}), most of the methods {best['method']} ({best['effect']:.0%}); it detects the "
        f"concept with an AUROC of {figures['auroc']:.2f}, and without it {figures['removal']:.0%} of the difference is lost."
    )


def _panels(data: dict[str, Any], found: dict[str, Tested], nulls: Sequence[Tested], budget: float) -> list[Panel]:
    rows: list[tuple[str | float, ...]] = [
        (row["method"], row["auroc"], row["effect"], row["removal"]) for row in data["methods"]
    ]
    for name, some in (("random directions", nulls[:NULLS]), ("shuffled labels", nulls[NULLS:])):
        measures = [(one.auroc, one.effect_at(budget), one.removal) for one in some]
        rows.append((f"{name}, mean", *(fmean(column) for column in zip(*measures, strict=True))))
        rows.append((f"{name}, largest", *(max(column) for column in zip(*measures, strict=True))))
    forms: tuple[Form, ...] = ("number", "number", "percent", "percent")
    columns = ("direction", "AUROC", f"effect at {budget:g} nats", "lost without it")
    points, labels, values = list[tuple[float, float]](), list[str](), list[float]()
    curves = [(name, each.curve, 1.0) for name, each in found.items()]
    for name, some in (("random directions", nulls[:NULLS]), ("shuffled labels", nulls[NULLS:])):
        by_strength = zip(*(one.curve for one in some), strict=True)
        mean = [(fmean(kl for kl, _ in each), fmean(effect for _, effect in each)) for each in by_strength]
        curves.append((f"{name}, mean", mean, 0.0))
    for name, curve, value in curves:
        points += curve
        labels += [f"{name}, strength {strength:g}" for strength in STRENGTHS]
        values += [value] * len(STRENGTHS)
    title = "Effect against KL, for each strength; bright: the methods, dark: the means of the nulls"
    return [
        Table(f"Directions for {data['concept']}", columns, tuple(rows), forms),
        Scatter(title, tuple(points), ("KL (nats per token)", "effect"), tuple(labels), tuple(values)),
    ]
