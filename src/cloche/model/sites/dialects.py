"""Reads sites in other dialects: TransformerLens' hook names and dotted layers. Only ours is written.

A hook is read if it holds the same numbers as our site in a model whose weights neither library has folded. One that
is merely similar raises an error that names our nearest site (`words.py`).
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

from cloche.model.sites.site_value import AXES
from cloche.words import IN_A_BLOCK, IN_THE_MODEL

IN_BLOCKS = {  # hook of a block -> our site of its layer
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "ln1.hook_scale": "attn_scale",
    "ln2.hook_scale": "mlp_scale",
    "attn.hook_q": "q_pre",
    "attn.hook_k": "k_pre",
    "attn.hook_v": "v",
    "attn.hook_rot_q": "q",
    "attn.hook_rot_k": "k",
    "attn.hook_attn_scores": "scores",
    "attn.hook_pattern": "pattern",
    "attn.hook_z": "z",
    "attn.hook_result": "head_out",
    "mlp.hook_pre": "mlp_pre",
    "mlp.hook_post": "mlp_act",
}
ONCE = {"hook_embed": "embed", "ln_final.hook_scale": "final_scale"}
_HOOK = re.compile(r"blocks\.(\d+)\.([\w.]+?)((?:\.head\(\d+\))?)")
_DOTTED = re.compile(r"(\w+)\.(\d+)((?:\.head\(\d+\))?)")
_PATH = re.compile(r"(?:blocks|model\.layers|layers|transformer\.h|h|gpt_neox\.layers)[.\[](\d+)\]?\.?(.*)")


def in_our_words(text: str, known: Container[str] = AXES) -> str:
    """The same site in our dialect; a text in neither dialect is returned unchanged. known: names of our sites.

    >>> from cloche.model.sites import in_our_words
    >>> in_our_words("blocks.3.attn.hook_z.head(6)"), in_our_words("resid_post.3")
    ('z[3].head(6)', 'resid_post[3]')
    """
    text = text.strip()
    if (match := _HOOK.fullmatch(text)) and match[2] in IN_BLOCKS:
        return f"{IN_BLOCKS[match[2]]}[{match[1]}]{match[3]}"
    if (match := _DOTTED.fullmatch(text)) and match[1] in known:
        return f"{match[1]}[{match[2]}]{match[3]}"
    return ONCE.get(text, text)


def nearest(text: str) -> str | None:
    """Our site nearest to another library's name; None if it is not one of their names."""
    text = text.strip().removesuffix(".output").removesuffix(".output[0]").removesuffix(".input")
    if match := _PATH.fullmatch(text):
        name = IN_A_BLOCK.get(match[2])
        return None if name is None else f"{name}[{match[1]}]"
    return IN_THE_MODEL.get(text)


def unlike_here(text: str, unlike: dict[str, str]) -> str | None:
    """What another library means by a hook, if that differs from our site of its name in this model."""
    match = _HOOK.fullmatch(text.strip())
    return unlike.get(match[2] if match else text.strip())


def unlike(position: Any, mixers: list[Any]) -> dict[str, str]:
    """The hooks that differ from our site of that name in a model with these modules, and what they hold."""
    found: dict[str, str] = {}
    if position is not None:
        found["hook_embed"] = "the embedding before its positions are added"
    if any(getattr(mix, "q_norm", None) is not None for mix in mixers):
        found |= {f"attn.hook_{name}": f"{name} before its norm" for name in "qk"}
    return found
