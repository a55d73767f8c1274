"""The activation functions of a model: curve, range and gain, and what their inputs and outputs are on a text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Lines, Panel, Provenance, Series, Table
from cloche.interp.density import neuron_sites, read_rows, rms_of
from cloche.interp.significance import untrained
from cloche.interp.subject import Subject, windows_of
from cloche.model import ACTIVATIONS, Network, Site, activation, activation_range, gain

TAILS = (0.001, 0.999)  # quantiles of the measured range
NEAR_ZERO = 0.01  # of a layer's RMS activation
FINEST, BINS, LARGEST = 1e-3, 40_000, 25.0  # of the histogram: of asinh(x / (FINEST RMS)), each 0.13% of x wide
CURVE = torch.linspace(-6, 6, 49, dtype=torch.float64)


@torch.no_grad()
def activation_table(subject: Subject, windows: Iterable[Any], seed: int = 0) -> Finding:
    """Activation functions: their curve, range and gain, and per layer the range of inputs (`mlp_pre`) and outputs (`mlp_act`)
    on a text.

    windows: batches of ids [batch, position], or texts; read twice. The measured range is that from the 0.1% to the 99.9%
    quantile of all tokens and units; of a gated map `mlp_pre` is the gate and `mlp_act` the product. gain: RMS of the inputs
    over RMS of the outputs, which is the function's nominal gain for standard normal inputs. near zero: share of outputs
    of at most 1% of their RMS. The null is a randomly initialised model of the same parts. The first position of each window is
    left out. Raises ClocheError for a model with only experts, and for no text.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import activation_table
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(1, Block(Attention(4), GLU("silu")))).build(seed=0)
    >>> finding = activation_table(cloche.Glass(net, tokenizer), [text])
    >>> [layer["activation"] for layer in finding.data["layers"]], finding.data["functions"]["silu"]["gain"]
    (['silu'], 1.6765...)
    """
    net = subject.net
    held = list(windows_of(subject, windows))
    layers, skipped = _layers(net, held)
    other, _ = _layers(untrained(net.spec, net.embed.weight.device, seed), held)
    names = [layer["activation"] for layer in layers if layer["activation"]]
    functions = {name: _function(name) for name in dict.fromkeys([*names, *ACTIVATIONS])}
    data = {"functions": functions, "layers": layers, "null": other, "skipped": skipped, "tails": list(TAILS)}
    plan, _ = net.plan([site for pair in _pairs(net)[0] for site in pair], [], held[0], None)
    about = Provenance("activation-table", subject.checkpoint, plan.hash, seed)
    return Finding(about, _summary(layers, other), _figures(layers), data, {}, _figures(other), _panels(data))


def _pairs(net: Network) -> tuple[list[tuple[Site, Site]], dict[str, str]]:
    """Each layer's sites before and after its activation, and the layers left out."""
    neurons, skipped = neuron_sites(net)
    before = {site.layer: site for site in net.sites.resolve("mlp_pre.all")}
    return [(before[site.layer], site) for site in neurons if site.layer in before], skipped


def _layers(net: Network, held: Sequence[Tensor]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Each layer's measured ranges."""
    pairs, skipped = _pairs(net)
    sites = [site for pair in pairs for site in pair]
    rms, tokens = rms_of(net, held, sites)
    counts = [torch.zeros(BINS, dtype=torch.int64) for _ in sites]
    near = [0] * len(sites)
    for values in read_rows(net, held, sites):
        for i, rows in enumerate(values):
            counts[i] += _histogram(rows, rms[i])
            near[i] += int((rows.abs() <= NEAR_ZERO * rms[i]).sum())
    found = []
    for i, (before, after) in enumerate(pairs):
        pre, act = 2 * i, 2 * i + 1
        name = getattr(net.layers[after.layer].part.map, "activation", None)  # type: ignore[index]
        found.append(
            {
                "layer": after.layer,
                "activation": None if name is None else str(name),
                "pre": [_quantile(counts[pre], share, rms[pre]) for share in TAILS],
                "act": [_quantile(counts[act], share, rms[act]) for share in TAILS],
                "pre_rms": rms[pre],
                "act_rms": rms[act],
                "gain": rms[pre] / rms[act] if rms[act] else None,
                "nominal": None if name is None else gain(name),
                "near_zero": near[act] / int(counts[act].sum()),
                "tokens": tokens,
                "site": str(before),
            }
        )
    return found, skipped


def _histogram(rows: Tensor, rms: float) -> Tensor:
    """Counts of asinh(x / (FINEST rms)) in BINS between -LARGEST and LARGEST."""
    place = (rows.double() / (FINEST * (rms or 1.0))).asinh()
    return torch.histc(place.cpu(), BINS, -LARGEST, LARGEST).long()


def _quantile(counts: Tensor, share: float, rms: float) -> float:
    """The value below which a share of all lie, from a histogram: the middle of its bin."""
    below = counts.cumsum(0)
    bin_ = int(torch.searchsorted(below, math.ceil(share * int(below[-1]))))
    middle = (bin_ + 0.5) / BINS * 2 * LARGEST - LARGEST
    return math.sinh(middle) * FINEST * (rms or 1.0)


def _function(name: str) -> dict[str, Any]:
    low, high = activation_range(name)
    values = activation(name)(CURVE)
    bounds = [bound if math.isfinite(bound) else None for bound in (low, high)]
    return {"range": bounds, "gain": gain(name), "at": CURVE.tolist(), "curve": values.tolist()}


def _figures(layers: Sequence[dict[str, Any]]) -> dict[str, float]:
    known = [layer for layer in layers if layer["gain"] is not None]
    return {
        "gain": fmean(layer["gain"] for layer in known) if known else 0.0,
        "lowest": min(layer["act"][0] for layer in layers),
        "highest": max(layer["act"][1] for layer in layers),
        "near_zero": fmean(layer["near_zero"] for layer in layers),
    }


def _summary(layers: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> str:
    own, null = _figures(layers), _figures(other)
    used = ", ".join(dict.fromkeys(layer["activation"] or "an activation without a name" for layer in layers))
    return (
        f"{used}: 99.8% of the outputs lie between {own['lowest']:.3g} and {own['highest']:.3g} in the widest layers "
        f"({null['lowest']:.3g} and {null['highest']:.3g} in a random model), {own['near_zero']:.1%} of them near zero "
        f"({null['near_zero']:.1%}); the mean gain is {own['gain']:.3g} ({null['gain']:.3g})."
    )


def _panels(data: dict[str, Any]) -> tuple[Panel, ...]:
    used = {layer["activation"] for layer in data["layers"]}
    curves = tuple(
        Series(name, tuple(each["curve"]), control=name not in used) for name, each in data["functions"].items()
    )
    lines = Lines("Activation functions", tuple(CURVE.tolist()), curves, low=-2.0, high=6.0)
    known = tuple((name, *each["range"], each["gain"]) for name, each in data["functions"].items())
    note = "An empty bound: there is none. The gain keeps the variance of standard normal inputs."
    functions = Table("Range and gain", ("function", "least", "largest", "gain"), known, note=note)
    rows = tuple(
        (
            layer["layer"],
            layer["activation"],
            *layer["pre"],
            *layer["act"],
            *null["act"],
            layer["gain"],
            layer["nominal"],
            layer["near_zero"],
        )
        for layer, null in zip(data["layers"], data["null"], strict=True)
    )
    columns = (
        "layer",
        "function",
        "in 0.1%",
        "in 99.9%",
        "out 0.1%",
        "out 99.9%",
        "random out 0.1%",
        "random out 99.9%",
    )
    forms = ("count", "token", *["number"] * 8, "percent")
    measured = Table(
        "Measured range, 0.1% to 99.9%",
        (*columns, "gain", "nominal", "near zero"),
        rows,
        forms,  # type: ignore[arg-type]
        note="Of a gated map the input is the gate, and the output its product with the other half.",
    )
    return measured, functions, lines
