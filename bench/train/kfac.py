"""K-FAC beside SGD with momentum and AdamW: steps to a loss, each at its best rate, and the CPU time of a step.

    python -m bench.train.kfac [--seeds 3] [--rounds 7]

A student of two hidden layers learns labels that a teacher of its shape draws, so that its excess loss, the KL divergence from
the teacher, is known exactly. The inputs' scales run from 1 to 1/100, along the axes or along directions turned at random, or
are all 1 (the control). Steps are those until the excess on held-out inputs is at most 15% of what it was. Times are of whole
training steps of a transformer, one thread. Writes bench/results/kfac.json.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from statistics import median

import torch
from torch import Tensor, nn

from bench.rounds import Side, asked, interleave, ratio, table, write
from cloche.model import GLU, LM, Attention, Block, RoPE, Stack
from cloche.train import KFAC, SGD, AdamW, Constant, NextToken, Optimizer, Stepper, total_loss

STEPS, EVERY, BATCH, WIDTH, CLASSES = 200, 2, 2048, 32, 10
TARGET = 0.15  # of the excess loss before training
CONTENDERS: dict[str, tuple[Optimizer, list[float]]] = {
    "SGD, momentum 0.9": (SGD(weight_decay=0.0), [0.03, 0.1, 0.3, 1.0, 3.0]),
    "AdamW": (AdamW(weight_decay=0.0), [0.003, 0.01, 0.03, 0.1, 0.3]),
    "K-FAC": (KFAC(weight_decay=0.0), [0.03, 0.1, 0.3, 1.0]),
    "K-FAC, every step": (KFAC(weight_decay=0.0, every=1, factor_decay=0.95), [0.03, 0.1, 0.3, 1.0]),
}


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))


INPUTS = ["scales 1 to 1/100, turned", "scales 1 to 1/100", "scales 1"]


def steps_to_target(part: Optimizer, seed: int, kind: str) -> float:
    """Updates until the excess is at most TARGET of what it was; infinite if it never is."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.ones(WIDTH) if kind == "scales 1" else torch.logspace(0, -2, WIDTH)
    turn = torch.eye(WIDTH)
    if "turned" in kind:
        turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]

    def inputs(n: int) -> Tensor:
        return (torch.randn(n, WIDTH, generator=generator) * scales) @ turn.T

    with torch.no_grad():
        teacher = network(1000 + seed)
        first = teacher.get_parameter("0.weight")
        first.copy_((first / scales) @ turn.T)  # each direction matters as much as the others
        teacher.get_parameter("4.weight").mul_(6)  # surer of its labels than at initialisation
        held = inputs(2000)
        wanted = teacher(held).log_softmax(1)
    net = network(seed)
    optimizer, schedule = Stepper(net, part), Constant(warmup=0.03)

    def excess() -> float:
        with torch.no_grad():
            return float((wanted.exp() * (wanted - net(held).log_softmax(1))).sum(1).mean())

    start = excess()
    for step in range(STEPS):
        optimizer.set_rate(schedule.rate(step, STEPS))
        optimizer.zero_grad()
        x = inputs(BATCH)
        with torch.no_grad():
            labels = torch.multinomial(teacher(x).softmax(1), 1, generator=generator)[:, 0]
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.clip_gradient()
        optimizer.step()
        if step % EVERY == EVERY - 1 and not (now := excess()) > TARGET * start:
            return step + 1 if now == now else float("inf")
    return float("inf")


def quality(seeds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for kind in INPUTS:
        for name, (part, rates) in CONTENDERS.items():
            found = {lr: [steps_to_target(replace(part, lr=lr), seed, kind) for seed in range(seeds)] for lr in rates}
            best = min(found, key=lambda lr: (median(found[lr]), sum(found[lr])))
            reached: list[float | None] = [n if isfinite(n) else None for n in found[best]]  # None: not in STEPS
            edge = best in (rates[0], rates[-1])
            rows.append({"inputs": kind, "optimizer": name, "lr": best, "at_edge": edge, "steps": reached})
            print(f"{kind:26s} {name:20s} lr {best:<6g}{'(edge)' if edge else ''} steps {reached}", flush=True)
    return rows


def speed(rounds: int) -> list[dict[str, object]]:
    """Ten steps of a transformer of width 128, so that one measurement and inversion is among them."""
    spec = LM(vocab=512, width=128, body=Stack(4, Block(Attention(4, position=RoPE()), GLU())))
    batch = torch.randint(512, (8, 129), generator=torch.Generator().manual_seed(0))

    def side(name: str, part: Optimizer) -> Side:
        net = spec.build(0)
        optimizer = Stepper(net, part)

        def work() -> None:
            for _ in range(10):
                optimizer.zero_grad()
                total_loss(NextToken().terms(net, batch)).backward()
                optimizer.clip_gradient()
                optimizer.step()

        return Side(name, work)

    sides = [side("AdamW", AdamW()), side("K-FAC", KFAC()), side("K-FAC, every step", KFAC(every=1))]
    interleave(sides, rounds)
    return [
        {
            "optimizer": each.name,
            "ms": 100 * median(each.cpu),
            "over_adamw": ratio(each, sides[0], "cpu").record(),
        }
        for each in sides
    ]


def main() -> None:
    options = asked(__doc__, seeds=3, rounds=5, threads=1)
    rows, times = quality(options.seeds), speed(options.rounds)
    print(
        table(
            ["CPU ms per step", "", "over AdamW"],
            [
                [str(r["optimizer"]), f"{r['ms']:.1f}", f"{r['over_adamw']['median']:.2f}"]
                for r in times  # type: ignore[index]
            ],
        )
    )
    write("kfac", {"threads": options.threads, "steps": rows, "times": times}, "torch")


if __name__ == "__main__":
    main()
