"""The report's chapters on a model's units: a dictionary measured, how sparse the neurons are, what few units tell."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean
from typing import Any

from cloche.microscope.page.chapters import section, share
from cloche.microscope.page.markup import EMPTY, Markup, join, tag
from cloche.microscope.page.measures import (
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


def newest(features: Iterable[Record], dictionaries: Iterable[Record]) -> tuple[Record | None, Record | None]:
    """Of findings, newest first: the newest that tells of features, and how its dictionary was measured at the same
    checkpoint; the newest measurement where no features were read."""
    told = next((finding for finding in features if finding["data"].get("features")), None)
    if told is None:
        return None, next(iter(dictionaries), None)
    named, at = told["data"].get("dictionary"), told.get("checkpoint")
    same = (d for d in dictionaries if d["data"].get("dictionary") == named and d.get("checkpoint") == at)
    return told, next(same, None)


def dictionary(finding: Record) -> Markup:
    """What a dictionary explains, what its encoder misses, and what the model keeps with the reconstruction put back."""
    data = finding["data"]
    facts = join(
        "The dictionary ",
        tag("b", data["dictionary"]),
        f" of {data['site']} has {data['features']:,} features and explains {share(1 - data['fvu'])} of the variance with "
        f"{data['l0']:.3g} active a token, over {data['tokens_seen']:,} tokens; {share(data['dead_share'])} of them never "
        "fire.",
    )
    drawn = tag("div", _kept(data["recovered"]), _missed(data["gap"]) if data["gap"] else EMPTY, class_="measured")
    return section("A dictionary, measured", facts, drawn)


def _kept(recovered: Record) -> Markup:
    rows = [
        ("the model itself", recovered["clean"], "first"),
        ("with the reconstruction", recovered["spliced"], "second"),
        ("with the mean", recovered["ablated"], "plain"),
    ]
    drawn = lengths("cross-entropy, nats per token", rows, "{:.3f}".format, recovered["clean"])
    back = (
        "The mean costs nothing here, so no share can be recovered;"
        if recovered["share"] is None
        else join(tag("b", share(recovered["share"])), " of what the mean costs is recovered;")
    )
    note = tag(
        "p",
        "Cross-entropy, nats per token; the bars are what is added to the model’s own. ",
        back,
        " KL ",
        tag("b", f"{recovered['kl']:.4g}"),
        " nats from the model’s own predictions.",
        class_="note",
    )
    return tag("div", tag("h3", "What the model keeps"), drawn, note, class_="kept")


def _missed(gap: Record) -> Markup:
    rows = [("its own encoder", gap["own"]["fvu"], "first"), ("OMP, same atoms", gap["same_atoms"]["fvu"], "second")]
    better = (
        join("A better encoder would explain ", tag("b", share(gap["of_encoder"])), " more.")
        if gap["of_encoder"] > 0
        else "The pursuit does no better."
    )
    words = "Variance left out, by the encoder and by non-negative orthogonal matching pursuit. "
    drawn = lengths("variance left out", rows, share)
    return tag("div", tag("h3", "What its encoder misses"), drawn, tag("p", words, better, class_="note"), class_="gap")


def density(finding: Record) -> Markup:
    """The share of the neurons active at a token, a row per layer, the last on top, beside the residual stream."""
    data = finding["data"]
    layers: dict[int, list[Record]] = {}
    for site in data["sites"]:
        layers.setdefault(_layer(site["site"]), []).append(site)
    rows = [_layer_row(layer, layers[layer], data["criteria"]) for layer in sorted(layers, reverse=True)]
    bands = [Band(name, low, high) for name, (low, high) in data["claims"].items()]
    kinds = dict.fromkeys(_kind(site["site"]) for site in data["sites"])
    key = tag("p", [tag("span", name, class_=tone) for name, tone in kinds], class_="key glyphs")
    title = "Share of the units active at a token"
    note = (
        "A dot is the mean over the tokens, the line beside it runs from their 10th to their 90th percentile. The bands are "
        "what is said of transformers and of cortex."
    )
    drawn = measures("share of the units active at a token, by layer", rows, _log_place, bands, TICKS)
    caption = tag("figcaption", tag("h3", title), key)
    figure = tag("figure", caption, drawn, tag("p", note, class_="note"), class_="by-layer")
    return section("How sparse it is", finding.get("summary"), figure)


def _layer(site: str) -> int:
    return int(site.partition("[")[2].partition("]")[0] or 0)


def _kind(site: str) -> tuple[str, str]:
    name = site.partition("[")[0]
    return KINDS.get(name, (name, "third"))


def _log_place(value: float) -> float:
    return 100 * (1 + max(math.log10(value), -DECADES) / DECADES) if value > 0 else 0.0


def _layer_row(layer: int, sites: list[Record], criteria: list[str]) -> Row:
    marks: list[Mark] = []
    words: list[Markup] = []
    for site in sites:
        which = criteria.index(site["headline"])
        (name, tone), (few, _, many), mean = _kind(site["site"]), site["quantiles"][which], site["density"][which]
        marks += [Mark("reach", many, few, tone), Mark("dot", mean, tone=tone)]
        words.append(tag("b", tag("span", f"{name} ", class_="hidden"), f"{share(mean)} ", class_=tone))
    return Row(f"layer {layer}", tuple(marks), words)


def probing(finding: Record) -> Markup:
    """AUROC by number of units, the mean over the labels, for each basis, with its ceiling and its control; and as a table."""
    data = finding["data"]
    columns = [*map(str, data["ks"]), "all"]
    series: list[Series] = []
    body: list[Markup] = []
    key: list[Markup] = []
    for i, basis in enumerate(data["bases"]):
        told = [label["bases"][basis["name"]] for label in data["labels"]]
        name, tone = BASES.get(basis["name"].partition("[")[0], basis["name"]), i % len(TONES)
        scores = (*_means(told, "k"), fmean(t["dense"]["auroc"] for t in told))
        control = (*_means(told, "shuffled"), None)
        series += [Series(f"{name}, {DISORDER}", control, tone, faint=True), Series(name, scores, tone)]
        body += [_score_row(name, scores), _score_row(DISORDER, control, "faint")]
        key.append(tag("span", f"{GLYPHS[tone]} {name} ", tag("small", f"{basis['units']:,}"), class_=TONES[tone]))
    head = tag("tr", tag("th", "basis", scope="col"), [tag("th", column, scope="col") for column in columns])
    lead = (
        f"How well the best few units of each basis at {data['site']} tell what a token is: AUROC, the mean of "
        f"{len(data['labels'])} labels on {data['held_out']:,} held-out tokens. All units at once are the ceiling, {DISORDER} "
        "the control."
    )
    keys = tag("p", key, tag("span", DISORDER, class_="control"), class_="key glyphs plain")
    figure = tag("figure", keys, lines("AUROC by number of units", columns, series, "best units"), class_="chart")
    table = tag("table", tag("thead", head), tag("tbody", body), class_="data")
    return section("What few units tell", lead, tag("div", figure, table, class_="probing"))


def _means(told: list[Record], which: str) -> list[float]:
    """AUROC by number of units, the mean over labels."""
    return [fmean(scores) for scores in zip(*([s["auroc"] for s in t[which]] for t in told), strict=True)]


def _score_row(name: str, scores: tuple[float | None, ...], tone: str = "") -> Markup:
    cells = [tag("td", "" if score is None else f"{score:.2f}") for score in scores]
    return tag("tr", tag("th", name, scope="row"), cells, class_=tone)
