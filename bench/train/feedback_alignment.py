"""Learning without the backward path of backpropagation: multilayer perceptrons of depth 2 to 8, at equal operations.

    python -m bench.train.feedback_alignment --steps 1000 --seeds 2

Feedback alignment takes as many operations a step as backpropagation. The control trains the last map alone, on what random
maps before it make of the input; its steps are cheaper, so it gets more of them. Each side has the better of two learning
rates. Losses are shares of the targets' variance on rows that nobody has trained on; the angle is that between the two
gradients of the first map, in degrees, at the end of training.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from bench.rounds import asked, table, write
from cloche.train import AdamW, Cosine, FeedbackAlignment, Objective, SquaredError, Stepper, total_loss

DEPTHS, WIDTH, INPUTS, OUTPUTS, ROWS, RATES = (2, 4, 6, 8), 64, 16, 4, 128, (1e-3, 4e-3)


def perceptron(depth: int, seed: int, gain: float = 1.0) -> nn.Sequential:
    """`depth` linear maps with tanh between them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [INPUTS, *[WIDTH] * (depth - 1), OUTPUTS]
    modules: list[nn.Module] = []
    for width, rows in itertools.pairwise(sizes):
        layer = nn.Linear(width, rows)
        with torch.no_grad():
            layer.weight.copy_(gain * width**-0.5 * torch.randn(rows, width, generator=generator))
            layer.bias.zero_()
        modules += [layer, nn.Tanh()]
    return nn.Sequential(*modules[:-1])


class Task:
    """A teacher of depth 3 with steep activations, on normal inputs."""

    def __init__(self, seed: int) -> None:
        self.teacher = perceptron(3, 1000 + seed, gain=1.5)

    @torch.no_grad()
    def rows(self, seed: int, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(rows, INPUTS, generator=torch.Generator().manual_seed(seed))
        return x, self.teacher(x)


def trained(
    depth: int, objective: Objective, steps: int, lr: float, seed: int, last_alone: bool = False
) -> nn.Sequential:
    net, task = perceptron(depth, seed), Task(seed)
    if last_alone:
        net.requires_grad_(False)[-1].requires_grad_(True)
    stepper, schedule = Stepper(net, AdamW(lr=lr, weight_decay=0.0)), Cosine()
    for step in range(steps):
        stepper.set_rate(schedule.rate(step, steps))
        stepper.zero_grad()
        total_loss(objective.terms(net, task.rows(step))).backward()
        stepper.step()
    return net


def share(net: nn.Sequential, seed: int) -> float:
    x, y = Task(seed).rows(10**6, 4096)
    with torch.no_grad():
        return float((net(x) - y).square().mean() / y.var(0).mean())


def measured(depth: int, steps: int, seed: int) -> dict[str, float]:
    plain, fed = SquaredError(), FeedbackAlignment(SquaredError(), seed=seed)
    sizes = [INPUTS * WIDTH, *[WIDTH * WIDTH] * (depth - 2), WIDTH * OUTPUTS]
    more = round(steps * 3 * sum(sizes) / (sum(sizes) + sizes[-1]))  # forward, and the last map's own gradient
    sides = {
        "backpropagation": (plain, steps),
        "feedback alignment": (fed, steps),
        "last map alone": (plain, more),
    }
    found = {}
    for name, (objective, count) in sides.items():
        nets = [trained(depth, objective, count, lr, seed, name == "last map alone") for lr in RATES]
        best = min(nets, key=lambda net: share(net, seed))
        found[name] = share(best, seed)
        if objective is fed:
            found["angle"] = fed.angles(best, Task(seed).rows(10**6, 4096))["0.weight"]
    return found


def main() -> None:
    options = asked(__doc__, steps=1000, seeds=2, threads=1)
    runs = {depth: [measured(depth, options.steps, seed) for seed in range(options.seeds)] for depth in DEPTHS}
    names = list(runs[DEPTHS[0]][0])
    rows = [
        [str(depth), *(" ".join(f"{run[name]:.3f}" for run in found) for name in names)]
        for depth, found in runs.items()
    ]
    print(table(["depth", *names], rows))
    write("feedback_alignment", {"steps": options.steps, "width": WIDTH, "rates": RATES, "runs": runs}, "torch")


if __name__ == "__main__":
    main()
