"""A student of 256 hidden neurons is pruned while it learns from a teacher of 32: how many are left, and at what loss.

    python -m bench.train.pruning --steps 4000 --seeds 3

Sides: the penalty on activations with a knee, and without one; no penalty and L2 in the loss, each pruned at the same
threshold, which should keep about 256; and random removal of as many neurons from the student without penalty. All train on by
1,000 steps without penalty. The time of a layer is taken before and after, at a size where products dominate.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import nn

from bench.rounds import Side, asked, interleave, ratio, table, write
from cloche.model import GLU, LM, Attention, Block, Context, Stack, hidden_layers, keep_neurons
from cloche.runs import Run
from cloche.train import (
    L2,
    WSD,
    ActivationL1,
    AdamW,
    Loop,
    Penalised,
    Pruning,
    Setup,
    SquaredError,
    Stepper,
    StepPlan,
)

WIDTH, TEACHER, STUDENT, OUT, NOISE, ROWS, AFTER = 16, 32, 256, 8, 0.1, 256, 1000
PENALTIES: dict[str, tuple[Any, ...]] = {
    "knee": (ActivationL1(weight=0.02, knee=0.02),),
    "plain L1": (ActivationL1(weight=1e-3),),
    "no penalty": (),
    "L2 in the loss": (L2(weight=1e-4),),
}


class Student(nn.Module):
    def __init__(self, hidden: int = STUDENT) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, hidden), nn.Linear(hidden, OUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.inner(x).relu())


class Teacher:
    """Rows of normal inputs and the outputs of 32 neurons of norm one, with noise: a pure function of the step."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inner = nn.functional.normalize(torch.randn(TEACHER, WIDTH, generator=generator), dim=1)
        self.outer = nn.functional.normalize(torch.randn(OUT, TEACHER, generator=generator), dim=0)
        self.step = 0

    def rows(self, seed: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, WIDTH, generator=generator)
        y = (x @ self.inner.T).relu() @ self.outer.T
        return x, y + NOISE * torch.randn(y.shape, generator=generator)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.step += 1
        return self.rows(1000 + self.step, ROWS)

    def state(self) -> dict[str, int]:
        return {"step": self.step}

    def restore(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def loss(net: nn.Module, seed: int) -> float:
    """On rows of the teacher that nobody has trained on."""
    x, y = Teacher(seed).rows(1, 8192)
    with torch.no_grad():
        return float((net(x) - y).square().mean())


def train(net: nn.Module, objective: Penalised, steps: int, seed: int, lr: float = 1e-3) -> None:
    plan = StepPlan(steps, WSD(warmup=0.0, final=0.001, decay=0.5))
    with tempfile.TemporaryDirectory() as folder:
        run, stepper = Run.create(f"{folder}/run", ""), Stepper(net, AdamW(lr=lr, weight_decay=0.0))
        setup = Setup(log_every=steps, checkpoints=1)
        list(Loop(run, net, Teacher(seed), objective, stepper, plan, setup=setup))


def student(penalties: tuple[Any, ...], steps: int, seed: int) -> nn.Module:
    """Trained and pruned, then trained on without penalty."""
    torch.manual_seed(seed + 100)
    net = Student()
    train(net, Penalised(SquaredError(), penalties, Pruning(every=steps // 20)), steps, seed)
    train(net, Penalised(SquaredError()), AFTER, seed, lr=3e-4)
    return net


def at_random(net: nn.Module, left: int, seed: int) -> None:
    """Removes all but `left` neurons, whichever."""
    (layer,) = hidden_layers(net)
    order = torch.randperm(layer.size, generator=torch.Generator().manual_seed(seed))
    keep_neurons(net, {layer.name: order[:left].sort().values})


def measured(steps: int, seed: int) -> dict[str, dict[str, float]]:
    found = {}
    for name, penalties in PENALTIES.items():
        net = student(penalties, steps, seed)
        found[name] = {"neurons": hidden_layers(net)[0].size, "loss": loss(net, seed)}
        if name == "no penalty":
            at_random(net, int(found["knee"]["neurons"]), seed)
            train(net, Penalised(SquaredError()), AFTER, seed, lr=3e-4)
            found["at random"] = {"neurons": hidden_layers(net)[0].size, "loss": loss(net, seed)}
    return found


def layer_times(width: int = 256, hidden: int = 2048, left: int = 256, tokens: int = 2048) -> dict[str, Any]:
    """Forward and backward through a gated layer before and after seven eighths of its neurons are removed."""
    nets = [LM(16, width, Stack(1, Block(Attention(4), GLU(hidden=hidden)))).build(0) for _ in range(2)]
    keep_neurons(nets[1], {"body.layers.0.map": torch.arange(left)})
    x = torch.randn(1, tokens, width, requires_grad=True)
    context = Context.over(torch.zeros(1, tokens, dtype=torch.long))

    def work(net: Any) -> Any:
        return lambda: net.layers[0].map(x, context, 0)[0].sum().backward()

    sides = [Side(name, work(net)) for name, net in zip(("before", "after"), nets, strict=True)]
    interleave(sides, rounds=7)
    faster = ratio(sides[0], sides[1], "cpu")
    return {
        "hidden": [hidden, left],
        "tokens": tokens,
        "width": width,
        "times_faster": faster.record(),
        "if_in_proportion": hidden / left,
    }


def main() -> None:
    options = asked(__doc__, steps=4000, seeds=3, threads=1)
    runs = [measured(options.steps, seed) for seed in range(options.seeds)]
    times = layer_times()
    rows = [
        [name, *(f"{run[name]['neurons']:.0f}: {run[name]['loss'] / run['no penalty']['loss']:.4f}" for run in runs)]
        for name in runs[0]
    ]
    print(table(["neurons left: loss / that without penalty", *(f"seed {i}" for i in range(len(runs)))], rows))
    print(times)
    write(
        "pruning",
        {"steps": options.steps, "teacher": TEACHER, "student": STUDENT, "noise": NOISE, "runs": runs, "layer": times},
        "torch",
    )


if __name__ == "__main__":
    main()
