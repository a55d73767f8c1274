"""CPU time of path patching, every edge from a head to q, k or v of a later head, beside TransformerLens' own tool.

Two shapes of Llama with random weights, the same weights on both sides, and two pairs of prompts: of random tokens, which
differ everywhere, and alike up to the middle. TransformerLens runs `patching.get_act_patch_direct_path`: one forward for each
edge, whichever it is, so only head 0 of each layer is timed as a sender; its caches are outside the clock. cloche is timed over
the edges from all heads into q, and over all that there are, embeddings, MLPs and logits included, with the two saved passes
inside the clock. All times are by the edge. `frozen` is the path sender, receiver, logits with all else kept, which
TransformerLens does not have. Sides whose logit differences are not the same, of q, k and v, are refused.

    python -m bench.setup path_patching && bench/.venvs/path_patching/bin/python -m bench.interp.path_patching [--rounds 3]
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from bench.model.save_cost import VOCAB, Shape, bare, same_in_cloche
from bench.rounds import Side, Spread, asked, interleave, ratio, table, write
from cloche.interp.patching.edges import EdgePasses, Mode, receivers, senders
from cloche.model import Network

SHAPES = [Shape(6, 64, 8, 32, 1), Shape(6, 256, 8, 32, 1)]
WANTED = 10.0  # times TransformerLens' CPU time
AGREE = 1e-4  # largest difference between two sides' readings, in nats
Work = Callable[[], Tensor]


def prompts(shape: Shape, alike: bool) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    base, source = (torch.randint(0, VOCAB, (1, shape.length), generator=draw) for _ in range(2))
    if alike:
        source = torch.cat([base[:, : shape.length // 2], source[:, shape.length // 2 :]], 1)
    return base, source


def read(rows: Tensor) -> Tensor:
    return rows[:, 3] - rows[:, 5]


def in_cloche(net: Network, base: Tensor, source: Tensor, part: str = "", mode: Mode = "free") -> tuple[Work, int]:
    """Values [sender, receiver] of edges from heads to `part` of later heads, or of all edges; and how many there are."""
    writing, wanted = senders(net), receivers(net, "all")
    if part:
        writing = [each for each in writing if each.column[0] == "h"]
        wanted = [each for each in wanted if each.part == part]
    count = sum(each.order < other.order for each in writing for other in wanted)
    return lambda: EdgePasses(net, base, source, mode).values(writing, wanted, read), count


def with_transformer_lens(model: LlamaForCausalLM, base: Tensor, source: Tensor, part: str) -> tuple[Work, int]:
    """Values [layer of the sender's head 0, receiver] by its own tool, 0 where there is no edge; and how many there are."""
    from transformer_lens import patching
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bridge: Any = build_bridge_from_module(copy.deepcopy(model), "LlamaForCausalLM", hf_config=model.config)
    kept = [name for name in bridge.hook_dict if name.endswith("attn.hook_z")]
    (_, clean), (_, corrupt) = (bridge.run_with_cache(ids, names_filter=kept) for ids in (source, base))
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads

    def metric(logits: Tensor) -> Tensor:
        return read(logits[:, -1])[0]

    def work() -> Tensor:
        by = patching.get_act_patch_direct_path
        return torch.stack(
            [by(bridge, base, clean, corrupt, metric, layer, 0, part, False).flatten() for layer in range(layers)]
        )

    return work, heads * layers * (layers - 1) // 2


def same(ours: Tensor, theirs: Tensor) -> None:
    ours, exists = ours.unflatten(0, (len(theirs), -1))[:, 0], theirs != 0
    if not bool(exists.any()) or float((ours - theirs)[exists].abs().max()) > AGREE:
        raise SystemExit(f"the edges differ by {float((ours - theirs)[exists].abs().max()):.2g} nats")


def compared(shape: Shape, alike: bool, rounds: int) -> tuple[list[str], dict[str, Any]]:
    base, source = prompts(shape, alike)
    model = bare(shape)
    net = same_in_cloche(model)
    (work, edges), (every, all_edges) = in_cloche(net, base, source, "q"), in_cloche(net, base, source)
    frozen, _ = in_cloche(net, base, source, mode="frozen")
    sides = [Side("same edges", work, edges), Side("all", every, all_edges), Side("all, frozen", frozen, all_edges)]
    found: dict[str, Any] = {"edges": edges, "all_edges": all_edges}
    if find_spec("transformer_lens"):
        for part in "qkv":
            same(in_cloche(net, base, source, part)[0](), with_transformer_lens(model, base, source, part)[0]())
        sides.append(Side("TransformerLens", *with_transformer_lens(model, base, source, "q")))
    interleave(sides, rounds, warm=0)
    row = [f"{shape}, {'alike to the middle' if alike else 'all tokens differ'}"]
    for side in sides:
        found[side.name] = Spread.of(1e3 * seconds / side.units for seconds in side.cpu).record()
        row.append(f"{found[side.name]['median']:.3f}")
    if find_spec("transformer_lens"):
        for side in sides[:2]:
            by = ratio(sides[-1], side, "cpu")
            found[f"TransformerLens / {side.name}"] = by.record()
            row.append(str(by))
    return row, found


def main() -> None:
    options = asked(__doc__, rounds=3, threads=1)
    rows, record = [], {}
    for shape in SHAPES:
        for alike in (False, True):
            row, found = compared(shape, alike, options.rounds)
            rows.append(row)
            record[row[0]] = found
            print(" ".join(row), flush=True)
    header = ["CPU ms an edge", "same edges", "all", "all, frozen", "TransformerLens", "TL / same edges", "TL / all"]
    print(table(header[: len(rows[0])], rows))
    write("path_patching", {"wanted": WANTED, "rows": record}, "torch transformer_lens transformers")


if __name__ == "__main__":
    with torch.no_grad():
        main()
