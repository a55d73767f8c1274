"""Folders that cloche wrote, opened in nnsight: what goes in and comes out of a layer's modules, read by `read_cache` under our
names, holds the same numbers.

    bench/.venvs/nnsight/bin/python -m bench.bridges.nnsight
"""

from __future__ import annotations

from typing import Any

import torch
from nnsight import NNsight
from transformers import PreTrainedModel

from bench.bridges.models import IDS, compare, written_by_us
from bench.rounds import table
from cloche.model import read_cache

LAYERS = {"gpt2": "transformer.h", "llama": "model.layers", "gpt_neox": "gpt_neox.layers"}
MODULES = {  # in the order of the pass: nnsight hands values on as they are computed
    "gpt2": ("attn.c_proj.input", "attn.output", "mlp.c_proj.input", "mlp.output"),
    "llama": ("self_attn.o_proj.input", "self_attn.output", "mlp.down_proj.input", "mlp.output"),
    "gpt_neox": ("attention.dense.input", "attention.output", "mlp.dense_4h_to_h.input", "mlp.output"),
}


def cache_of(name: str, model: PreTrainedModel) -> dict[str, Any]:
    wrapped, layers = NNsight(model), LAYERS[name]
    paths = [
        f"{layers}.{layer}.{inside}"
        for layer in range(model.config.num_hidden_layers)
        for inside in ("input", *MODULES[name], "output")
    ]
    with wrapped.trace(IDS):
        cache = {path: _at(wrapped, path) for path in paths}.save()
        logits = wrapped.output.logits.save()
    return cache | {"lm_head.output": logits}


def _at(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = model[int(name)] if name.isdecimal() else getattr(model, name)
    return model


@torch.no_grad()
def main() -> None:
    rows = []
    for name, net, model in written_by_us():
        theirs = read_cache(net, cache_of(name, model))
        sites, worst = compare(net, theirs)
        rows.append([name, str(sites), f"{worst:.1e}", *(theirs.notes or ["none"])])
    print(table(["family", "sites", "largest difference", "names without a site"], rows))


if __name__ == "__main__":
    main()
