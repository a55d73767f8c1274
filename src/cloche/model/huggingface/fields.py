"""What every family needs to read a config: nothing in it may pass unseen, and nothing of the wrong kind be read."""

from __future__ import annotations

from typing import Any

from cloche.errors import FileMissing, ModelUnsupported, shown
from cloche.model.huggingface.harmless import IGNORED, OFF
from cloche.model.maps.activations import Shifted
from cloche.part import LARGEST, LARGEST_SIZE, SMALLEST

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

# What the fields that families read may hold. One that may be null is given with a question mark.
KINDS = {
    "a whole number above zero": """
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads? head_dim?
        max_position_embeddings original_max_position_embeddings? sliding_window? num_local_experts num_experts_per_tok
        experts_per_token moe_intermediate_size decoder_sparse_step sliding_window_pattern n_embd n_layer n_head n_positions
        n_inner? initial_context_length
    """,
    "a whole number": "num_experts max_window_layers?",
    "a number above zero": """
        rms_norm_eps layer_norm_eps layer_norm_epsilon rope_theta? rotary_emb_base rotary_pct partial_rotary_factor?
        query_pre_attn_scalar final_logit_softcapping? attn_logit_softcapping? swiglu_alpha swiglu_limit rope_local_base_freq?
        factor? low_freq_factor high_freq_factor attention_factor? beta_fast? beta_slow? mscale? mscale_all_dim?
    """,
    "a number": "hidden_act_shift? norm_output_relu_shift?",
    "true or false": """
        tie_word_embeddings attention_bias mlp_bias use_sliding_window norm_topk_prob use_parallel_residual truncate
        scale_attn_weights scale_attn_by_inverse_layer_idx
    """,
    "a name": "model_type hidden_act hidden_activation activation_function rope_type? type?",
    "an object": "rope_parameters? rope_scaling? quantization_config?",
    "a list of whole numbers": "mlp_only_layers?",
    "a list of names": "layer_types?",
    "a list of numbers above zero": "short_factor long_factor",
}
KIND_OF = {name.rstrip("?"): (kind, name.endswith("?")) for kind, names in KINDS.items() for name in names.split()}


def _is(kind: str, value: Any) -> bool:
    if kind.startswith("a list of "):
        single = {"whole numbers": "a whole number", "names": "a name"}.get(kind[10:], "a number above zero")
        return isinstance(value, list) and all(_is(single, item) for item in value)
    if isinstance(value, bool) or kind == "true or false":
        return isinstance(value, bool) and kind == "true or false"
    if kind.startswith("a whole number"):
        return isinstance(value, int) and int("above zero" in kind) <= value <= LARGEST_SIZE
    if kind.startswith("a number"):
        return isinstance(value, int | float) and (SMALLEST if "above zero" in kind else -LARGEST) <= value <= LARGEST
    return isinstance(value, dict if kind == "an object" else str)


def check_kinds(config: dict[str, Any]) -> None:
    """Raise for a field that is read and holds what it cannot mean: a text for a size, zero heads, an epsilon without end."""
    for name, value in config.items():
        kind, null = KIND_OF.get(name, ("", True))
        if kind and not (value is None and null) and not _is(kind, value):
            reach = f" of at most {LARGEST_SIZE:,}" if kind.startswith("a whole number") else ""
            raise ModelUnsupported(f"{name} = {shown(value)} must be {kind}{reach}; nothing was loaded.")


def activation_of(config: dict[str, Any], field: str = "hidden_act") -> str:
    """Our name of the activation in `field`."""
    if config[field] not in ACTIVATIONS:
        raise ModelUnsupported(f"{field} = {shown(config[field])} is not supported; nothing was loaded.")
    return ACTIVATIONS[config[field]]


def their_activation(name: str | Shifted) -> str | None:
    """transformers' name of our activation, None where it has none."""
    return next((theirs for theirs, ours in ACTIVATIONS.items() if ours == name), None)


def check_config(config: dict[str, Any], understood: dict[str, Any]) -> None:
    """Raise for any config key that is neither read, nor harmless, nor at the one value we implement, and for what is read
    and is not of its kind."""
    for key, value in config.items():
        if key in understood:
            only = understood[key]
            if only is not ... and value != only:
                raise ModelUnsupported(
                    f"{key} = {shown(value)} is not supported (only {only!r} is); nothing was loaded."
                )
        elif key in OFF:
            if value not in OFF[key]:
                raise ModelUnsupported(
                    f"{key} = {shown(value)} is not supported here (only {OFF[key][0]!r} is); nothing was loaded."
                )
        elif key not in IGNORED and not key.startswith("_"):
            raise ModelUnsupported(
                f"the field {key!r} ({shown(value)}) is not understood, and might change the model; nothing was loaded."
            )
    check_kinds({key: value for key, value in config.items() if key in understood})


def check_complete(config: dict[str, Any], required: tuple[str, ...]) -> None:
    """Raise for a field without which the architecture is not known."""
    missing = [key for key in required if config.get(key) is None]
    if missing:
        raise FileMissing(f"the field {missing[0]!r} is missing, so the model is not known; nothing was loaded.")
