"""Attention grown in seconds on repeated random tokens, by the training loop, with checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cloche import LM, MLP, Attention, Block, RoPE, Stack
from cloche.runs import Run
from cloche.train import WSD, AdamW, Loop, NextToken, Setup, Stepper, StepPlan

VOCAB, STEPS, CHECKPOINTS = 24, 500, 20


class Repeats:
    """Texts of different random tokens, repeated; how many differs between batches, so that no fixed offset helps."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def next(self) -> Tensor:
        length = int(torch.randint(6, 13, (1,), generator=self.generator))
        draw = torch.rand(32, VOCAB, generator=self.generator).argsort(-1)[:, :length]
        return draw.repeat(1, -(-33 // length))[:, :33]

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def grow(folder: Path, layers: int) -> Run:
    block = Block(Attention(2, position=RoPE(theta=100.0)), MLP("relu", hidden=4))
    net = LM(VOCAB, 32, Stack(layers, block)).build(seed=0)
    run = Run.create(folder, "")
    plan, setup = StepPlan(STEPS, WSD(warmup=0.02)), Setup(log_every=25, checkpoints=CHECKPOINTS)
    for _ in Loop(run, net, Repeats(), NextToken(), Stepper(net, AdamW(lr=0.01)), plan, setup=setup):
        pass
    return run
