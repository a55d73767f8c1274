"""The adjoint of the frozen linear model for many cotangents of one prompt, beside PyTorch's own two ways of finding gradients
of many functions: one batched backward (is_grads_batched) and a backward for each, through the graph of an ordinary pass, which
is not counted. The cotangents are of the last residual stream, and gradients are wanted at the embeddings and at z of every
layer.

    python -m bench.interp.frozen_adjoint            # a minute of a quiet core
"""

from __future__ import annotations

import torch

from bench.rounds import Side, asked, interleave, ratio, table, write
from cloche import GLU, LM, Attention, Block, Stack
from cloche.interp import FrozenModel

SHAPES = {"L6 d256 H8 T32": (6, 256, 8, 32), "L12 d128 H4 T64": (12, 128, 4, 64)}


def sides(shape: tuple[int, int, int, int], count: int) -> list[Side]:
    depth, width, heads, length = shape
    net = LM(1_000, width, Stack(depth, Block(Attention(heads), GLU()))).build(seed=0)
    ids = torch.randint(1_000, (1, length), generator=torch.Generator().manual_seed(0))
    last, asked_for = net.sites.resid_post[-1], [net.sites.embed, *net.sites.z]
    frozen = FrozenModel.over(net, ids)
    run = net.run(ids, save=[last, *asked_for], grad=True)
    rows = torch.randn(count, 1, length, width, generator=torch.Generator().manual_seed(1))

    def gradients(cotangents: torch.Tensor, batched: bool) -> object:
        values = [run[site] for site in asked_for]
        return torch.autograd.grad(run[last], values, cotangents, retain_graph=True, is_grads_batched=batched)

    return [
        Side("adjoint", lambda: frozen.adjoint({last: rows}, asked_for)),
        Side("pass and adjoint", lambda: FrozenModel.over(net, ids).adjoint({last: rows}, asked_for)),
        Side("one batched backward", lambda: gradients(rows, True)),
        Side("a backward for each", lambda: [gradients(row, False) for row in rows]),
    ]


def main() -> None:
    options = asked(__doc__, rounds=7, threads=1)
    rows, record = [], {}
    for name, shape in SHAPES.items():
        for count in (1, 16, 64):
            ours, whole, batched, each = sides(shape, count)
            interleave([ours, whole, batched, each], options.rounds, warm=1)
            found = {f"{side.name} / adjoint": ratio(side, ours, "cpu") for side in (whole, batched, each)}
            seconds = sorted(ours.cpu)[len(ours.cpu) // 2]
            record[f"{name}, {count}"] = {"cpu_seconds": seconds} | {
                key: value.record() for key, value in found.items()
            }
            rows.append([f"{name}, {count} cotangents", f"{1e3 * seconds:.1f} ms", *map(str, found.values())])
    print(table(["", "adjoint (CPU)", "with its pass", "one batched backward", "a backward for each"], rows))
    write("frozen_adjoint", record, "torch")


if __name__ == "__main__":
    main()
