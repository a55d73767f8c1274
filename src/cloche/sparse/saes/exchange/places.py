"""Names of activations in TransformerLens and in cloche, for those with equal values."""

from __future__ import annotations

import re
from typing import Any

# A normalised input (ln2.hook_normalized) has no counterpart: theirs is before the norm's weights, ours after them.
_HOOKS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_z": "z",
}
_SITES = {site: hook for hook, site in _HOOKS.items()}
_HOOK = re.compile(r"blocks\.([0-9]{1,6})\.([\w.]+)")
_SITE = re.compile(r"(\w+)\[(\d+)\](?:\.head\((\d+)\))?")
_CHANGED = ("center_writing_weights", "fold_ln", "fold_value_biases", "refactor_factored_attn_matrices")


def site_of(hook_name: Any, head: Any = None, model_options: Any = None) -> str | None:
    """Site of a hook (or of one head of it); None if there is no such site, or if the model was loaded with options that
    change its activations (`center_writing_weights` and the like)."""
    match = _HOOK.fullmatch(hook_name) if isinstance(hook_name, str) else None
    if not match or match[2] not in _HOOKS:
        return None
    if isinstance(model_options, dict) and any(model_options.get(option) for option in _CHANGED):
        return None
    site = f"{_HOOKS[match[2]]}[{match[1]}]"
    if head is None:
        return site
    is_head = type(head) is int and 0 <= head < 1 << 16 and match[2] == "attn.hook_z"
    return f"{site}.head({head})" if is_head else None


def hook_of(site: str | None) -> tuple[str, int | None] | None:
    """Hook of a site, and the head; None if TransformerLens has no hook with equal values."""
    match = _SITE.fullmatch(site or "")
    if not match or match[1] not in _SITES or (match[3] and match[1] != "z"):
        return None
    return f"blocks.{match[2]}.{_SITES[match[1]]}", None if match[3] is None else int(match[3])
