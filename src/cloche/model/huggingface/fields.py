"""What every family needs to read a config: nothing in it may pass unseen."""

from __future__ import annotations

from typing import Any

from cloche.errors import ClocheError
from cloche.model.activations import Shifted

# transformers' names of activations, and ours; of several names for one, the first is written.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "relu": "relu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


def activation_of(config: dict[str, Any], field: str = "hidden_act") -> str:
    """Our name of the activation in `field`."""
    if config[field] not in ACTIVATIONS:
        raise ClocheError(f"{field} = {config[field]!r} is not supported; nothing was loaded.")
    return ACTIVATIONS[config[field]]


def their_activation(name: str | Shifted) -> str | None:
    """transformers' name of our activation, None where it has none."""
    return next((theirs for theirs, ours in ACTIVATIONS.items() if ours == name), None)


def check_config(config: dict[str, Any], understood: dict[str, Any], ignored: frozenset[str] = frozenset()) -> None:
    """Raise for any config key that is neither read, nor ignored by right, nor at the one value we implement."""
    for key, value in config.items():
        if key in ignored or key.startswith("_"):
            continue
        if key not in understood:
            raise ClocheError(
                f"the field {key!r} ({value!r}) is not understood, and might change the model; nothing was loaded."
            )
        only = understood[key]
        if only is not ... and value != only:
            raise ClocheError(f"{key} = {value!r} is not supported (only {only!r} is); nothing was loaded.")


def check_complete(config: dict[str, Any], required: tuple[str, ...]) -> None:
    """Raise for a field without which the architecture is not known."""
    missing = [key for key in required if config.get(key) is None]
    if missing:
        raise ClocheError(f"the field {missing[0]!r} is missing, so the model is not known; nothing was loaded.")


# Fields that say nothing about what the network computes from ids to logits.
IGNORED = frozenset({
    "_name_or_path", "architectures", "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "auto_map",
    "bos_token_id", "cache_implementation", "classifier_dropout", "dtype", "embd_pdrop", "eos_token_id", "cloche",
    "hidden_dropout", "hidden_dropout_prob", "initializer_range", "model_type", "n_ctx", "name_or_path",
    "output_router_logits", "pad_token_id", "pretraining_tp", "reorder_and_upcast_attn", "resid_pdrop",
    "router_aux_loss_coef", "router_jitter_noise", "sep_token_id", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "task_specific_params", "tokenizer_class",
    "torch_dtype", "transformers_version", "use_cache",
})  # fmt: skip
