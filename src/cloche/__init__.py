"""Grow language models under glass: train a tokenizer, pretrain, and at any step look inside.

Importing this package imports no torch: each name below is imported from its package when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.errors import ClocheError
    from cloche.glass import Glass, load
    from cloche.interp import trace
    from cloche.model import (
        GLU,
        LM,
        MLP,
        Attention,
        Block,
        Causal,
        Full,
        LayerNorm,
        Learned,
        Network,
        NoPosition,
        RMSNorm,
        RoPE,
        Stack,
        Unembed,
        Window,
        site,
    )
    from cloche.runs import Run, verify
    from cloche.text import Tokenizer, train_bpe
    from cloche.train import Recipe, Trainer

__version__ = "0.1.0"

__all__ = [
    "GLU",
    "LM",
    "MLP",
    "Attention",
    "Block",
    "Causal",
    "ClocheError",
    "Full",
    "Glass",
    "LayerNorm",
    "Learned",
    "Network",
    "NoPosition",
    "RMSNorm",
    "Recipe",
    "RoPE",
    "Run",
    "Stack",
    "Tokenizer",
    "Trainer",
    "Unembed",
    "Window",
    "__version__",
    "load",
    "site",
    "trace",
    "train_bpe",
    "verify",
]

_THEIRS = ("AutoModel", "AutoModelForCausalLM", "HookedTransformer", "LanguageModel", "from_pretrained", "pipeline")
_exported = lazy(__name__)


def __getattr__(name: str) -> Any:
    try:
        return _exported(name)
    except AttributeError as error:
        hint = "; cloche.load(folder) opens a model" if name in _THEIRS else ""
        if name == "logit_lens":
            hint = "; it is cloche.interp.logit_lens(glass, prompt)"
        raise AttributeError(f"{error}{hint}") from None
