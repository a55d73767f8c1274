"""Features findings: a short list to choose from, and the page of one feature, listed or not."""

from __future__ import annotations

from typing import Any

from cloche.errors import DictionaryMissing
from cloche.microscope.folder.reading import RunFiles, number, words
from cloche.microscope.folder.records import token_pair
from cloche.microscope.library import Library, has_file

Finding = dict[str, Any]
SNIPPET_TOKENS = 36
MOST_LISTED = 4000


def snippet(feature: dict[str, Any]) -> dict[str, Any] | None:
    """The strongest example, cut to the tokens around its peak, and the index of the peak."""
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
    """{"tokens", "acts", "quantile"} with tokens and acts of equal length; None for anything else."""
    if not isinstance(given, dict) or not all(isinstance(given.get(key), list) for key in ("tokens", "acts")):
        return None
    pairs = list(zip(given["tokens"], given["acts"], strict=False))
    tokens, acts = [words(token, 200) for token, _ in pairs], [number(act) or 0.0 for _, act in pairs]
    return {"tokens": tokens, "acts": acts, "quantile": number(given.get("quantile")) or 0.0}


def _list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else []


def clean_feature(feature: Any) -> dict[str, Any] | None:
    """A feature's page with every field of the type that the page expects; None if it has no id."""
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
    cleaned = {
        "id": feature["id"],
        **figures,
        "examples": examples,
        **pairs,
        "neighbours": neighbours,
        "shares": shares,
    }
    read_over = number(feature.get("tokens_seen"))
    return cleaned | ({} if read_over is None else {"tokens_seen": read_over})


def _features(finding: Finding) -> list[Any]:
    return _list(finding["data"].get("features"))


def listing(finding: Finding, total: int | None = None) -> dict[str, Any]:
    """The finding's figures, its panel of densities and, for each feature in the given order, what a list shows, with
    one example. `total` is the number of features of the dictionary, listed or not."""
    data = finding["data"]
    light = []
    for given in _features(finding)[:MOST_LISTED]:
        feature = clean_feature(given)
        if feature is not None:
            top = [token for token, _ in feature["top_logits"][:4]]
            light.append({key: feature[key] for key in ("id", "density", "max", "shares")} | {"top": top})
            light[-1]["example"] = snippet(feature)
    about = {key: finding.get(key) for key in ("id", "checkpoint", "summary", "created")}
    density = next((panel for panel in finding["panels"] if panel["kind"] == "Lines"), None)
    return {**about, **_figures(data), "density": density, "total": total, "features": light}


def _figures(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of the head, of the types that the page expects."""
    cleaned: dict[str, Any] = {key: number(data.get(key)) for key in ("tokens_seen", "fvu", "l0", "dead_share")}
    for key in ("dictionary", "site"):
        cleaned[key] = None if data.get(key) is None else words(data[key], 300)
    places = data.get("places")
    cleaned["places"] = [words(place, 300) for place in places] if isinstance(places, list) else None
    return cleaned


def listed(finding: Finding, ident: int) -> dict[str, Any] | None:
    """The page of one feature of the finding; None if it is not listed."""
    for feature in _features(finding):
        if isinstance(feature, dict) and feature.get("id") == ident:
            return clean_feature(feature)
    return None


def total(files: RunFiles, finding: Finding) -> int | None:
    """Number of features of the dictionary: the length of the finding's densities, which cover all of them."""
    shapes = files.tensor_shapes(f"findings/features/{finding['id']}.safetensors") or {}
    shape = shapes.get("density", ())
    return shape[0] if len(shape) == 1 else None


def worker_request(library: Library, run: str | None, finding: Finding, number: int) -> dict[str, Any]:
    """The worker's request for a feature that the finding does not list. Raises ClocheError if it cannot be computed."""
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
