"""The report's chapters on a model's units: a dictionary measured, how sparse the neurons are, what few units tell."""

from __future__ import annotations

import math
from html import escape
from statistics import fmean
from typing import Any

from cloche.microscope.chapters import share
from cloche.microscope.measures import (
    GLYPHS,
    TONES,
    Band,
    Mark,
    Row,
    Series,
    lengths,
    lines,
    measures,
)

DECADES = 4  # of the logarithmic scale, down from all units
TICKS = ((1e-4, "0.01%"), (1e-3, "0.1%"), (0.01, "1%"), (0.1, "10%"), (1.0, "100%"))
KINDS = {"mlp_act": ("neurons", "first"), "resid_post": ("residual stream", "second")}
BASES = {"features": "SAE features", "mlp_act": "neurons", "resid_post": "residual axes"}
DISORDER = "labels in disorder"
Record = dict[str, Any]


def newest(features: list[Record], dictionaries: list[Record]) -> tuple[Record | None, Record | None]:
    """Of findings, newest first: the newest that tells of features, and how its dictionary was measured at the same
    checkpoint; the newest measurement where no features were read."""
    told = next((finding for finding in features if finding["data"].get("features")), None)
    if told is None:
        return None, next(iter(dictionaries), None)
    named, at = told["data"].get("dictionary"), told.get("checkpoint")
    same = (d for d in dictionaries if d["data"].get("dictionary") == named and d.get("checkpoint") == at)
    return told, next(same, None)


def dictionary(finding: Record) -> str:
    """What a dictionary explains, what its encoder misses, and what the model keeps with the reconstruction put back."""
    data = finding["data"]
    facts = (
        f"The dictionary <b>{escape(data['dictionary'])}</b> of {escape(data['site'])} has {data['features']:,} features and "
        f"explains {share(1 - data['fvu'])} of the variance with {data['l0']:.3g} active a token, over {data['tokens_seen']:,} "
        f"tokens; {share(data['dead_share'])} of them never fire."
    )
    return (
        f'<section><h2>A dictionary, measured</h2><p class="lead">{facts}</p>'
        f'<div class="measured">{_kept(data["recovered"])}{_missed(data["gap"]) if data["gap"] else ""}</div></section>'
    )


def _kept(recovered: Record) -> str:
    rows = [
        ("the model itself", recovered["clean"], "first"),
        ("with the reconstruction", recovered["spliced"], "second"),
        ("with the mean", recovered["ablated"], "plain"),
    ]
    drawn = lengths("cross-entropy, nats per token", rows, "{:.3f}".format, recovered["clean"])
    back = (
        "The mean costs nothing here, so no share can be recovered;"
        if recovered["share"] is None
        else f"<b>{share(recovered['share'])}</b> of what the mean costs is recovered;"
    )
    return (
        f'<div class="kept"><h3>What the model keeps</h3>{drawn}<p class="note">Cross-entropy, nats per token; the bars are '
        f"what is added to the model’s own. {back} KL <b>{recovered['kl']:.4g}</b> nats from the model’s own predictions.</p>"
        "</div>"
    )


def _missed(gap: Record) -> str:
    rows = [("its own encoder", gap["own"]["fvu"], "first"), ("OMP, same atoms", gap["same_atoms"]["fvu"], "second")]
    better = (
        f"A better encoder would explain <b>{share(gap['of_encoder'])}</b> more."
        if gap["of_encoder"] > 0
        else "The pursuit does no better."
    )
    return (
        f'<div class="gap"><h3>What its encoder misses</h3>{lengths("variance left out", rows, share)}<p class="note">Variance '
        f"left out, by the encoder and by non-negative orthogonal matching pursuit. {better}</p></div>"
    )


def density(finding: Record) -> str:
    """The share of the neurons active at a token, a row a layer, the last on top, beside the residual stream and the claims."""
    data = finding["data"]
    layers: dict[int, list[Record]] = {}
    for site in data["sites"]:
        layers.setdefault(_layer(site["site"]), []).append(site)
    rows = [_layer_row(layer, layers[layer], data["criteria"]) for layer in sorted(layers, reverse=True)]
    bands = [Band(name, low, high) for name, (low, high) in data["claims"].items()]
    kinds = dict.fromkeys(_kind(site["site"]) for site in data["sites"])
    key = "".join(f'<span class="{tone}">{escape(name)}</span>' for name, tone in kinds)
    drawn = measures("share of the units active at a token, by layer", rows, _log_place, bands, TICKS)
    return (
        f'<section><h2>How sparse it is</h2><p class="lead">{escape(finding.get("summary", ""))}</p>'
        f'<figure class="by-layer"><figcaption><h3>Share of the units active at a token</h3><p class="key glyphs">{key}</p>'
        f'</figcaption>{drawn}<p class="note">A dot is the mean over the tokens, the line beside it runs from their 10th to '
        "their 90th percentile. The bands are what is said of transformers and of cortex.</p></figure></section>"
    )


def _layer(site: str) -> int:
    return int(site.partition("[")[2].partition("]")[0] or 0)


def _kind(site: str) -> tuple[str, str]:
    name = site.partition("[")[0]
    return KINDS.get(name, (name, "third"))


def _log_place(value: float) -> float:
    return 100 * (1 + max(math.log10(value), -DECADES) / DECADES) if value > 0 else 0.0


def _layer_row(layer: int, sites: list[Record], criteria: list[str]) -> Row:
    marks: list[Mark] = []
    words = []
    for site in sites:
        which = criteria.index(site["headline"])
        (name, tone), (few, _, many), mean = _kind(site["site"]), site["quantiles"][which], site["density"][which]
        marks += [Mark("reach", many, few, tone), Mark("dot", mean, tone=tone)]
        words.append(f'<b class="{tone}"><span class="hidden">{escape(name)} </span>{share(mean)} </b>')
    return Row(f"layer {layer}", tuple(marks), "".join(words))


def probing(finding: Record) -> str:
    """AUROC by number of units, the mean over the labels, for each basis, with its ceiling and its control; and as a table."""
    data = finding["data"]
    columns = [*map(str, data["ks"]), "all"]
    series: list[Series] = []
    body, key = "", ""
    for i, basis in enumerate(data["bases"]):
        told = [label["bases"][basis["name"]] for label in data["labels"]]
        name, tone = BASES.get(basis["name"].partition("[")[0], basis["name"]), i % len(TONES)
        scores = (*_means(told, "k"), fmean(t["dense"]["auroc"] for t in told))
        control = (*_means(told, "shuffled"), None)
        series += [Series(f"{name}, {DISORDER}", control, tone, faint=True), Series(name, scores, tone)]
        body += _score_row(name, scores) + _score_row(DISORDER, control, "faint")
        key += f'<span class="{TONES[tone]}">{GLYPHS[tone]} {escape(name)} <small>{basis["units"]:,}</small></span>'
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    lead = (
        f"How well the best few units of each basis at {escape(data['site'])} tell what a token is: AUROC, the mean of "
        f"{len(data['labels'])} labels on {data['held_out']:,} held-out tokens. All units at once are the ceiling, {DISORDER} "
        "the control."
    )
    return (
        f'<section><h2>What few units tell</h2><p class="lead">{lead}</p><div class="probing"><figure class="chart">'
        f'<p class="key glyphs plain">{key}<span class="control">{DISORDER}</span></p>'
        f"{lines('AUROC by number of units', columns, series, 'best units')}</figure>"
        f'<table class="data"><thead><tr><th scope="col">basis</th>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div></section>"
    )


def _means(told: list[Record], which: str) -> list[float]:
    """AUROC by number of units, the mean over labels."""
    return [fmean(scores) for scores in zip(*([s["auroc"] for s in t[which]] for t in told), strict=True)]


def _score_row(name: str, scores: tuple[float | None, ...], tone: str = "") -> str:
    cells = "".join(f"<td>{'' if score is None else f'{score:.2f}'}</td>" for score in scores)
    return f'<tr class="{tone}"><th scope="row">{escape(name)}</th>{cells}</tr>'
