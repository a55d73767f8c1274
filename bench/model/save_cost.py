"""What looking costs: a forward pass that saves every layer's residual stream, beside a plain one, and beside peers.

Four shapes of Llama with random weights, the same weights on every side: `net(ids)`, `net.run(ids)`, and `net.run` saving
resid_post of every layer (left as they are, or stacked into one tensor); transformers bare and with its own forward hooks;
nnsight and TransformerLens where installed. Each peer's cost is over bare transformers, cloche's over its own plain pass:
by wall and by CPU time within each round, and the least CPU time of all rounds over the plain pass's least, which a busy
machine disturbs the least. Peak memory is the most that was allocated at one time during a pass, from the profiler's record of
every allocation.

    python -m bench.model.save_cost [--rounds 30] [--threads 2]
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity
from transformers import LlamaConfig, LlamaForCausalLM

from bench.rounds import Side, Spread, asked, interleave, ratio, table, write
from cloche.model import Network, load_network

WANTED = 1.03
VOCAB = 512
ROUND_SECONDS = 0.15  # every side's turn in a round is about so long
AGREE = 1e-4  # largest difference between two sides' residuals, in fp32
PEERS = ("nnsight", "transformer_lens")
Work = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    layers: int
    width: int
    heads: int
    length: int
    batch: int

    def __str__(self) -> str:
        return f"L{self.layers} d{self.width} h{self.heads} B{self.batch} T{self.length}"


SHAPES = [Shape(12, 64, 4, 16, 1), Shape(6, 256, 8, 64, 1), Shape(4, 256, 8, 512, 4), Shape(12, 768, 12, 64, 1)]


def bare(shape: Shape) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=shape.width,
        intermediate_size=8 * shape.width // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.length,
        use_cache=False,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def same_in_cloche(model: LlamaForCausalLM) -> Network:
    """The same weights, read from the folder that transformers writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_network(folder)


def with_hooks(model: LlamaForCausalLM, ids: Tensor) -> Callable[[], list[Tensor]]:
    """What one writes by hand: a hook on each layer, put on and taken off around the pass."""

    def work() -> list[Tensor]:
        kept: list[Tensor] = []
        handles = [layer.register_forward_hook(lambda _m, _i, out: kept.append(out)) for layer in model.model.layers]
        model(ids)
        for handle in handles:
            handle.remove()
        return kept

    return work


def with_nnsight(model: LlamaForCausalLM, ids: Tensor) -> Callable[[], list[Tensor]]:
    from nnsight import NNsight

    wrapped = NNsight(model)

    def work() -> list[Tensor]:
        with wrapped.trace(ids):
            kept = [layer.output for layer in wrapped.model.layers].save()
        return kept

    return work


def with_transformer_lens(model: LlamaForCausalLM, ids: Tensor) -> dict[str, Callable[[], object]]:
    """A plain forward of its bridge, residuals only, and everything (it has no pass without spelled-out attention)."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bridge = build_bridge_from_module(model, "LlamaForCausalLM", hf_config=model.config)
    names = [f"blocks.{i}.hook_resid_post" for i in range(model.config.num_hidden_layers)]

    def residuals() -> list[Tensor]:
        _, cache = bridge.run_with_cache(ids, names_filter=names)
        return [cache[name] for name in names]

    return {
        "TransformerLens, no save": lambda: bridge(ids),
        "TransformerLens, residuals": residuals,
        "TransformerLens, everything": lambda: bridge.run_with_cache(ids),
    }


def contestants(shape: Shape) -> dict[str, Work]:
    """Every side's work by name. Those that save residuals return them, in order of the layers."""
    ids = torch.randint(0, VOCAB, (shape.batch, shape.length), generator=torch.Generator().manual_seed(0))
    model = bare(shape)
    net = same_in_cloche(model)
    every = net.sites.resid_post.all

    def saving() -> list[Tensor]:
        result = net.run(ids, save=[every])
        return [result[site] for site in net.sites.resid_post]

    sides: dict[str, Work] = {
        "cloche net(ids)": lambda: net(ids),
        "cloche run, no save": lambda: net.run(ids),
        "cloche run, residuals": saving,
        "cloche run, residuals as one tensor": lambda: net.run(ids, save=[every])[every],
        "transformers": lambda: model(ids),
        "transformers, hooks": with_hooks(copy.deepcopy(model), ids),
    }
    if find_spec("nnsight"):
        sides["nnsight, residuals"] = with_nnsight(copy.deepcopy(model), ids)
    if find_spec("transformer_lens"):
        sides |= with_transformer_lens(copy.deepcopy(model), ids)
    return sides


def check_agreement(sides: dict[str, Work]) -> None:
    """Every side that returns residuals returns the same ones."""
    ours = torch.stack(list(sides["cloche run, residuals"]()))
    for name, work in sides.items():
        if "residuals" in name or "hooks" in name:
            found = work()
            other = found if isinstance(found, Tensor) else torch.stack(list(found))
            difference = (ours - other).abs().max().item()
            if difference > AGREE:
                raise SystemExit(
                    f"{name}: residuals differ from cloche's by {difference:.1e}; the sides are not the same"
                )


def peak_bytes(work: Work) -> int:
    """The most bytes allocated at one time above what was allocated before the call."""
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = work()
    del kept
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def measure(shape: Shape, rounds: int) -> dict[str, object]:
    """Times one shape, prints its table, returns its record."""
    works = contestants(shape)
    check_agreement(works)
    start = time.perf_counter()
    works["cloche net(ids)"]()
    calls = max(1, round(ROUND_SECONDS / (time.perf_counter() - start)))
    sides = {name: Side(name, work) for name, work in works.items()}
    interleave(list(sides.values()), rounds, calls)
    peaks = {name: peak_bytes(work) for name, work in works.items() if name.startswith("cloche")}

    rows, kept = [], {}
    for name, side in sides.items():
        plain = sides["cloche net(ids)" if name.startswith("cloche") else "transformers"]
        cost = {clock: ratio(side, plain, clock) for clock in ("wall", "cpu")}
        rows.append([name, f"{Spread.of(side.wall).median * 1e3:.2f}", str(cost["wall"]), str(cost["cpu"])])
        least = min(side.cpu) / min(plain.cpu)
        rows[-1].append(f"{least:.3f}")
        kept[name] = {
            "wall": side.wall,
            "cpu": side.cpu,
            "over_plain": {c: s.record() for c, s in cost.items()},
            "least_cpu_over_plain": least,
        }
    asked = shape.layers * shape.batch * shape.length * shape.width * 4
    extra = peaks["cloche run, residuals"] - peaks["cloche run, no save"]
    print(f"\n{shape}: {rounds} rounds of {calls} calls\n")
    print(table(["", "wall ms", "over plain, wall", "over plain, CPU", "least CPU"], rows))
    print(f"saved {asked / 1e6:.2f} MB; the peak grew by {extra / 1e6:.2f} MB ({extra / asked:.2f} of it)")
    return {
        "shape": vars(shape) | {"vocab": VOCAB},
        "sides": kept,
        "memory": {"asked": asked, "extra": extra, "peaks": peaks},
    }


def main() -> None:
    arguments = asked(__doc__, rounds=30, threads=os.cpu_count() or 1)
    for peer in PEERS:
        if not find_spec(peer):
            print(f"{peer}: skipped, not installed here (python -m bench.setup save_cost)")
    with torch.no_grad():
        shapes = {str(shape): measure(shape, arguments.rounds) for shape in SHAPES}
    print(f"\nwanted: saving every residual at most {WANTED} of cloche's plain pass")
    record = {
        "what": "seconds and peak bytes of a forward pass that saves every residual",
        "wanted": WANTED,
        "shapes": shapes,
    }
    write("save_cost", record | {"threads": arguments.threads}, "torch transformers nnsight transformer-lens")


if __name__ == "__main__":
    main()
