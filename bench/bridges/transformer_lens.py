"""Folders that cloche wrote, opened in TransformerLens: every hook with a site here holds the same numbers, read by
`read_cache`, and a Result read from its cache is a source of edits.

The cache of a tiny model goes into tests/model/golden/transformer_lens.json, which the fast tests read without the library.

    bench/.venvs/transformer_lens/bin/python -m bench.bridges.transformer_lens
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import AutoModelForCausalLM, PreTrainedModel

from bench.bridges.models import IDS, compare, written_by_us
from bench.rounds import table
from cloche import GLU, LM, Attention, Block, RoPE, Stack
from cloche.model import Network, read_cache, save_network

GOLDEN = Path(__file__).parents[2] / "tests" / "model" / "golden" / "transformer_lens.json"
SHORT = [[3, 1, 4]]


def cache_of(model: PreTrainedModel, ids: torch.Tensor) -> dict[str, Any]:
    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    return dict(bridge.run_with_cache(ids)[1].items())


def check_source(net: Network, theirs: Any) -> None:
    """Their residual stream of another prompt, put into ours at the first layer, gives that prompt's logits."""
    patched = net.run(IDS.flip(0), edits=[net.sites.resid_pre[0].replace(theirs)]).logits
    if not torch.allclose(patched, net.run(IDS).logits, atol=1e-4):
        raise SystemExit("a Result read from a cache is not a source of edits")


def write_golden() -> None:
    """The model that tests/model/test_caches.py builds."""
    net = LM(32, 8, Stack(1, Block(Attention(4, kv_heads=2, position=RoPE()), GLU(hidden=12)))).build(seed=0)
    with tempfile.TemporaryDirectory() as folder:
        save_network(net, folder)
        cache = cache_of(AutoModelForCausalLM.from_pretrained(folder).eval(), torch.tensor(SHORT))
    values = {
        name: {"shape": list(value.shape), "values": [float(f"{x:.6g}") for x in value.flatten().tolist()]}
        for name, value in cache.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    record = {"transformer_lens": version("transformer-lens"), "ids": SHORT, "cache": values}
    GOLDEN.write_text(json.dumps(record) + "\n")


@torch.no_grad()
def main() -> None:
    rows = []
    for name, net, model in written_by_us():
        theirs = read_cache(net, cache_of(model, IDS))
        sites, worst = compare(net, theirs)
        check_source(net, theirs)
        rows.append([name, str(sites), f"{worst:.1e}", *theirs.notes])
    print(table(["family", "sites", "largest difference", "hooks without a site"], rows))
    write_golden()


if __name__ == "__main__":
    main()
