"""Activation patching over every layer and head, and every layer and position: one sweep beside TransformerLens' own loop.

Two shapes of Llama with random weights, the same weights on every side. Each side patches one prompt with what another left in
`z` (layer x head, all positions) or `resid_pre` (layer x position), one cell at a time or in one sweep, and reads a logit
difference at the last position; the prompts' own saved pass is outside the clock on every side. cloche is timed as
`net.sweep` and as one `net.run` a cell; TransformerLens as its `patching.get_act_patch_*`; transformers with one forward hook a
cell is what one writes by hand. Sides that disagree are refused.

    python -m bench.setup sweep && bench/.venvs/sweep/bin/python -m bench.model.sweep [--rounds 7] [--threads 2]
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from bench.model.save_cost import VOCAB, Shape, bare, same_in_cloche
from bench.rounds import Side, Spread, asked, interleave, ratio, table, write
from cloche.model import Network

SHAPES = {Shape(12, 128, 4, 16, 1): 30.0, Shape(6, 256, 8, 32, 1): 10.0}  # wanted: times faster than TransformerLens
AGREE = 1e-4  # largest difference between two sides' readings, in nats
Work = Callable[[], Tensor]
GRIDS = ("layer x head", "layer x position")


def difference(logits: Tensor) -> Tensor:
    """What is read of every cell: how much likelier, in nats, one token is than another."""
    return logits[0, -1, 3] - logits[0, -1, 5]


def prompts(shape: Shape) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = (torch.randint(0, VOCAB, (1, shape.length), generator=generator) for _ in range(2))
    return clean, corrupt


def in_cloche(net: Network, clean: Tensor, corrupt: Tensor, grid: str) -> dict[str, Work]:
    s, length = net.sites, clean.shape[1]
    source = net.run(clean, save=[s.z.all, s.resid_pre.all])
    heads = net.layers[0].mix.heads

    def edits() -> list:
        if grid == "layer x head":
            return [z.head(h).replace(source) for z in s.z for h in range(heads)]
        return [pre.replace(source).at(p) for pre in s.resid_pre for p in range(length)]

    return {
        "cloche, sweep": lambda: net.sweep(corrupt, edits(), difference),
        "cloche, cell by cell": lambda: torch.stack([difference(net.run(corrupt, edits=e).logits) for e in edits()]),
    }


def by_hand(model: LlamaForCausalLM, clean: Tensor, corrupt: Tensor, grid: str) -> Work:
    """A forward hook a cell: on the attention's output matrix, or on the layer."""
    layers, size = model.model.layers, model.config.hidden_size // model.config.num_attention_heads
    heads = grid == "layer x head"
    places = [layer.self_attn.o_proj if heads else layer for layer in layers]
    kept: list[Tensor] = []
    handles = [p.register_forward_pre_hook(lambda _m, inputs: kept.append(inputs[0].clone())) for p in places]
    model(clean)
    for handle in handles:
        handle.remove()

    def cell(layer: int, index: int) -> Tensor:
        def hook(_module, inputs):
            value = inputs[0].clone()
            if heads:
                own = slice(index * size, (index + 1) * size)
                value[..., own] = kept[layer][..., own]
            else:
                value[:, index] = kept[layer][:, index]
            return (value, *inputs[1:])

        handle = places[layer].register_forward_pre_hook(hook)
        logits = model(corrupt).logits
        handle.remove()
        return difference(logits)

    count = model.config.num_attention_heads if heads else corrupt.shape[1]
    return lambda: torch.stack([cell(layer, i) for layer in range(len(layers)) for i in range(count)])


def with_transformer_lens(model: LlamaForCausalLM, clean: Tensor, corrupt: Tensor, grid: str) -> Work:
    from transformer_lens import patching
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bridge = build_bridge_from_module(model, "LlamaForCausalLM", hf_config=model.config)
    _, cache = bridge.run_with_cache(clean)
    own = patching.get_act_patch_attn_head_out_all_pos if grid == "layer x head" else patching.get_act_patch_resid_pre

    def work() -> Tensor:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return own(bridge, corrupt, cache, difference).flatten()

    return work


def contestants(shape: Shape, grid: str) -> dict[str, Work]:
    clean, corrupt = prompts(shape)
    model = bare(shape)
    works = in_cloche(same_in_cloche(model), clean, corrupt, grid)
    works["transformers, hooks"] = by_hand(copy.deepcopy(model), clean, corrupt, grid)
    if find_spec("transformer_lens"):
        works["TransformerLens"] = with_transformer_lens(copy.deepcopy(model), clean, corrupt, grid)
    return works


def disagreement(works: dict[str, Work]) -> float:
    """The largest difference of any side's readings from the cell-by-cell ones."""
    truth = works["cloche, cell by cell"]()
    worst = 0.0
    for name, work in works.items():
        off = (work() - truth).abs().max().item()
        if off > AGREE:
            raise SystemExit(f"{name}: readings differ by {off:.1e}; the sides are not the same")
        worst = max(worst, off)
    return worst


def measure(shape: Shape, grid: str, rounds: int) -> dict[str, object]:
    """Times one sweep, prints its table, returns its record."""
    works = contestants(shape, grid)
    off = disagreement(works)
    sides = {name: Side(name, work) for name, work in works.items()}
    interleave(list(sides.values()), rounds, warm=1)
    ours, rows, kept = sides["cloche, sweep"], [], {}
    for name, side in sides.items():
        times = {clock: ratio(side, ours, clock) for clock in ("wall", "cpu")}
        rows.append([name, f"{Spread.of(side.wall).median * 1e3:.1f}", str(times["wall"]), str(times["cpu"])])
        kept[name] = {"wall": side.wall, "cpu": side.cpu, "over_sweep": {c: s.record() for c, s in times.items()}}
    cells = shape.layers * (shape.heads if grid == "layer x head" else shape.length)
    print(
        f"\n{shape}, {grid}: {cells} cells, {rounds} rounds, readings agree to {off:.0e}; wanted {SHAPES[shape]:g}x\n"
    )
    print(table(["", "wall ms", "times a sweep, wall", "times a sweep, CPU"], rows))
    return {"shape": vars(shape), "grid": grid, "cells": cells, "wanted": SHAPES[shape], "agree": off, "sides": kept}


def main() -> None:
    arguments = asked(__doc__, rounds=7, threads=os.cpu_count() or 1)
    if not find_spec("transformer_lens"):
        print("transformer_lens: skipped, not installed here (python -m bench.setup sweep)")
    with torch.no_grad():
        sweeps = [measure(shape, grid, arguments.rounds) for shape in SHAPES for grid in GRIDS]
    record = {"what": "seconds of an exact activation patching sweep", "sweeps": sweeps}
    write("sweep", record | {"threads": arguments.threads}, "torch transformers transformer-lens")


if __name__ == "__main__":
    main()
