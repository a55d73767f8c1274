"""GPT-2 checkpoints as a composition of parts."""

from __future__ import annotations

from typing import Any

from cloche.errors import ModelUnsupported
from cloche.model.bodies.stack import Block, Stack
from cloche.model.huggingface.families.family import Family
from cloche.model.huggingface.fields import check_config
from cloche.model.huggingface.rename import Rename
from cloche.model.lm import LM
from cloche.model.maps.mlp import MLP
from cloche.model.mixers.attention import Attention
from cloche.model.norms import LayerNorm
from cloche.model.positions.encodings import Learned

DEFAULTS: dict[str, Any] = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "n_positions": 1024,
    "vocab_size": 50257,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
}
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
}

UNDERSTOOD: dict[str, Any] = {
    **dict.fromkeys([*DEFAULTS, "n_inner"], ...),
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}


class GPT2(Family):
    """GPT-2's configs and names."""

    model_type = "gpt2"
    prefix = "transformer."

    def read(self, config: dict[str, Any]) -> LM:
        check_config(config, UNDERSTOOD)
        config = DEFAULTS | config
        if config["activation_function"] not in ACTIVATIONS:
            raise ModelUnsupported(
                f"activation_function = {config['activation_function']!r} is not supported; nothing was loaded."
            )
        norm = LayerNorm(eps=config["layer_norm_epsilon"])
        width = config["n_embd"]
        mlp = MLP(ACTIVATIONS[config["activation_function"]], hidden=config.get("n_inner") or 4 * width, bias=True)
        block = Block(mix=Attention(config["n_head"], bias=True), map=mlp, norm=norm)
        return LM(
            config["vocab_size"],
            width,
            Stack(config["n_layer"], block),
            norm=norm,
            tied=config["tie_word_embeddings"],
            position=Learned(config["n_positions"]),
        )

    def write(self, spec: LM) -> dict[str, Any] | None:
        block = spec.body.block if isinstance(spec.body, Stack) and isinstance(spec.body.block, Block) else None
        if block is None or not isinstance(block.mix, Attention) or not isinstance(block.map, MLP):
            return None
        if not isinstance(spec.norm, LayerNorm) or not isinstance(spec.position, Learned):
            return None
        config: dict[str, Any] = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": self.model_type,
            "vocab_size": spec.vocab,
            "n_embd": spec.width,
            "n_layer": spec.body.depth,  # type: ignore[attr-defined]
            "n_head": block.mix.heads,
            "n_inner": block.map.hidden or 4 * spec.width,
            "n_positions": spec.position.length,
            "activation_function": next(
                (theirs for theirs, ours in ACTIVATIONS.items() if ours == block.map.activation), None
            ),
            "layer_norm_epsilon": spec.norm.eps,
            "tie_word_embeddings": spec.tied,
        }
        return config

    def names(self, spec: LM) -> list[Rename]:
        rules = [
            Rename("embed.weight", ("transformer.wte.weight",)),
            Rename("position.weight", ("transformer.wpe.weight",)),
        ]
        if not spec.tied:
            rules.append(Rename("unembed.weight", ("lm_head.weight",)))
        for kind in ("weight", "bias"):
            rules.append(Rename(f"final_norm.{kind}", (f"transformer.ln_f.{kind}",)))
            for layer in range(spec.body.depth):  # type: ignore[attr-defined]
                ours, theirs = f"body.layers.{layer}", f"transformer.h.{layer}"
                turned = kind == "weight"  # its linear maps are kept as [in, out]
                rules += [
                    Rename(f"{ours}.mix_norm.{kind}", (f"{theirs}.ln_1.{kind}",)),
                    Rename(f"{ours}.map_norm.{kind}", (f"{theirs}.ln_2.{kind}",)),
                    Rename(f"{ours}.mix.qkv.{kind}", (f"{theirs}.attn.c_attn.{kind}",), turned),
                    Rename(f"{ours}.mix.out.{kind}", (f"{theirs}.attn.c_proj.{kind}",), turned),
                    Rename(f"{ours}.map.inner.{kind}", (f"{theirs}.mlp.c_fc.{kind}",), turned),
                    Rename(f"{ours}.map.outer.{kind}", (f"{theirs}.mlp.c_proj.{kind}",), turned),
                ]
        return rules
