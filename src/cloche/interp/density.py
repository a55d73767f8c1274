"""Activation density: the share of a model's own units that are active per token, layer by layer, beside the residual
stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Bars, Finding, Panel, Provenance, Series, Table
from cloche.errors import ArgumentRange, CorpusEmpty, ModelUnsupported, SiteUnsuitable
from cloche.interp.records import DensityData, GaussianDensity, SiteDensity, plain
from cloche.interp.route import FIRST
from cloche.interp.subject import Subject, windows_of
from cloche.model import Network, Site, activation

NEURONS, STREAM = "mlp_act", "resid_post"
NOT_ZERO = "not zero"
THRESHOLDS = (0.01, 0.1)  # of the RMS of a layer's activations
# Common claims, which a finding is compared with: under 0.5% of a transformer's neurons active per token, 1 to 5% in
# cortex.
CLAIMS = {"transformer": (0.0, 0.005), "cortex": (0.01, 0.05)}
NAMES = {NEURONS: "neurons", STREAM: "residual stream"}
BINS, LOWEST = 24, -6.0  # of log10 of a unit's frequency
SHARES = (0.1, 0.5, 0.9)  # quantiles over tokens


@torch.no_grad()
def activation_density(
    subject: Subject, windows: Iterable[Any], thresholds: Sequence[float] = THRESHOLDS, also: Sequence[str] = ()
) -> Finding:
    """Measures the share of units active per token; reads `windows` (batches of ids [batch, position], or texts) twice.

    Units: the neurons of every layer's MLP (`mlp_act`, what its output matrix reads), the axes of the residual stream after
    the layer as the control, and the sites named in `also` ("mlp_in"). A unit is active by several criteria: not exactly
    zero, or above each of `thresholds` times the RMS of all activations of the layer (which the first reading measures).
    Measures without a threshold: `hoyer`, averaged over tokens (0 if all units are equal, 1 if a single one is active), and
    the kurtosis of a unit over tokens (3 if Gaussian; the median over the units that vary). The first position of each
    window is left out.

    `data`: docs/architecture.md; `arrays`: each site's frequencies [criterion, units]. Memory: one batch, the ids, and
    eight numbers per unit. Layers of experts have no such units and are listed under "skipped". Raises ClocheError for a
    model with only experts, for no text, and for thresholds not between 0 and 1.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> from cloche.interp import activation_density
    >>> finding = activation_density(glass, [text])
    >>> [site["site"] for site in finding.data["sites"]]
    ['mlp_act[0]', 'mlp_act[1]', 'resid_post[0]', 'resid_post[1]']
    """
    net = subject.net
    if not thresholds or not all(0 < t < 1 for t in thresholds):
        raise ArgumentRange(f"thresholds={thresholds} must be shares of the RMS between 0 and 1, such as (0.01, 0.1).")
    sites, skipped = _sites(net, also)
    held = list(windows_of(subject, windows))
    rms, tokens = rms_of(net, held, sites)
    measures = [_Measure(scale, thresholds) for scale in rms]
    for values in read_rows(net, held, sites):
        for measure, rows in zip(measures, values, strict=True):
            measure.take(rows)
    table = [_row(site, measure, scale, net) for site, measure, scale in zip(sites, measures, rms, strict=True)]
    densities = [row["density"] for row in table if row["site"].startswith(NEURONS)]
    means = [fmean(shares) for shares in zip(*densities, strict=True)]
    record: DensityData = {
        "tokens": tokens,
        "criteria": measures[0].criteria,
        "claims": {name: list(span) for name, span in CLAIMS.items()},
        "neurons": means,
        "verdicts": [verdict(mean) for mean in means],
        "edges": torch.linspace(LOWEST, 0, BINS + 1).tolist(),
        "sites": table,
        "skipped": skipped,
        "gaussian": _gaussian(thresholds),
    }
    data = plain(record)
    arrays = {str(site): (m.fired / m.tokens).float().cpu() for site, m in zip(sites, measures, strict=True)}
    plan, _ = net.plan(sites, [], held[0], None)
    about = Provenance("activation-density", subject.checkpoint, plan.hash)
    neurons = [row for row in data["sites"] if row["site"].startswith(NEURONS)]
    active, gaussian = [_headline(row, data) for row in neurons], data["gaussian"]
    figures = {"active": fmean(active), "hoyer": fmean(row["hoyer"] for row in neurons)}
    null = {"active": fmean(_headline(row | gaussian, data) for row in neurons), "hoyer": gaussian["hoyer"]}
    return Finding(about, _summary(data, active), figures, data, arrays, null, panels(data))


def _sites(net: Network, also: Sequence[str]) -> tuple[list[Site], dict[str, str]]:
    """The sites to read, neurons first, and the layers left out, with the reason."""
    neurons, skipped = neuron_sites(net)
    names = [*dict.fromkeys((STREAM, *also))]
    more = [site for name in names for site in net.sites.resolve(f"{name}.all")]
    wrong = [site for site in more if len(site.axes) != 3]
    if wrong:
        raise SiteUnsuitable(
            f"{wrong[0]} has axes {', '.join(wrong[0].axes)}, and density needs one row of units per token; name sites such "
            "as mlp_in."
        )
    return [*neurons, *more], skipped


def neuron_sites(net: Network) -> tuple[list[Site], dict[str, str]]:
    """The site of each layer's neurons, and the layers that have none, each with its map."""
    neurons = net.sites.resolve(f"{NEURONS}.all") if NEURONS in dir(net.sites) else []
    have = {site.layer for site in neurons}
    skipped = {str(layer): type(block.part.map).__name__ for layer, block in enumerate(net.layers) if layer not in have}
    if not neurons:
        raise ModelUnsupported(
            f"No layer of this model has a site {NEURONS} (layer 0 holds {skipped['0']}), so its neurons cannot be measured; "
            "choose a model with an MLP or a GLU."
        )
    return neurons, skipped


def read_rows(net: Network, windows: Sequence[Tensor], sites: Sequence[Site]) -> Iterable[list[Tensor]]:
    """Each site's activations [n, units] in fp32, batch by batch."""
    for window in windows:
        ids = window.to(net.embed.weight.device)
        result = net.run(ids, save=sites, logits=False)
        yield [result[site][:, FIRST:].flatten(0, 1).float() for site in sites]


def rms_of(net: Network, windows: Sequence[Tensor], sites: Sequence[Site]) -> tuple[list[float], int]:
    """The RMS of each site's activations, and the number of tokens read."""
    squares, counts, tokens = [0.0] * len(sites), [0] * len(sites), 0
    for values in read_rows(net, windows, sites):
        tokens += len(values[0])
        for i, rows in enumerate(values):
            squares[i] += float(rows.square().sum(dtype=torch.float64))
            counts[i] += rows.numel()
    if not tokens:
        raise CorpusEmpty("There is no text to read activations from: give at least one window of two tokens.")
    return [(square / count) ** 0.5 for square, count in zip(squares, counts, strict=True)], tokens


class _Measure:
    """Running statistics of one site's activations, in one pass."""

    def __init__(self, rms: float, thresholds: Sequence[float]) -> None:
        self.rms = rms or 1.0  # in a layer that is never active nothing is above any threshold
        self.criteria = [NOT_ZERO, *(f"above {t:.3g} RMS" for t in thresholds)]
        self.cuts = [0.0, *thresholds]
        self.tokens = 0
        self.fired = torch.zeros(0)
        self.active: list[Tensor] = []
        self.powers = torch.zeros(0)
        self.hoyer = 0.0

    def take(self, rows: Tensor) -> None:
        """rows: [n, units]."""
        units = rows.shape[1]
        if not self.tokens:
            wide = {"dtype": torch.float64, "device": rows.device}
            self.fired = torch.zeros(len(self.cuts), units, **wide)  # type: ignore[call-overload]
            self.powers = torch.zeros(4, units, **wide)  # type: ignore[call-overload]
            self.active = [torch.zeros(units + 1, dtype=torch.int64, device=rows.device) for _ in self.cuts]
        self.tokens += len(rows)
        rows = rows / self.rms
        size = rows.abs()
        for i, cut in enumerate(self.cuts):
            on = size > cut
            self.fired[i] += on.sum(0)
            self.active[i] += torch.bincount(on.sum(1), minlength=units + 1)
        for i in range(4):
            self.powers[i] += rows.pow(i + 1).sum(0, dtype=torch.float64)
        self.hoyer += float(hoyer(rows).sum(dtype=torch.float64))

    def kurtosis(self) -> float | None:
        """Kurtosis over tokens, the median over the units that vary; None if none does."""
        m1, m2, m3, m4 = self.powers / self.tokens
        variance = m2 - m1**2
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        varies = variance > 1e-9 * m2.clamp_min(1e-30)
        return float((fourth / variance**2)[varies].quantile(0.5)) if bool(varies.any()) else None


def hoyer(rows: Tensor) -> Tensor:
    """[n] (sqrt(d) - |x|_1 / |x|_2) / (sqrt(d) - 1) of rows [n, d] (Hoyer 2004): 0 if all entries are equal in size, 1 if
    only one is not zero. A row of zeros counts as 1, a single unit as 0."""
    root = rows.shape[1] ** 0.5
    ratio = rows.abs().sum(1) / rows.norm(dim=1).clamp_min(1e-30)
    return (root - ratio.clamp_min(1)) / (root - 1) if root > 1 else torch.zeros_like(ratio)


def _row(site: Site, measure: _Measure, rms: float, net: Network) -> SiteDensity:
    """One site's figures. `headline` is the criterion that suits its units: not zero after a rectifier, else above the
    first threshold."""
    units = measure.fired.shape[1]
    rectified = site.name == NEURONS and _rectifies(net, site)
    frequency = (measure.fired / measure.tokens).cpu()
    return {
        "site": str(site),
        "units": units,
        "rms": rms,
        "headline": measure.criteria[0 if rectified else 1],
        "density": frequency.mean(1).tolist(),
        "quantiles": [_quantiles(counts.cpu(), units) for counts in measure.active],
        "dead": (measure.fired == 0).double().mean(1).tolist(),
        "histogram": [_histogram(row) for row in frequency],
        "hoyer": measure.hoyer / measure.tokens,
        "kurtosis": measure.kurtosis(),
    }


def _rectifies(net: Network, site: Site) -> bool:
    """Whether the layer's activation function is exactly zero for negative inputs."""
    part = net.layers[site.layer].part.map  # type: ignore[index]
    name = getattr(part, "activation", None)
    return name is not None and float(activation(name)(torch.tensor(-1.0))) == 0


def _quantiles(counts: Tensor, units: int) -> list[float]:
    """Quantiles of the share of units active per token, from the number of tokens with each count of active units."""
    below = counts.cumsum(0)
    return [int(torch.searchsorted(below, share * int(below[-1]))) / units for share in SHARES]


def _histogram(frequency: Tensor) -> list[int]:
    """Number of units by log10 of their frequency; units never active are left out, the rarest are in the first bin."""
    logs = frequency[frequency > 0].log10().clamp(LOWEST, 0)
    where = ((logs - LOWEST) / -LOWEST * BINS).long().clamp(0, BINS - 1)
    return torch.bincount(where, minlength=BINS).tolist()


def _gaussian(thresholds: Sequence[float]) -> GaussianDensity:
    """The same figures for independent Gaussian units, which are not sparse."""
    above = [float(torch.special.erfc(torch.tensor(t / 2**0.5))) for t in thresholds]
    return {"density": [1.0, *above], "hoyer": 1 - (2 / torch.pi) ** 0.5, "kurtosis": 3.0}


def verdict(density: float) -> str:
    """How a density compares with `CLAIMS`, in words."""
    (_, few), (low, high) = CLAIMS["transformer"], CLAIMS["cortex"]
    if density < few:
        return f"under the {few:.1%} expected of a transformer"
    if density < low:
        return f"between the {few:.1%} expected of a transformer and the {low:.0%} to {high:.0%} of cortex"
    if density <= high:
        return f"over the {few:.1%} expected of a transformer and within the {low:.0%} to {high:.0%} of cortex"
    return f"over both the {few:.1%} expected of a transformer and the {low:.0%} to {high:.0%} of cortex"


def _summary(data: dict[str, Any], active: list[float]) -> str:
    """`active` is the share of each layer's neurons that are active at a token."""
    mean, stream = fmean(active), [row for row in data["sites"] if row["site"].startswith(STREAM)]
    each = ", ".join(f"{share:.2%} {name}" for share, name in zip(data["neurons"], data["criteria"], strict=True))
    control = fmean(row["density"][1] for row in stream)
    left_out = f"; layers of experts left out: {', '.join(data['skipped'])}" if data["skipped"] else ""
    return (
        f"Of {data['sites'][0]['units']:,} neurons a layer {mean:.2%} are active at a token ({min(active):.2%} to "
        f"{max(active):.2%} by layer; {each}), {verdict(mean)}; of the residual stream's axes {control:.2%} are "
        f"{data['criteria'][1]}, over {data['tokens']:,} tokens{left_out}."
    )


def _headline(row: dict[str, Any], data: dict[str, Any], which: str = "density") -> Any:
    """A site's value by the criterion that suits its units."""
    return row[which][data["criteria"].index(row["headline"])]


def panels(data: dict[str, Any]) -> tuple[Panel, ...]:
    """Bars by layer, the last on top, with the spread over tokens; and a table of every figure of every site."""
    by_layer: dict[str, dict[str, dict[str, Any]]] = {}
    for row in data["sites"]:
        kind, _, layer = row["site"].partition("[")
        by_layer.setdefault(f"layer {layer.rstrip(']') or 0}", {})[kind] = row
    layers = tuple(sorted(by_layer, key=lambda name: int(name[6:]) if name[6:].isdigit() else 0, reverse=True))
    series = []
    for kind in dict.fromkeys(row["site"].partition("[")[0] for row in data["sites"]):
        rows = [by_layer[layer].get(kind) for layer in layers]
        spread = [(None, None, None) if row is None else _headline(row, data, "quantiles") for row in rows]
        mean = tuple(None if row is None else _headline(row, data) for row in rows)
        series.append(Series(NAMES.get(kind, kind), mean, tuple(s[0] for s in spread), tuple(s[2] for s in spread)))
    left_out = ", ".join(f"layer {layer} ({name})" for layer, name in data["skipped"].items())
    note = (
        "A dot is the mean over tokens; the line beside it runs from the 10th to the 90th percentile. The bands are common "
        "claims about transformers and cortex."
    )
    bars = Bars(
        "Share of the units active at a token",
        layers,
        tuple(series),
        "percent",
        log=True,
        bands=tuple((name, low, high) for name, (low, high) in data["claims"].items()),
        note=f"{note} Left out: {left_out}." if left_out else note,
    )
    body = [
        (row["site"], row["units"], *row["density"], _headline(row, data, "dead"), row["hoyer"], row["kurtosis"])
        for row in data["sites"]
    ]
    gaussian = data["gaussian"]
    body.append(("Gaussian units", None, *gaussian["density"], None, gaussian["hoyer"], gaussian["kurtosis"]))
    columns = ("site", "units", *data["criteria"], "never active", "Hoyer", "kurtosis")
    shares = ["percent"] * (len(data["criteria"]) + 1)
    table = Table("By what counts as active", columns, tuple(body), ("number", "count", *shares, "number", "number"))  # type: ignore[arg-type]
    return bars, table
