"""Small models of three families with random weights, as folders in the Hugging Face layout that cloche wrote."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from cloche.model import Network, Result, load_network, save_network

AGREE = 1e-4  # largest difference of an activation, as a share of the largest of its site
IDS = torch.tensor([[3, 14, 15, 9, 26, 5], [35, 8, 9, 7, 9, 3]])
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "bos_token_id": 0}
OTHERS = {"max_position_embeddings": 32, "eos_token_id": 0}
KINDS = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **OTHERS, intermediate_size=48, num_key_value_heads=2)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, **OTHERS, intermediate_size=64)),
}


def written_by_us() -> Iterator[tuple[str, Network, PreTrainedModel]]:
    """Each family: our network, and transformers' model of the folder that we wrote from it."""
    for name, kind in KINDS.items():
        torch.manual_seed(0)
        made = kind().eval()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)  # biases and gains too
        with tempfile.TemporaryDirectory() as folder:
            made.save_pretrained(Path(folder) / "theirs")
            net = load_network(Path(folder) / "theirs")
            save_network(net, Path(folder) / "ours")
            yield name, net, AutoModelForCausalLM.from_pretrained(Path(folder) / "ours").eval()


def compare(net: Network, theirs: Result) -> tuple[int, float]:
    """How many sites both have, and the largest difference; logits too. Raises SystemExit if they differ."""
    sites = list(theirs.plan.saves)
    ours = net.run(IDS, save=sites)
    worst = 0.0
    for name, a, b in [("logits", ours.logits, theirs.logits), *((str(s), ours[s], theirs[s]) for s in sites)]:
        seen = a.isfinite()  # hidden scores are -inf
        if a.shape != b.shape or not torch.equal(seen, b.isfinite()):
            raise SystemExit(f"{name}: another shape or other hidden scores: {list(a.shape)} and {list(b.shape)}")
        off = float((a[seen] - b[seen]).abs().max() / a[seen].abs().max())
        if not off <= AGREE:
            raise SystemExit(f"{name}: differs by {off:.1e}")
        worst = max(worst, off)
    return len(sites), worst
