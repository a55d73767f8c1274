"""One rule a tensor: which checkpoint tensors make one of ours, and back without losing a bit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from glasshouse.errors import GlasshouseError


@dataclass(frozen=True)
class Rename:
    """`ours` is the tensors `theirs`, joined by rows; each transposed first where they keep [in, out]."""

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False


def to_ours(tensors: dict[str, Tensor], rules: Iterable[Rename], where: str) -> dict[str, Tensor]:
    """Our state dict from theirs. Raises GlasshouseError naming any tensor that is missing or not understood."""
    left = dict(tensors)
    out = {}
    for rule in rules:
        missing = [name for name in rule.theirs if name not in left]
        if missing:
            raise GlasshouseError(
                f"{where} lacks the tensor {missing[0]!r} that its config promises; the file is not whole."
            )
        parts = [left.pop(name) for name in rule.theirs]
        parts = [part.T if rule.transposed else part for part in parts]
        out[rule.ours] = torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()
    if left:
        raise GlasshouseError(
            f"{where} holds a tensor {min(left)!r} that its config does not explain; nothing was loaded."
        )
    return out


def to_theirs(state: dict[str, Tensor], rules: Iterable[Rename], rows: dict[str, list[int]]) -> dict[str, Tensor]:
    """Their state dict from ours; `rows` gives, for a joined tensor, how many rows each part has."""
    out = {}
    for rule in rules:
        whole = state[rule.ours]
        parts = whole.split(rows[rule.ours]) if len(rule.theirs) > 1 else (whole,)
        for name, part in zip(rule.theirs, parts, strict=True):
            out[name] = (part.T if rule.transposed else part).contiguous().clone()
    return out


def check_config(config: dict[str, object], understood: dict[str, object], ignored: frozenset[str]) -> None:
    """Raise for any config key that is neither read, nor ignored by right, nor at the one value we implement."""
    for key, value in config.items():
        if key in ignored or key.startswith("_"):
            continue
        if key not in understood:
            raise GlasshouseError(
                f"the field {key!r} ({value!r}) is not understood, and might change the model; nothing was loaded."
            )
        only = understood[key]
        if only is not ... and value != only:
            raise GlasshouseError(f"{key} = {value!r} is not supported (only {only!r} is); nothing was loaded.")


def check_complete(config: dict[str, object], required: tuple[str, ...]) -> None:
    """Raise for a field without which the architecture is not known."""
    missing = [key for key in required if config.get(key) is None]
    if missing:
        raise GlasshouseError(f"the field {missing[0]!r} is missing, so the model is not known; nothing was loaded.")


# Fields that say nothing about what the network computes from ids to logits.
IGNORED = frozenset({
    "_name_or_path", "architectures", "attention_dropout", "attn_pdrop", "bos_token_id", "dtype", "embd_pdrop", "eos_token_id",
    "glasshouse", "initializer_range", "model_type", "n_ctx", "name_or_path", "pad_token_id", "pretraining_tp",
    "reorder_and_upcast_attn", "resid_pdrop", "sep_token_id", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "task_specific_params", "tokenizer_class", "torch_dtype",
    "transformers_version", "use_cache",
})  # fmt: skip
