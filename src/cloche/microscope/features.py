"""A features finding in two sizes: a light list to choose from, and one feature's page."""

from __future__ import annotations

from typing import Any

from cloche.errors import ClocheError

Finding = dict[str, Any]
HEAD_KEYS = ("dictionary", "site", "places", "tokens_seen", "fvu", "l0", "dead_share", "density_histogram")
SNIPPET_TOKENS = 36


def snippet(feature: dict[str, Any]) -> dict[str, Any] | None:
    """The strongest example, cut to the tokens around its peak, and where among them the peak is."""
    examples = feature.get("examples") or []
    if not examples:
        return None
    best = max(examples, key=lambda example: max(example["acts"], default=0.0))
    acts = best["acts"]
    peak = max(range(len(acts)), key=acts.__getitem__)
    start = max(0, min(peak - SNIPPET_TOKENS * 2 // 3, len(acts) - SNIPPET_TOKENS))
    end = start + SNIPPET_TOKENS
    return {"tokens": best["tokens"][start:end], "acts": acts[start:end], "peak": peak - start}


def listing(finding: Finding) -> dict[str, Any]:
    """The finding's figures, and of each feature, in the given order, what a list shows: one example of its pages' many."""
    data = finding["data"]
    light = [
        {
            "id": feature["id"],
            "density": feature.get("density"),
            "max": feature.get("max"),
            "top": [token for token, _ in (feature.get("top_logits") or [])[:4]],
            "shares": feature.get("shares"),
            "example": snippet(feature),
        }
        for feature in data.get("features", [])
    ]
    head = {key: data.get(key) for key in HEAD_KEYS}
    about = {key: finding.get(key) for key in ("id", "checkpoint", "summary", "created")}
    return {**about, **head, "features": light}


def page(finding: Finding, ident: int) -> dict[str, Any]:
    """Everything the finding holds on one feature. ClocheError when it is not among those that were reported."""
    for feature in finding["data"].get("features", []):
        if feature["id"] == ident:
            return feature
    raise ClocheError(f"Feature {ident} is not among those that this finding reports: choose one from the list.")
