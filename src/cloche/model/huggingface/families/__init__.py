"""One file for each Hugging Face family: how its config describes a tree of parts, and what it calls the tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.model.huggingface.families.family import Family
    from cloche.model.huggingface.families.gemma2 import Gemma2
    from cloche.model.huggingface.families.gemma3 import Gemma3
    from cloche.model.huggingface.families.gpt2 import GPT2
    from cloche.model.huggingface.families.gpt_neox import GPTNeoX
    from cloche.model.huggingface.families.gpt_oss import GPTOSS
    from cloche.model.huggingface.families.llama import Llama
    from cloche.model.huggingface.families.llama_shifted_relu import ShiftedReluLlama
    from cloche.model.huggingface.families.mistral import Mistral
    from cloche.model.huggingface.families.mixtral import Mixtral
    from cloche.model.huggingface.families.olmo2 import Olmo2
    from cloche.model.huggingface.families.phi3 import Phi3
    from cloche.model.huggingface.families.qwen2 import Qwen2
    from cloche.model.huggingface.families.qwen3 import Qwen3
    from cloche.model.huggingface.families.qwen3_moe import Qwen3MoE

__all__ = [
    "GPT2",
    "GPTOSS",
    "Family",
    "GPTNeoX",
    "Gemma2",
    "Gemma3",
    "Llama",
    "Mistral",
    "Mixtral",
    "Olmo2",
    "Phi3",
    "Qwen2",
    "Qwen3",
    "Qwen3MoE",
    "ShiftedReluLlama",
]

__getattr__ = lazy(__name__)
