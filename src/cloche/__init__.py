"""Grow language models under glass: train a tokenizer, pretrain, and at any step look inside.

Importing this package costs nothing: each name below is fetched from its room when it is first asked for (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS: dict[str, tuple[str, ...]] = {
    "cloche.errors": ("ClocheError",),
    "cloche.glass": ("Glass", "load"),
    "cloche.runs": ("Run", "verify"),
    "cloche.text": ("Tokenizer", "train_bpe"),
    "cloche.train": ("Recipe", "Trainer"),
    "cloche.model": (
        *("LM", "Stack", "Block", "Attention", "MLP", "GLU", "RMSNorm", "LayerNorm", "Unembed"),
        *("RoPE", "NoPosition", "Learned", "Causal", "Window", "Full", "Network", "site"),
    ),
}
_HOMES: dict[str, str] = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = ["__version__", *_HOMES]
_THEIRS = ("AutoModel", "AutoModelForCausalLM", "HookedTransformer", "LanguageModel", "from_pretrained", "pipeline")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        hint = "; cloche.load(folder) opens a model" if name in _THEIRS else ""
        if name == "logit_lens":
            hint = "; it is cloche.interp.logit_lens(glass, prompt)"
        raise AttributeError(f"module 'cloche' has no attribute {name!r}{hint}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
