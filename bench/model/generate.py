"""Cached generation: tokens per second of cloche beside transformers, at the shape of GPT-2 small, in one run.

The same random weights on every side (124M parameters), greedy, a prompt of 16 tokens and no end token, eager on every side.
cloche generates as loaded, steered (a vector added to one layer's stream at every new token), and with its
matrices laid by columns. transformers generates with its default cache, which grows by concatenation, and with its static
cache. Generation of one row is bound by reading every weight once a token: the share of that limit is weight bytes * steps a
second over the memory's bandwidth, which is the faster of a copy (bytes read and written) and a sum over 512 MB, each taking
its turn in the same rounds.

    python -m bench.model.generate [--rounds 5] [--threads 2] [--new 32] [--batches 1 32] [--precisions fp32 bf16]
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from bench.rounds import Side, Spread, busy, interleave, machine, ratio, table, write
from cloche.decode import generate, lay_by_columns
from cloche.model import Network, load_network

PROMPT = 16
STEER = 1e-3  # so weak that the work alone differs, whatever tokens come
COPIED = 512 * 2**20  # bytes of each buffer: larger than the caches
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Make = Callable[[], Tensor]


def models(precision: str) -> tuple[Network, GPT2LMHeadModel]:
    """GPT-2 small with random weights, in both."""
    torch.manual_seed(0)
    peer = GPT2LMHeadModel(GPT2Config()).eval()
    peer.generation_config.eos_token_id = None
    peer.generation_config.pad_token_id = 0
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        net = load_network(folder)
    return net.to(DTYPES[precision]).eval(), peer.to(DTYPES[precision])


def contestants(net: Network, peer: GPT2LMHeadModel, ids: Tensor, new: int) -> dict[str, Make]:
    """Each side's tokens, [batch, prompt + new]."""
    settings = {"max_new_tokens": new, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    columns = lay_by_columns(copy.deepcopy(net))
    steer = net.sites.resid_post[6].add(STEER * torch.ones(net.spec.width, dtype=net.embed.weight.dtype)).at("new")
    return {
        "cloche": lambda: generate(net, ids, new=new).ids,
        "cloche, steered": lambda: generate(net, ids, new=new, edits=[steer]).ids,
        "cloche, by columns": lambda: generate(columns, ids, new=new).ids,
        "transformers, default cache": lambda: peer.generate(ids, **settings),
        "transformers, static cache": lambda: peer.generate(
            ids, cache_implementation="static", disable_compile=True, **settings
        ),
    }


def check_agreement(works: dict[str, Make], precision: str) -> None:
    """In fp32 every side makes the same tokens; in bf16 roundings may part greedy paths, so only the shape is held to."""
    reference = works["cloche"]()
    for name, work in works.items():
        found = work()
        same = precision == "fp32" and "steered" not in name
        if found.shape != reference.shape or (same and not torch.equal(found, reference)):
            raise SystemExit(f"{name} made other tokens than cloche in {precision}; the sides are not the same")


def weight_bytes(net: Network) -> int:
    """Bytes of the matrices that every step reads: all but the embeddings that are only looked up."""
    matrices = [p for _, p in net.groups()["matrix"]]
    read = {id(p): p.numel() * p.element_size() for p in [*matrices, net.unembed_weight()]}
    return sum(read.values())


def measure(precision: str, batch: int, arguments: argparse.Namespace) -> dict[str, object]:
    """Times one precision and batch, prints its table, returns its record."""
    net, peer = models(precision)
    ids = torch.randint(0, net.spec.vocab, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
    works = contestants(net, peer, ids, arguments.new)
    check_agreement(works, precision)
    source = torch.ones(COPIED // 4)
    target = torch.empty_like(source)
    memory = [Side("copy", lambda: target.copy_(source), 2.0 * COPIED), Side("sum", source.sum, 1.0 * COPIED)]
    sides = [Side(name, work, batch * arguments.new) for name, work in works.items()]
    interleave([*sides, *memory], arguments.rounds, warm=1)

    read, rows, kept = weight_bytes(net), [], {}
    rates = {side.name: side.units / Spread.of(side.wall).median for side in memory}
    limit = max(rates.values()) / read  # steps a second
    for side in sides:
        steps = arguments.new / Spread.of(side.wall).median
        faster = {clock: ratio(side, sides[0], clock) for clock in ("wall", "cpu")}
        rows.append(
            [side.name, f"{steps * batch:.1f}", f"{steps / limit:.0%}", str(faster["wall"]), str(faster["cpu"])]
        )
        kept[side.name] = {"wall": side.wall, "cpu": side.cpu, "tokens": side.units, "share_of_limit": steps / limit}
        kept[side.name] |= {f"over_cloche_{clock}": spread.record() for clock, spread in faster.items()}
    said = ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in rates.items())
    print(f"\n{precision}, batch {batch}: weights {read / 1e6:.0f} MB; {said}\n")
    header = ["", "tokens/s", "of the limit", "cloche is faster, wall", "CPU"]
    print(table(header, rows))
    return {"precision": precision, "batch": batch, "weight_bytes": read, "bandwidth": rates, "sides": kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--new", type=int, default=32, help="tokens to generate in each row")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = busy()
    with torch.no_grad():
        found = [
            measure(precision, batch, arguments) for precision in arguments.precisions for batch in arguments.batches
        ]
    record = {
        "what": "tokens a second of cached greedy generation, GPT-2 small's shape",
        "prompt": PROMPT,
        "new": arguments.new,
    }
    settings = {"load_before": load, "threads": arguments.threads, "machine": machine(("torch", "transformers"))}
    write("generate", record | {"runs": found} | settings)


if __name__ == "__main__":
    main()
