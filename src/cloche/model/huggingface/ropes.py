"""Rotary positions as a config says them (`rope_parameters`, or `rope_scaling` in older files), and back."""

from __future__ import annotations

import math
from typing import Any

from cloche.errors import ModelUnsupported, shown
from cloche.model.huggingface.fields import check_config
from cloche.model.positions.encodings import RoPE
from cloche.model.positions.scalings import DynamicScaling, LinearScaling, Llama3Scaling, LongRoPE, Scaling, YaRN

PLAIN = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
LENGTH = "original_max_position_embeddings"
OPTIONAL: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": (),
    "dynamic": (),
    "llama3": (LENGTH,),
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "finetuned", LENGTH),
    "longrope": ("factor", "attention_factor", LENGTH),
}
NEEDED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
}


def parameters_of(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary parameters of a config, whichever way it spells them."""
    for name in ("rope_scaling", "rope_parameters"):
        if config.get(name):
            given: dict[str, Any] = config[name]
            return given
    return {}


def read_rope(config: dict[str, Any], parameters: dict[str, Any] | None = None, theta: float = 10_000.0) -> RoPE:
    """The encoding a config describes; `theta` where it gives none. Raises ClocheError naming what is not understood."""
    given = parameters_of(config) if parameters is None else parameters
    kind = given.get("rope_type") or given.get("type") or "default"
    if not isinstance(kind, str) or kind not in NEEDED:
        raise ModelUnsupported(
            f"rope_type = {shown(kind)} is not supported (only {', '.join(NEEDED)} are); nothing was loaded."
        )
    check_config(given, dict.fromkeys((*PLAIN, *NEEDED[kind], *OPTIONAL[kind]), ...))
    given = {name: value for name, value in given.items() if value is not None}
    if missing := [name for name in NEEDED[kind] if name not in given]:
        raise ModelUnsupported(f"rope_type = {kind!r} needs the field {missing[0]!r}; nothing was loaded.")
    theta = given.get("rope_theta") or config.get("rope_theta") or theta
    share = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    try:
        scaling = _scaling(kind, given, config)
    except (TypeError, ValueError, ArithmeticError):
        raise ModelUnsupported(
            f"rope_parameters = {shown(given, 200)} cannot be computed with; nothing was loaded."
        ) from None
    return RoPE(theta, scaling, None if share in (None, 1, 1.0) else share)


def _scaling(kind: str, given: dict[str, Any], config: dict[str, Any]) -> Scaling | None:
    longest: int = config["max_position_embeddings"]
    length: int = config.get(LENGTH) or given.get(LENGTH) or longest
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(given["factor"])
    if kind == "dynamic":
        return DynamicScaling(given["factor"], longest)
    if kind == "llama3":
        return Llama3Scaling(given["factor"], given["low_freq_factor"], given["high_freq_factor"], length)
    if kind == "yarn":
        return YaRN(
            given["factor"],
            length,
            _yarn_attention(given),
            given.get("beta_fast") or 32.0,
            given.get("beta_slow") or 1.0,
            given.get("truncate", True),
        )
    factor = given.get("factor") or longest / length
    implied = math.sqrt(1 + math.log(factor) / math.log(length)) if factor > 1 else 1.0
    short, long = (tuple(float(f) for f in given[name]) for name in ("short_factor", "long_factor"))
    return LongRoPE(short, long, length, given.get("attention_factor", implied))


def _yarn_attention(given: dict[str, Any]) -> float | None:
    if "attention_factor" not in given and given.get("mscale") and given.get("mscale_all_dim"):
        one, all_dim = (
            YaRN.grown(given["factor"], given["mscale"]),
            YaRN.grown(given["factor"], given["mscale_all_dim"]),
        )
        return one / all_dim
    return given.get("attention_factor")


def write_rope(rope: RoPE) -> dict[str, Any]:
    """The config fields that describe the encoding."""
    parameters: dict[str, Any] = {"rope_theta": rope.theta, "rope_type": "default"}
    fields: dict[str, Any] = {"rope_theta": rope.theta, "rope_parameters": parameters}
    if rope.share is not None:
        parameters["partial_rotary_factor"] = rope.share
    scaling = rope.scaling
    if isinstance(scaling, LinearScaling):
        parameters |= {"rope_type": "linear", "factor": scaling.factor}
    elif isinstance(scaling, DynamicScaling):
        parameters |= {"rope_type": "dynamic", "factor": scaling.factor}
        fields["max_position_embeddings"] = scaling.length
    elif isinstance(scaling, Llama3Scaling):
        parameters |= {"rope_type": "llama3", "factor": scaling.factor, LENGTH: scaling.length}
        parameters |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
        fields["max_position_embeddings"] = int(scaling.factor * scaling.length)
    elif isinstance(scaling, YaRN):
        parameters |= {"rope_type": "yarn", "factor": scaling.factor, LENGTH: scaling.length}
        parameters |= {"beta_fast": scaling.fast, "beta_slow": scaling.slow, "truncate": scaling.whole}
        if scaling.attention is not None:
            parameters["attention_factor"] = scaling.attention
        fields["max_position_embeddings"] = int(scaling.factor * scaling.length)
    elif isinstance(scaling, LongRoPE):
        parameters |= {"rope_type": "longrope", "short_factor": list(scaling.short), "long_factor": list(scaling.long)}
        parameters |= {"attention_factor": scaling.attention, LENGTH: scaling.length}
    return fields
