"""CPU time of direct logit attribution, head detectors and attribution patching, beside TransformerLens' own tools.

Two shapes of Llama with random weights, the same weights on every side. Each of our instruments is timed whole, with its null
and its checks, and by its core alone: what a peer's tool does too. TransformerLens is timed by its tool, and by hand: the
fewest hooks that give the same numbers. Sides whose numbers differ are refused.

* direct logit attribution: what each head adds to a logit difference. `direct_logit_attribution(unit="head")`; by hand, the
  cached `z` and final scale, times W_O and the unembedding.
* head detectors: attention to the token before, to the same token before and to the one after it, in 8 texts of 25 random
  tokens, each twice. `detect_head` from one cache per text (it divides by all attention, so sums are compared); by hand, one
  pass that keeps patterns only, and sums of their diagonals.
* attribution patching: first-order effects of every head of 8 pairs of prompts of one length. `attribution_patch`, which finds
  those of MLPs and embeddings too; by hand, its own caching of activations and gradients for `z`, all pairs in one batch.

    python -m bench.setup instruments && bench/.venvs/instruments/bin/python -m bench.interp.instruments [--threads 1]
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

import cloche
from bench.model.save_cost import VOCAB, Shape, bare, peak_bytes, same_in_cloche
from bench.rounds import Side, Spread, asked, interleave, ratio, table, write
from cloche import GLU, LM, Attention, Block, RoPE, Stack
from cloche.interp import head_scores, logit_attribution
from cloche.interp.attribution.components import attributed
from cloche.interp.attribution.readouts import readout
from cloche.interp.attribution.slopes import slopes
from cloche.interp.attribution.writes import Pass, sites_of
from cloche.interp.circuits import heads
from cloche.interp.circuits.heads import attention_to_targets, repeated
from cloche.interp.metrics import LOGIT_DIFFERENCE
from cloche.interp.patching.cells import Contrast
from cloche.model import Network

SHAPES = [Shape(12, 128, 4, 16, 1), Shape(6, 256, 8, 32, 1)]
WANTED = 3.0  # times TransformerLens' CPU time
AGREE = 1e-4
ANSWER, AGAINST = 3, 5
LENGTH, TEXTS, PAIRS = 25, 8, 8
POSITIONS = 64  # of the models; prompts are as long as their shape says
Work = Callable[[], Tensor]


def bridge_of(model: LlamaForCausalLM, folded: bool = False) -> Any:
    """The model in TransformerLens; `folded` as its attribution of logits asks."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bridge = build_bridge_from_module(copy.deepcopy(model), "LlamaForCausalLM", hf_config=model.config)
    if folded:
        bridge.enable_compatibility_mode()
    return bridge


def logit_attributions(net: Network, model: LlamaForCausalLM, length: int) -> dict[str, Work]:
    """Each side gives what every head adds, [layer * head]."""
    from transformer_lens.tools.analysis import direct_logit_attribution

    ids = torch.randint(0, VOCAB, (1, length), generator=torch.Generator().manual_seed(0))
    glass, bridge = cloche.Glass(net), bridge_of(model, folded=True)
    count = len(net.layers) * net.layers[0].mix.heads
    pair = torch.tensor([ANSWER]), torch.tensor([AGAINST])
    kept = [name for name in bridge.hook_dict if name.endswith("attn.hook_z") or name == "ln_final.hook_scale"]

    def whole() -> Tensor:
        found = logit_attribution(glass, ids, ANSWER, AGAINST, by="head", ablate="none")
        return torch.tensor(
            [x for name, x in zip(found.data["names"], found.arrays["direct"].tolist(), strict=True) if name[0] == "z"]
        )

    def core() -> Tensor:
        result = net.run(ids, save=sites_of(net, "head"), logits=False)
        stream = result[net.sites.resid_post[-1]][0, -1]
        made = Pass("head", net, ids, ids.shape[1] - 1, result, readout(net, stream.double(), *pair))
        return torch.tensor([float(p.direct[0]) for p in attributed(made).parts if p.name[0] == "z"])

    def tool() -> Tensor:
        return direct_logit_attribution(bridge, ids, ANSWER, AGAINST, unit="head").attribution[:count, 0]

    def by_hand() -> Tensor:
        _, cache = bridge.run_with_cache(ids, names_filter=kept)
        row = (bridge.W_U[:, ANSWER] - bridge.W_U[:, AGAINST]) / cache["ln_final.hook_scale"][0, -1]
        z = torch.stack([cache[name][0, -1] for name in kept[:-1]])  # [layer, head, size]
        return torch.einsum("lhs,lhsd,d->lh", z, bridge.W_O, row).flatten()

    return {"cloche, whole": whole, "cloche, core": core, "TransformerLens": tool, "TransformerLens, by hand": by_hand}


def head_detectors(net: Network, model: LlamaForCausalLM, length: int) -> dict[str, Work]:
    """Each side gives attention summed over queries with a target and averaged over texts, [score, layer, head]."""
    from transformer_lens.head_detector import (
        detect_head,
        get_duplicate_token_head_detection_pattern,
        get_induction_head_detection_pattern,
        get_previous_token_head_detection_pattern,
    )

    glass, bridge = cloche.Glass(net), bridge_of(model)
    bridge.to_tokens = lambda ids: ids  # it has no tokenizer here
    ids = repeated(glass, LENGTH, TEXTS, seed=0)
    queries = torch.tensor([2 * LENGTH - 1, LENGTH, LENGTH]).view(3, 1, 1)
    names = ("previous", "induction", "duplicate")
    kept = [name for name in bridge.hook_dict if name.endswith("attn.hook_pattern")]
    ways = (
        get_previous_token_head_detection_pattern,
        get_induction_head_detection_pattern,
        get_duplicate_token_head_detection_pattern,
    )

    def whole() -> Tensor:
        heads._untrained.cache_clear()  # the null of every call is computed
        found = head_scores(glass, length=LENGTH, draws=TEXTS)
        return torch.stack([torch.as_tensor(found.arrays[name]) for name in names]) * queries

    def core() -> Tensor:
        totals, _ = attention_to_targets(net, ids, list(range(len(net.layers))))
        return torch.stack([torch.stack([total[name] for total in totals.values()]) for name in names]) / TEXTS

    def tool() -> Tensor:
        total = torch.zeros(3, len(net.layers), net.layers[0].mix.heads)
        for row in ids.split(1):
            _, cache = bridge.run_with_cache(row, remove_batch_dim=True)
            total += torch.stack([detect_head(bridge, row, way(row), cache=cache) for way in ways]) * row.shape[1]
        return total / TEXTS

    def by_hand() -> Tensor:
        _, cache = bridge.run_with_cache(ids, names_filter=kept)
        patterns = torch.stack([cache[name] for name in kept])  # [layer, text, head, query, key]
        offsets = ((-1, 0), (1 - LENGTH, 1), (-LENGTH, 0))  # and how many of the diagonal are no query's target
        return torch.stack([patterns.diagonal(o, -2, -1)[..., skip:].sum(-1).mean(1) for o, skip in offsets])

    return {"cloche, whole": whole, "cloche, core": core, "TransformerLens": tool, "TransformerLens, by hand": by_hand}


def attribution_patchings(net: Network, model: LlamaForCausalLM, length: int) -> dict[str, Work]:
    """Each side gives the first-order effect of every head on the logit difference, averaged over pairs, [layer * head]."""
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch, cache_activation_and_gradient

    bridge = bridge_of(model)
    draw = torch.Generator().manual_seed(0)
    clean, corrupt = (torch.randint(0, VOCAB, (PAIRS, length), generator=draw) for _ in range(2))
    pairs = [
        Contrast(a[None], b[None], ANSWER, AGAINST, {"last": (length - 1,)})
        for a, b in zip(clean, corrupt, strict=True)
    ]
    kept = [name for name in bridge.hook_dict if name.endswith("attn.hook_z")]

    def difference(logits: Tensor) -> Tensor:
        return (logits[:, -1, ANSWER] - logits[:, -1, AGAINST]).sum()

    def core() -> Tensor:
        ((_, found),) = slopes(net, pairs, net.sites.resolve("z.all"), LOGIT_DIFFERENCE, "denoise")
        added = torch.stack([found.first_order(site).sum((1, 3)).mean(0) for site in net.sites.z])
        return added.flatten()

    def tool() -> Tensor:
        with torch.enable_grad():
            found = attribution_patch(bridge, clean, corrupt, difference)
        total = torch.zeros(len(net.layers), net.layers[0].mix.heads)
        for node, score in found.node_scores.items():
            if node.kind == "attn_head_out":
                total[node.layer, node.head] += score
        return total.flatten()

    def by_hand() -> Tensor:
        with torch.enable_grad():
            source = cache_activation_and_gradient(bridge, clean, difference, kept, compute_gradient=False)
            base = cache_activation_and_gradient(bridge, corrupt, difference, ["hook_embed", *kept])
        effects = [
            ((source.activations[n] - base.activations[n]) * base.gradients[n]).sum((1, 3)).mean(0) for n in kept
        ]
        return torch.stack(effects).flatten()

    return {"cloche, core": core, "TransformerLens": tool, "TransformerLens, by hand": by_hand}


KINDS = {
    "direct logit attribution": logit_attributions,
    "head detectors": head_detectors,
    "attribution patching": attribution_patchings,
}


def disagreement(works: dict[str, Work]) -> float:
    """The largest difference of any side's numbers from our core's, as a share of the largest of them."""
    truth = works["cloche, core"]().double().flatten()
    worst = 0.0
    for name, work in works.items():
        off = float((work().double().flatten() - truth).abs().max() / truth.abs().max())
        if not off <= AGREE:
            raise SystemExit(f"{name}: numbers differ by {off:.1e}; the sides are not the same")
        worst = max(worst, off)
    return worst


def measure(kind: str, shape: Shape, rounds: int) -> dict[str, object]:
    """Times one instrument at one shape, prints its table, returns its record."""
    model = bare(dataclasses.replace(shape, length=POSITIONS))
    works = KINDS[kind](same_in_cloche(model), model, shape.length)
    off = disagreement(works)
    sides = {name: Side(name, work) for name, work in works.items()}
    interleave(list(sides.values()), rounds, calls=2, warm=1)
    rows, kept = [], {}
    for name, side in sides.items():
        over = {ours: ratio(side, sides[ours], "cpu") for ours in sides if ours.startswith("cloche")}
        rows.append([name, f"{Spread.of(side.cpu).median * 1e3:.1f}", *map(str, over.values())])
        kept[name] = {"cpu": side.cpu, "wall": side.wall, "over": {ours: s.record() for ours, s in over.items()}}
    print(f"\n{kind}, {shape}: {rounds} rounds, numbers agree to {off:.0e}; wanted {WANTED:g}x\n")
    print(table(["", "CPU ms", *(f"times {name}" for name in sides if name.startswith("cloche"))], rows))
    return {"kind": kind, "shape": vars(shape), "agree": off, "sides": kept}


def memory() -> dict[int, int]:
    """Peak bytes of the detectors over one text of 1,024 tokens, by number of layers."""
    peaks = {}
    for layers in (2, 4, 8, 16):
        net = LM(VOCAB, 64, Stack(layers, Block(Attention(4, position=RoPE()), GLU()))).build(seed=0)
        ids = repeated(cloche.Glass(net), VOCAB, 1, seed=0)
        every = list(range(layers))
        peaks[layers] = peak_bytes(lambda net=net, ids=ids, every=every: attention_to_targets(net, ids, every))
    whole = 4 * 4 * 1024 * 1024
    print(f"\nhead detectors over 1,024 tokens, 4 heads (the patterns of one layer are {whole / 1e6:.1f} MB)\n")
    print(table(["layers", "peak MB"], [[str(n), f"{peak / 1e6:.1f}"] for n, peak in peaks.items()]))
    return peaks


def main() -> None:
    options = asked(__doc__, rounds=7, threads=1)
    with torch.no_grad():
        found = [measure(kind, shape, options.rounds) for kind in KINDS for shape in SHAPES]
    record = {
        "what": "CPU seconds of instruments beside TransformerLens' tools",
        "wanted": WANTED,
        "comparisons": found,
        "peak_bytes": memory(),
    }
    write("instruments", record | {"threads": options.threads}, "torch transformers transformer-lens")


if __name__ == "__main__":
    main()
