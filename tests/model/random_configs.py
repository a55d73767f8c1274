"""Random configurations of the supported families, each from transformers' own config class."""

from __future__ import annotations

import random
from typing import Any

from family_table import FAMILIES, SOME_WINDOWS, scaled

NAMES = list(dict.fromkeys(family for family, _ in FAMILIES.values()))
SCALINGS: list[tuple[str, dict[str, Any]]] = [
    ("default", {}),
    ("linear", {"factor": 2.5}),
    ("dynamic", {"factor": 3.0}),
    (
        "llama3",
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 13},
    ),
    ("yarn", {"factor": 4.0, "original_max_position_embeddings": 16}),
]


def random_config(number: int) -> tuple[str, dict[str, Any]]:
    """(family, fields) of this number; the first numbers meet every family."""
    draw, family = random.Random(number), NAMES[number % len(NAMES)]
    heads = draw.choice([2, 4, 6])
    size = draw.choice(
        [8, 12] if family == "GPTNeoX" else [4, 8, 12]
    )  # half of four is one pair, which no base changes
    fields: dict[str, Any] = {
        "vocab_size": draw.randrange(20, 70),
        "num_hidden_layers": draw.choice([2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice([n for n in (1, 2, heads) if heads % n == 0]),
        "head_dim": size,
        "hidden_size": heads * size,
        "intermediate_size": 4 * draw.randrange(4, 12),
        "tie_word_embeddings": draw.random() < 0.5,
    }
    return family, fields | _own(family, draw)


def _own(family: str, draw: random.Random) -> dict[str, Any]:
    """What only some families know."""
    bias, window = draw.random() < 0.5, draw.randrange(2, 7)
    eps = {"rms_norm_eps": draw.choice([1e-6, 1e-5, 1e-2])}
    activation = {"hidden_act": draw.choice(["silu", "gelu", "gelu_pytorch_tanh", "relu"])}
    kind, scaling = draw.choice(SCALINGS)
    rope = scaled(kind, **scaling)
    experts = {"num_experts_per_tok": draw.choice([1, 2])}
    softcaps = {"final_logit_softcapping": draw.choice([None, 3.0])}
    gemma = softcaps | eps | {"query_pre_attn_scalar": draw.choice([3, 5, 20]), "sliding_window": window}
    own: dict[str, dict[str, Any]] = {
        "Llama": rope | activation | eps | {"attention_bias": bias, "mlp_bias": draw.random() < 0.5},
        "GPT2": {
            "n_inner": draw.choice([None, 30]),
            "activation_function": draw.choice(["gelu_new", "gelu", "relu"]),
            "layer_norm_epsilon": draw.choice([1e-5, 1e-2]),
        },
        "GPTNeoX": {
            "use_parallel_residual": draw.random() < 0.5,
            "attention_bias": bias,
            "layer_norm_eps": draw.choice([1e-5, 1e-2]),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": draw.choice([500.0, 1e4]),
                "partial_rotary_factor": draw.choice([0.5, 1.0]),
            },
        },
        "Mistral": rope | activation | eps | {"sliding_window": draw.choice([None, window])},
        "Qwen2": rope | eps | draw.choice([{}, SOME_WINDOWS]),
        "Qwen3": rope | eps | {"attention_bias": bias} | draw.choice([{}, SOME_WINDOWS]),
        "Phi3": eps | activation | {"sliding_window": draw.choice([None, window])},
        "Olmo2": rope | eps | {"attention_bias": bias},
        "Gemma2": gemma | {"attention_bias": bias, "attn_logit_softcapping": draw.choice([None, 2.0])},
        "Gemma3Text": gemma | {"attention_bias": bias, "sliding_window_pattern": draw.choice([2, 3])},
        "Mixtral": rope | eps | experts | {"num_local_experts": draw.choice([3, 4])},
        "Qwen3Moe": rope
        | eps
        | experts
        | {
            "num_experts": draw.choice([3, 5]),
            "moe_intermediate_size": 12,
            "norm_topk_prob": draw.random() < 0.5,
            "mlp_only_layers": draw.choice([[], [0]]),
        },
        "GptOss": eps | experts | {"num_local_experts": 4, "sliding_window": window, "swiglu_limit": 0.1},
        "ShiftedReluLlama": {
            "hidden_act_shift": draw.choice([0.0, 0.2]),
            "norm_output_relu_shift": draw.choice([0.1, 0.4]),
        },
    }
    return own[family]
