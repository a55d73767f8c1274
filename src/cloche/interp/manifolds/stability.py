"""Whether the subspace of a variable's mean curve is the same in other contexts, or at another checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Lines, Provenance, Series
from cloche.errors import InstrumentOption
from cloche.interp.manifolds.axes import count_above, principal
from cloche.interp.manifolds.curves import Halves
from cloche.interp.manifolds.labelled import LabelledPoints, labelled_points
from cloche.interp.manifolds.subspaces import overlap, principal_angles, shape_correlation
from cloche.interp.manifolds.variables import POSITIONS, Variable
from cloche.interp.subject import Subject, check_vocabulary
from cloche.model import Site


@torch.no_grad()
def subspace_stability(
    subject: Subject,
    site: Site | str,
    variable: Variable = POSITIONS,
    windows: Iterable[Any] | None = None,
    other: Subject | None = None,
    components: int | None = None,
    contexts: int = 512,
    seed: int = 0,
) -> Finding:
    """How much the subspace of a variable's mean curve changes between disjoint halves of the contexts, or between this model
    and `other`, such as another checkpoint: principal angles (Björck and Golub 1973) of its first `components` principal axes,
    by default those above chance.

    Figures: `overlap`, the mean squared cosine of the principal angles, 1 for the same subspace; `largest_angle` in degrees;
    `shape`, the correlation of the curves' first components after rotation (orthogonal Procrustes), which does not depend on
    the subspace they lie in; `halves`, the overlap between halves of the contexts, which bounds that between models; `axes`,
    the principal axes of the curve above chance. Means of 10 random halves; the null shuffles the values. `variable`,
    `windows` and `contexts` are as in `manifold`.

    `arrays`: angles [component] in degrees. Raises InstrumentOption for as many components as values, or a model of
    another width or vocabulary.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Learned, Stack
    >>> from cloche.interp import subspace_stability
    >>> glass = Glass(LM(64, 32, Stack(1, Block(Attention(4), GLU())), position=Learned(32)).build(seed=0))
    >>> text = torch.randint(64, (40, 12), generator=torch.Generator().manual_seed(0))
    >>> finding = subspace_stability(glass, "embed", windows=[text], components=3)
    >>> finding.figures["overlap"] > 0.7 > finding.null["overlap"]
    True
    """
    labelled, _ = labelled_points(subject, site, variable, windows, contexts, seed)
    axes = count_above(principal(labelled.curve).variance, labelled.shuffled_variance)
    most = min(len(labelled.values), labelled.points.shape[1]) - 1
    components = max(1, min(axes, most)) if components is None else components
    if not 1 <= components <= most:
        raise InstrumentOption(
            f"components={components} must be at least 1 and fewer than the {len(labelled.values)} values and the "
            f"{labelled.points.shape[1]} dimensions of {site}."
        )
    against = None if other is None else _other(subject, other, site, variable, windows, contexts, seed)
    halves, null_halves = labelled.halves(seed), labelled.shuffled(seed).halves(seed)
    pairs: Halves = halves if against is None else [(labelled.curve, against.curve)]
    null_pairs: Halves = null_halves if against is None else [(labelled.curve, against.shuffled(seed).curve)]
    (figures, angles), (null, null_angles) = _compared(pairs, components), _compared(null_pairs, components)
    figures["halves"], null["halves"] = (_compared(each, components)[0]["overlap"] for each in (halves, null_halves))
    figures["axes"], null["axes"] = float(axes), 0.0
    what = (
        "disjoint halves of the contexts"
        if other is None
        else f"{subject.checkpoint or 'this model'} and {other.checkpoint}"
    )
    summary = (
        f"Between {what}, the first {components} principal axes of {variable} at {site} overlap by {figures['overlap']:.0%} "
        f"({null['overlap']:.0%} shuffled), the largest angle is {figures['largest_angle']:.0f} degrees, and the curves' "
        f"shapes correlate by {figures['shape']:.2f} after rotation ({null['shape']:.2f} shuffled)."
    )
    data = {
        "site": str(site),
        "variable": str(variable),
        "components": components,
        "angles": angles.tolist(),
        "with": what,
    }
    names = tuple(str(i + 1) for i in range(components))
    series = (
        Series("angle", tuple(angles.tolist())),
        Series("shuffled values", tuple(null_angles.tolist()), control=True),
    )
    panel = Lines("Principal angles, degrees", names, series, "angle", low=0.0, high=90.0)
    about = Provenance("subspace-stability", subject.checkpoint, seed=seed)
    return Finding(about, summary, figures, data, {"angles": angles}, null, [panel])


def _other(
    subject: Subject,
    other: Subject,
    site: Site | str,
    variable: Variable,
    windows: Iterable[Any] | None,
    contexts: int,
    seed: int,
) -> LabelledPoints:
    """The same contexts in the other model."""
    check_vocabulary(subject.net, other.net, "other")
    return labelled_points(other, site, variable, windows, contexts, seed)[0]


def _compared(pairs: Halves, components: int) -> tuple[dict[str, float], Tensor]:
    """Figures and principal angles [component] between two curves, as means over pairs."""
    overlaps, shapes, angles = [], [], []
    for a, b in pairs:
        first, second = principal(a), principal(b)
        rows = first.axes[:components], second.axes[:components]
        overlaps.append(overlap(*rows))
        angles.append(principal_angles(*rows))
        shapes.append(shape_correlation(first.scores(a, components), second.scores(b, components)))
    mean = torch.stack(angles).mean(0)
    return {"overlap": fmean(overlaps), "largest_angle": float(mean[-1]), "shape": fmean(shapes)}, mean
