"""The curvature of the loss at a model: the ends of its Hessian's spectrum."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cloche.drawing import Bars, Finding, Panel, Provenance, Series, Table
from cloche.errors import CorpusEmpty, InstrumentOption, shown
from cloche.interp.landscape.lanczos import HessianProducts, Ritz, flat_gradient, lanczos
from cloche.interp.landscape.paths import loss_of
from cloche.interp.subject import Subject, windows_of
from cloche.model import Network

TOKENS = 2_048
TOLERANCE = 1e-4  # of the largest eigenvalue: residuals below are converged, and values nearer to 0 are called 0
STALL = 1.2  # times its standard error: a smaller gradient cannot be told from none on this batch


def hessian_spectrum(
    subject: Subject,
    windows: Iterable[Any],
    eigenvalues: int = 4,
    steps: int = 80,
    within: str = "",
    tokens: int = TOKENS,
    probes: int = 1,
    seed: int = 0,
) -> Finding:
    """The largest and the most negative eigenvalues of the loss's Hessian, and whether training stalls at a saddle.

    On the first `tokens` tokens of `windows` (batches of ids [batch, position], or texts), the Hessian of the mean next-token
    loss with respect to the parameters whose names contain `within` (all by default, "unembed" for the head), by at most
    `steps` Lanczos iterations on Hessian-vector products. `eigenvalues` of each end are reported, in nats, each with its
    residual: an eigenvalue is no further from it. Where one recurs it is found once, so counts are of different values.

    `smallest` is the headline; `largest` is the sharpness (training with a fixed rate lr is stable below 2 / lr, Cohen et al.
    2021, 2103.00065). `negative`: how many of the converged values are negative by more than their residual and 1e-4 of the
    largest. `negative_share`: about the share of all directions, as many as parameters, in which the curvature is that negative
    (the index of a saddle), by the quadrature of `probes` Lanczos iterations from random starts (Ghorbani et al. 2019,
    1901.10159): one probe counts n such directions to within sqrt(2 / n) of their number. It needs no converged values, so
    `trace` can follow it with few steps. `gradient_norm`, and `gradient_error`, its standard error over the batch from two
    halves of it: a gradient below 1.2 of it is a stall, `stalled` 1. A stall with negative eigenvalues is a saddle, from
    which a direction leads down (Dauphin et al. 2014, 1406.2572). Null: the same tree at random weights.

    Memory: one copy of the parameters for each step. Weights are computed with in float32 at least. Raises InstrumentOption for
    options out of range or a `within` in no name, CorpusEmpty for texts without a second token, and ModelUnsupported for a part
    whose gradient cannot be differentiated.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import hessian_spectrum
    >>> glass = Glass(LM(16, 8, Stack(1, Block(Attention(2), GLU(hidden=8)))).build(seed=0))
    >>> text = torch.randint(16, (4, 8), generator=torch.Generator().manual_seed(0))
    >>> head = hessian_spectrum(glass, [text], eigenvalues=1, within="unembed")  # the loss is convex in the head alone
    >>> head.figures["negative"], head.figures["largest"] > 0
    (0.0, True)
    """
    subject.net.require_causal("hessian_spectrum")
    if min(eigenvalues, tokens, probes) < 1 or steps < 2 * eigenvalues:
        raise InstrumentOption(
            f"eigenvalues={eigenvalues}, tokens={tokens} and probes={probes} must be at least 1, and steps={steps} at least "
            "two for each eigenvalue of an end."
        )
    batches = _first(list(windows_of(subject, windows)), tokens)
    found = _spectrum(subject.net, batches, eigenvalues, steps, within, range(seed, seed + probes))
    fresh = copy.deepcopy(subject.net)
    fresh.load_state_dict(_untrained(subject.net, seed))
    figures = found.figures
    data = {
        "within": within,
        "parameters": found.parameters,
        "tokens": sum(ids[:, 1:].numel() for ids in batches),
        "products": len(found.ritz.ends),
    }
    arrays = {"values": found.ritz.values, "residuals": found.ritz.residuals}
    null = _spectrum(fresh, batches, 1, steps, within, [seed]).figures
    about = Provenance("hessian-spectrum", subject.checkpoint, seed=seed)
    return Finding(about, _summary(figures, data), figures, data, arrays, null, _panels(found.ritz, eigenvalues))


@dataclass(frozen=True, eq=False)
class _Found:
    figures: dict[str, float]
    ritz: Ritz
    parameters: int


def _first(batches: Sequence[Tensor], tokens: int) -> list[Tensor]:
    """Whole rows of the batches with about so many tokens, at least one row."""
    kept, left = list[Tensor](), tokens
    for ids in batches:
        rows = min(len(ids), max(-(-left // ids.shape[1]), 0)) if ids.shape[1] > 1 else 0
        if rows:
            kept.append(ids[:rows])
            left -= kept[-1].numel()
    if not kept:
        raise CorpusEmpty("The texts to take the Hessian on have no second token to predict; give more text.")
    return kept


def _untrained(net: Network, seed: int) -> dict[str, Tensor]:
    """The weights of a network of the same tree at its initialisation; the model's own where its sizes are another's."""
    fresh, own = net.spec.build(seed=seed).state_dict(), net.state_dict()
    return {name: fresh[name] if fresh[name].shape == own[name].shape else own[name] for name in own}


def _spectrum(
    net: Network, batches: Sequence[Tensor], ends: int, steps: int, within: str, seeds: Sequence[int]
) -> _Found:
    curvature = Curvature(net, batches, within)
    starts = (curvature.product.random(seed) for seed in seeds)
    probed = [lanczos(curvature.product, start, steps, ends, TOLERANCE / 10) for start in starts]
    ritz = probed[0]
    largest = float(ritz.values.abs().max())
    converged = ritz.residuals <= TOLERANCE * largest
    negative = converged & (ritz.values < -ritz.residuals - TOLERANCE * largest)
    shares = [float(each.weights[each.values < -TOLERANCE * largest].sum()) for each in probed]
    norm = float(curvature.gradient.norm())
    figures = {
        "smallest": float(ritz.values[0]),
        "largest": float(ritz.values[-1]),
        "residual": float(torch.cat([ritz.residuals[:ends], ritz.residuals[-ends:]]).max()),
        "negative": float(negative.sum()),
        "negative_share": sum(shares) / len(shares),
        "converged": float(converged.sum()),
        "gradient_norm": norm,
        "gradient_error": curvature.error,
        "stalled": float(norm <= STALL * curvature.error),
    }
    return _Found(figures, ritz, len(curvature.gradient))


class Curvature:
    """Gradient and Hessian of the mean loss on batches of ids [batch, position].

    product: see HessianProducts. error: the gradient's standard error over the tokens, from two halves of them.
    """

    def __init__(self, net: Network, batches: Sequence[Tensor], within: str = "") -> None:
        self.net = copy.deepcopy(net).requires_grad_(False)
        if self.net.embed.weight.dtype in (torch.bfloat16, torch.float16):
            self.net.float()
        weights = [weight for name, weight in self.net.named_parameters() if within in name]
        if not weights:
            names = ", ".join(dict.fromkeys(name.split(".")[0] for name, _ in net.named_parameters()))
            raise InstrumentOption(f"within={shown(within)} is in the name of no parameter; names begin with {names}.")
        for weight in weights:
            weight.requires_grad_(True)
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            losses = torch.cat([loss_of(self.net, ids, "none") for ids in batches])
        half = max(1, len(losses) // 2)
        first = flat_gradient(losses[:half].mean(), weights, retain_graph=True)
        self.product = HessianProducts(losses.mean(), weights)
        self.gradient = self.product.gradient
        # With g the mean over all n tokens and f over m of them, f - g has n/m - 1 times the variance of g.
        rest = len(losses) / half - 1
        self.error = float((first - self.gradient).norm()) / rest**0.5 if rest else 0.0


def _panels(ritz: Ritz, ends: int) -> list[Panel]:
    count = len(ritz.values)
    shown_at = sorted({*range(min(ends, count)), *range(max(0, count - ends), count)})
    values, residuals = (tuple(float(each[i]) for i in shown_at) for each in (ritz.values, ritz.residuals))
    rows = tuple(zip(values, residuals, strict=True))
    return [
        Bars(
            "The ends of the Hessian's spectrum",
            tuple(f"{i + 1} of {count}" for i in shown_at),
            (Series("nats", values),),
        ),
        Table("Eigenvalues", ("eigenvalue", "residual"), rows, ("number", "number")),
    ]


def _summary(figures: dict[str, float], data: dict[str, Any]) -> str:
    where = f" in {data['within']}" if data["within"] else ""
    said = (
        f"The Hessian's eigenvalues{where} run from {figures['smallest']:.3g} to {figures['largest']:.3g} nats (residual at "
        f"most {figures['residual']:.1g}, {data['parameters']:,} parameters, {data['tokens']:,} tokens); "
        f"{figures['negative']:.0f} of {figures['converged']:.0f} converged are negative, and the curvature is in about "
        f"{figures['negative_share']:.1%} of all directions"
    )
    size = f"the gradient's norm {figures['gradient_norm']:.3g} has a standard error of {figures['gradient_error']:.2g}"
    if not figures["stalled"]:
        return f"{said}; {size}: no stall."
    return f"{said}; {size}: a stall, at {'a saddle' if figures['negative'] else 'no saddle that was found'}."
