"""CPU time of an optimiser's step: ours beside torch.optim's own and pytorch_optimizer's, on the parameters of one model.

The parameters are those of the default recipe's model at another depth and tied (width 192, 4,096 tokens: pytorch_optimizer's
Shampoo would decompose a product of the head's 4,096 rows); the gradients are random and stay the same. Ten steps are timed at
once, so that Shampoo's and SOAP's decomposition, which both sides make every ten steps, is in every figure. torch's Muon
multiplies in bf16, ours in the precision of the run. For our Muon, Shampoo and SOAP q, k and v, and gate and up, are matrices
of their own; the peers take them as they are stacked. Ours decay weights, which torch's SGD and RMSprop do not here.

    python -m bench.setup optimizer_step
    python -m bench.train.optimizer_step [--rounds 7] [--layers 3] [--threads 1]
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn

from bench.rounds import Side, Spread, asked, interleave, ratio, table, write
from cloche.model import GLU, LM, Attention, Block, Network, RoPE, Stack
from cloche.part import part_from_line
from cloche.train import Muon, Optimizer, Stepper

STEPS = 10  # in one timed call
LR = 1e-4
OURS = ("AdamW", "SGD", "RMSprop", "Muon", "Shampoo(every=10)", "SOAP(every=10)")
# (ours, theirs): ratios of their CPU time
PAIRS = [
    ("AdamW", "torch AdamW, fused"),
    ("AdamW", "torch AdamW"),
    ("SGD", "torch SGD"),
    ("RMSprop", "torch RMSprop"),
    ("Muon", "torch Muon"),
    ("Muon, products in bf16", "torch Muon"),
    ("Shampoo(every=10)", "pytorch_optimizer Shampoo"),
    ("SOAP(every=10)", "pytorch_optimizer SOAP"),
]


def model(layers: int) -> Network:
    """The network, with random gradients."""
    net = LM(4096, 192, Stack(layers, Block(Attention(6, position=RoPE()), GLU("silu"))), tied=True).build(0)
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.grad = 1e-3 * torch.randn(p.shape, generator=generator)
    return net


def on_matrices(net: Network, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Callable[[], object]:
    """A peer's optimiser on matrices, torch's fused AdamW on all else: what ours do."""
    groups = net.groups()
    rest = torch.optim.AdamW([p for kind in ("embedding", "vector") for _, p in groups[kind]], LR, fused=True)
    both = make([p for _, p in groups["matrix"]]), rest
    return lambda: [part.step() for part in both]


def theirs(layers: int) -> dict[str, Callable[[], object]]:
    def everything(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Callable[[], object]:
        return make(list(model(layers).parameters())).step

    found = {
        "torch AdamW": everything(lambda p: torch.optim.AdamW(p, LR)),
        "torch AdamW, fused": everything(lambda p: torch.optim.AdamW(p, LR, fused=True)),
        "torch SGD": everything(lambda p: torch.optim.SGD(p, LR, momentum=0.9)),
        "torch RMSprop": everything(lambda p: torch.optim.RMSprop(p, LR)),
        "torch Muon": on_matrices(model(layers), lambda p: torch.optim.Muon(p, LR)),
    }
    if find_spec("pytorch_optimizer"):
        import pytorch_optimizer as peer

        found |= {
            "pytorch_optimizer Shampoo": on_matrices(
                model(layers), lambda p: peer.Shampoo(p, LR, preconditioning_compute_steps=STEPS)
            ),
            "pytorch_optimizer SOAP": on_matrices(
                model(layers), lambda p: peer.SOAP(p, LR, precondition_frequency=STEPS)
            ),
        }
    return found


def main() -> None:
    options = asked(__doc__, rounds=7, layers=3, threads=1)
    steps = {line: Stepper(model(options.layers), part_from_line(line, Optimizer)).step for line in OURS}
    steps["Muon, products in bf16"] = Stepper(
        model(options.layers), Muon(), torch.bfloat16
    ).step  # as torch's always are
    steps |= theirs(options.layers)

    def several(step: Callable[[], object]) -> Callable[[], object]:
        return lambda: [step() for _ in range(STEPS)]

    sides = {name: Side(name, several(step), units=STEPS) for name, step in steps.items()}
    interleave(list(sides.values()), options.rounds, warm=1)
    rows = []
    for name, side in sides.items():
        spread = Spread.of(1e3 * seconds / STEPS for seconds in side.cpu)
        rows.append([name, f"{spread.median:.2f} ({spread.least:.2f}..{spread.greatest:.2f})"])
    print(table(["", "CPU ms a step"], rows))
    ratios = {f"{ours} / {peer}": ratio(sides[ours], sides[peer], "cpu") for ours, peer in PAIRS if peer in sides}
    print(table(["", "CPU time, ours over theirs"], [[what, str(spread)] for what, spread in ratios.items()]))
    record = {
        "what": "CPU seconds of one step of an optimiser, on the parameters of one model",
        "parameters": sum(p.numel() for p in model(options.layers).parameters()),
        "cpu_seconds": {name: [seconds / STEPS for seconds in side.cpu] for name, side in sides.items()},
        "ratios": {what: spread.record() for what, spread in ratios.items()},
        "threads": options.threads,
    }
    write("optimizer_step", record, "torch pytorch_optimizer")


if __name__ == "__main__":
    main()
