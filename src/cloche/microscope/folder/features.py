"""A features finding in two sizes: a light list to choose from, and one feature's page, also of one that is not listed."""

from __future__ import annotations

import struct
from typing import Any

from cloche.errors import ClocheError, DictionaryMissing, FeatureUnknown
from cloche.microscope.folder.moments import token_pair
from cloche.microscope.folder.reading import RunFiles, number, parse_json, words
from cloche.microscope.library import Library, has_file

Finding = dict[str, Any]
HEAD_KEYS = ("dictionary", "site", "places", "tokens_seen", "fvu", "l0", "dead_share", "density_histogram")
SNIPPET_TOKENS = 36
MOST_LISTED = 4000
MOST_HEADER_BYTES = 1 << 20


def snippet(feature: dict[str, Any]) -> dict[str, Any] | None:
    """The strongest example, cut to the tokens around its peak, and where among them the peak is."""
    examples = [example for example in feature.get("examples") or [] if example["acts"]]
    if not examples:
        return None
    best = max(examples, key=lambda example: max(example["acts"]))
    acts = best["acts"]
    peak = max(range(len(acts)), key=acts.__getitem__)
    start = max(0, min(peak - SNIPPET_TOKENS * 2 // 3, len(acts) - SNIPPET_TOKENS))
    end = start + SNIPPET_TOKENS
    return {"tokens": best["tokens"][start:end], "acts": acts[start:end], "peak": peak - start}


def _example(given: Any) -> dict[str, Any] | None:
    """{"tokens", "acts", "quantile"}, equally long; None for anything else."""
    if not isinstance(given, dict) or not all(isinstance(given.get(key), list) for key in ("tokens", "acts")):
        return None
    pairs = list(zip(given["tokens"], given["acts"], strict=False))
    tokens, acts = [words(token, 200) for token, _ in pairs], [number(act) or 0.0 for _, act in pairs]
    return {"tokens": tokens, "acts": acts, "quantile": number(given.get("quantile")) or 0.0}


def _list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else []


def whole(feature: Any) -> dict[str, Any] | None:
    """A feature's page with every field of the type that the page expects; None for what has no number of its own."""
    if not isinstance(feature, dict) or not isinstance(feature.get("id"), int) or isinstance(feature["id"], bool):
        return None
    examples = [e for each in _list(feature.get("examples")) if (e := _example(each)) is not None]
    pairs = {
        key: [pair for each in _list(feature.get(key)) if (pair := token_pair(each)) is not None]
        for key in ("top_logits", "bottom_logits")
    }
    near = [[n[0], n[1]] for n in _list(feature.get("neighbours")) if isinstance(n, list) and len(n) == 2]
    neighbours = [[i, number(c)] for i, c in near if isinstance(i, int) and not isinstance(i, bool)]
    shares = [number(share) or 0.0 for share in _list(feature.get("shares"))] or None
    figures = {key: number(feature.get(key)) or 0.0 for key in ("density", "max")}
    told = {"id": feature["id"], **figures, "examples": examples, **pairs, "neighbours": neighbours, "shares": shares}
    read_over = number(feature.get("tokens_seen"))
    return told | ({} if read_over is None else {"tokens_seen": read_over})


def _features(finding: Finding) -> list[Any]:
    return _list(finding["data"].get("features"))


def listing(finding: Finding, total: int | None = None) -> dict[str, Any]:
    """The finding's figures, and of each feature, in the given order, what a list shows: one example of its pages' many.
    `total` is how many features the dictionary has, listed or not."""
    data = finding["data"]
    light = []
    for given in _features(finding)[:MOST_LISTED]:
        feature = whole(given)
        if feature is not None:
            top = [token for token, _ in feature["top_logits"][:4]]
            light.append({key: feature[key] for key in ("id", "density", "max", "shares")} | {"top": top})
            light[-1]["example"] = snippet(feature)
    head = {key: data.get(key) for key in HEAD_KEYS}
    about = {key: finding.get(key) for key in ("id", "checkpoint", "summary", "created")}
    return {**about, **head, **_figures(data), "total": total, "features": light}


def _figures(data: dict[str, Any]) -> dict[str, Any]:
    """The head's fields as the page expects them."""
    told: dict[str, Any] = {key: number(data.get(key)) for key in ("tokens_seen", "fvu", "l0", "dead_share")}
    for key in ("dictionary", "site"):
        told[key] = None if data.get(key) is None else words(data[key], 300)
    places = data.get("places")
    told["places"] = [words(place, 300) for place in places] if isinstance(places, list) else None
    histogram = data.get("density_histogram")
    if not isinstance(histogram, dict) or len(_list(histogram.get("edges"))) != len(_list(histogram.get("counts"))) + 1:
        return told | {"density_histogram": None}
    edges, counts = ([number(value) or 0 for value in histogram[key]] for key in ("edges", "counts"))
    return told | {"density_histogram": {"edges": edges, "counts": counts}}


def listed(finding: Finding, ident: int) -> dict[str, Any] | None:
    """Everything the finding holds on one feature; None when it does not list it."""
    for feature in _features(finding):
        if isinstance(feature, dict) and feature.get("id") == ident:
            return whole(feature)
    return None


def page(finding: Finding, ident: int) -> dict[str, Any]:
    """`listed`. ClocheError when the feature is not among those that were reported."""
    found = listed(finding, ident)
    if found is None:
        raise FeatureUnknown(f"Feature {ident} is not among those that this finding reports: ask for it by its number.")
    return found


def total(files: RunFiles, finding: Finding) -> int | None:
    """How many features the dictionary has: the length of the finding's densities, which cover them all."""
    try:
        file = files.open_file(f"findings/features/{finding['id']}.safetensors")
        if file is None:
            return None
        with file:
            size = struct.unpack("<Q", file.read(8))[0]
            if size > MOST_HEADER_BYTES:
                return None
            header = parse_json(file.read(size), "the header")
        (count,) = header["density"]["shape"]
    except (ClocheError, OSError, struct.error, KeyError, TypeError, ValueError):
        return None
    return count if isinstance(count, int) else None


def question(library: Library, run: str | None, finding: Finding, number: int) -> dict[str, Any]:
    """What the worker is asked about a feature that the finding does not list. ClocheError where it cannot be answered."""
    files, data = library.run(run), finding["data"]
    name, checkpoint = data.get("dictionary"), finding.get("checkpoint")
    home = f"dictionaries/{name}"
    if not isinstance(name, str) or not name or "/" in name or not has_file(files, f"{home}/dictionary.json"):
        raise DictionaryMissing(
            f"Feature {number} is not among those that this finding lists, and its dictionary {words(name, 80)!r} is not in "
            f"{files.root.name}/dictionaries: choose one from the list."
        )
    files.all_inside(home)
    files.all_inside("data")
    folder = library.checkpoint(run, str(checkpoint))
    tokens = data.get("tokens_seen")
    count = tokens if isinstance(tokens, int) and 0 < tokens < 10**7 else 0
    return {"checkpoint": str(folder), "dictionary": name, "tokens": count, "feature": number}
