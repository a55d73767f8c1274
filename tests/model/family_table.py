"""The families in several shapes each, and transformers' own model of any of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
shifted_relu = pytest.importorskip("shifted_relu")

SHARED: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
ODD = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10, "intermediate_size": 37, "vocab_size": 31}
TIED = {"tie_word_embeddings": True}
SOME_WINDOWS = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}


def scaled(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1000.0, **fields}, "max_position_embeddings": 16}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", TIED),
    "llama, keys for every head": ("Llama", {"num_key_value_heads": 4}),
    "llama, odd sizes": ("Llama", {**ODD, "num_attention_heads": 4, "hidden_size": 20}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, one bias": ("Llama", {"mlp_bias": True, "rms_norm_eps": 1e-3}),
    "llama, other theta and activation": (
        "Llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}, "hidden_act": "gelu_pytorch_tanh"},
    ),
    "gpt2": ("GPT2", {}),
    "gpt2, untied": ("GPT2", {"tie_word_embeddings": False, "n_inner": 33, "layer_norm_epsilon": 1e-3}),
    "gpt2, exact gelu": ("GPT2", {"activation_function": "gelu"}),
    "llama, linear": ("Llama", scaled("linear", factor=2.5)),
    "llama, dynamic": ("Llama", scaled("dynamic", factor=4.0)),
    "llama, llama3": (
        "Llama",
        scaled("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=13)
        | {"head_dim": 16},
    ),
    "llama, yarn": ("Llama", scaled("yarn", factor=4.0, original_max_position_embeddings=16) | {"head_dim": 16}),
    "llama, yarn, everything said": (
        "Llama",
        scaled(
            "yarn",
            factor=3.0,
            original_max_position_embeddings=12,
            beta_fast=4.0,
            beta_slow=0.5,
            mscale=0.7,
            mscale_all_dim=0.4,
            truncate=False,
        )
        | {"head_dim": 16},
    ),
    "llama, yarn, own strength": (
        "Llama",
        scaled("yarn", factor=3.0, attention_factor=1.3, original_max_position_embeddings=20),
    ),
    "llama, longrope": (
        "Llama",
        scaled(
            "longrope",
            factor=4.0,
            short_factor=[1.0, 1.5, 2.0],
            long_factor=[2.0, 3.0, 5.5],
            original_max_position_embeddings=16,
        ),
    ),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "mistral, no window": ("Mistral", {"sliding_window": None, **TIED}),
    "mistral, odd sizes": ("Mistral", {"sliding_window": 2, **ODD}),
    "qwen2": ("Qwen2", {}),
    "qwen2, some windows": ("Qwen2", {**SOME_WINDOWS, **TIED}),
    "qwen2, odd sizes": ("Qwen2", {**ODD, "head_dim": 8}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "qwen3, some windows": ("Qwen3", {"head_dim": 6, "attention_bias": True, **SOME_WINDOWS}),
    "qwen3, odd sizes": ("Qwen3", {**ODD, **TIED, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
}

NEOX_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}}
FAMILIES |= {
    "gpt_neox": ("GPTNeoX", {"hidden_size": 32}),  # heads of 8, two of their numbers rotated
    "gpt_neox, branch after branch": (
        "GPTNeoX",
        {"hidden_size": 32, "use_parallel_residual": False, **TIED, **NEOX_ROPE},
    ),
    "gpt_neox, odd sizes": (
        "GPTNeoX",
        {
            **ODD,
            "hidden_size": 42,  # ten of a head's fourteen numbers are rotated
            "attention_bias": False,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
        },
    ),
    "gpt_neox, whole heads rotated": (
        "GPTNeoX",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0, "partial_rotary_factor": 1.0}},
    ),
    "phi3": ("Phi3", {}),
    "phi3, windows and part of each head": (
        "Phi3",
        {
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "sliding_window": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
            **TIED,
        },
    ),
    "phi3, longrope": (
        "Phi3",
        {
            "original_max_position_embeddings": 10,
            "max_position_embeddings": 40,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0, 1.5, 2.0],
                "long_factor": [2.0, 3.0, 5.5],
            },
        },
    ),
    "olmo2": ("Olmo2", {}),
    "olmo2, biases": ("Olmo2", {"attention_bias": True, **TIED}),
    "olmo2, odd sizes": ("Olmo2", {**ODD, "head_dim": 8, "rms_norm_eps": 1e-3}),
}

GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 5, "sliding_window": 4, "initializer_range": 0.2}
FAMILIES |= {
    "gemma2": ("Gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2, without caps": (
        "Gemma2",
        {
            **GEMMA,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": False,
            "attention_bias": True,
        },
    ),
    "gemma2, odd sizes": ("Gemma2", {**GEMMA, **ODD, "layer_types": ["full_attention", *["sliding_attention"] * 2]}),
    "gemma3": (
        "Gemma3Text",
        {
            **GEMMA,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
            },
        },
    ),
    "gemma3, defaults": (
        "Gemma3Text",
        {"head_dim": 6, "num_hidden_layers": 7, "sliding_window": 3, "tie_word_embeddings": False},
    ),
    "gemma3, capped": ("Gemma3Text", {**GEMMA, **ODD, "final_logit_softcapping": 3.0}),
}

QWEN_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "head_dim": 8}
FAMILIES |= {
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "mixtral, windows": ("Mixtral", {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 4, **TIED}),
    "mixtral, odd sizes": (
        "Mixtral",
        {"num_local_experts": 5, "num_experts_per_tok": 5, **ODD, "intermediate_size": 36},
    ),
    "qwen3_moe": ("Qwen3Moe", QWEN_EXPERTS),
    "qwen3_moe, some layers dense": (
        "Qwen3Moe",
        {**QWEN_EXPERTS, "norm_topk_prob": True, "mlp_only_layers": [0], "attention_bias": True, **TIED},
    ),
    "qwen3_moe, odd sizes": (
        "Qwen3Moe",
        {**QWEN_EXPERTS, **ODD, "decoder_sparse_step": 2, "use_sliding_window": True, "sliding_window": 5},
    ),
}

OSS = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5}
FAMILIES |= {
    "gpt_oss": ("GptOss", OSS),
    "gpt_oss, clamped at once": (
        "GptOss",
        {
            **OSS,
            "swiglu_limit": 0.1,
            "swiglu_alpha": 1.1,
            "layer_types": ["full_attention"] * 2 + ["sliding_attention"],
        },
    ),
    "gpt_oss, odd sizes": (
        "GptOss",
        {**OSS, **ODD, "intermediate_size": 36, "num_experts_per_tok": 1, **TIED, **scaled("default")},
    ),
}


FAMILIES |= {
    "llama_shifted_relu": ("ShiftedReluLlama", {"hidden_size": 32}),
    "llama_shifted_relu, odd sizes": (
        "ShiftedReluLlama",
        {
            **ODD,
            **TIED,
            "hidden_size": 20,
            "num_attention_heads": 4,
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_act_shift": 0.1,
            "norm_output_relu_shift": 0.3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 777.0},
        },
    ),
}


# What is shared and a family's config knows nothing of.
ABSENT = {
    "GPTNeoX": ("num_key_value_heads", "head_dim"),
    "GPT2": ("num_key_value_heads", "intermediate_size", "head_dim"),
}


def theirs(name: str) -> Any:
    """transformers' model of a case."""
    return built(*FAMILIES[name])


def built(family: str, change: dict[str, Any], seed: int = 0) -> Any:
    """transformers' model of a family with these fields in place of the shared ones."""
    torch.manual_seed(seed)
    fields = SHARED | change
    fields = {k: v for k, v in fields.items() if k not in ABSENT.get(family, ())}
    home = shifted_relu if hasattr(shifted_relu, f"{family}Config") else transformers
    config = getattr(home, f"{family}Config")(**fields)
    kind = getattr(home, f"{family.removesuffix('Text')}{'LMHeadModel' if family == 'GPT2' else 'ForCausalLM'}")
    model = kind._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():  # nothing stays at a value that hides a mistake
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()
