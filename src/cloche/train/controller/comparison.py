"""Comparisons on held-out tasks: win rates with intervals, tuning per task, and whether a controller does anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.train.controller.controller import KNOBS, NO_DECAY, Knobs, set_logs
from cloche.train.controller.families import Family, Tasks
from cloche.train.controller.inner_loop import Outcome, rollout
from cloche.train.controller.policies import Policy
from cloche.train.controller.rules import UpdateRule
from cloche.train.controller.search import HELD_OUT

CONSTANT = 0.05  # a knob that varies less than this within the median run is constant
Drawn = list[tuple[Family, Tasks]]


@dataclass(frozen=True)
class WinRate:
    """How often the first scores are below the second ones. low, high: Wilson's 95% interval. gain: median of the log of
    their ratio, negative where the first are lower, with its bootstrap interval. tasks: their number; a tie is half a win.

    >>> from cloche.train.controller import WinRate
    >>> print(WinRate(0.6, 0.45, 0.74, gain=-0.1, gain_low=-0.2, gain_high=0.0, tasks=40))
    wins 0.60 [0.45, 0.74] of 40, final loss x 0.905 [0.819, 1]
    """

    rate: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    tasks: int

    def __str__(self) -> str:
        return (
            f"wins {self.rate:.2f} [{self.low:.2f}, {self.high:.2f}] of {self.tasks}, "
            f"final loss x {math.exp(self.gain):.3g} [{math.exp(self.gain_low):.3g}, {math.exp(self.gain_high):.3g}]"
        )


def win_rate(first: Tensor, second: Tensor, seed: int = 0) -> WinRate:
    """Compares scores [task], the lower the better; infinite ones, of runs that diverged, lose.

    >>> import torch
    >>> from cloche.train.controller import win_rate
    >>> print(win_rate(torch.tensor([1.0, 1.0, 1.0, 9.0]), torch.tensor([2.0, 2.0, torch.inf, 3.0])))
    wins 0.75 [0.30, 0.95] of 4, final loss x 0.5 [9.36e-14, 3]
    """
    n, z = len(first), 1.96
    rate = ((first < second).double() + 0.5 * (first == second)).mean().item()
    centre, spread = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    logs = (first.double().clamp(1e-30, 1e30).log() - second.double().clamp(1e-30, 1e30).log()).clamp(-30, 30).numpy()
    draws = np.random.default_rng(seed).integers(n, size=(2000, n))
    medians = np.quantile(np.median(logs[draws], axis=1), [0.025, 0.975])
    scale = 1 + z * z / n
    low, high = (float(value) for value in medians)
    return WinRate(rate, (centre - spread) / scale, (centre + spread) / scale, float(np.median(logs)), low, high, n)


def held_out(families: Sequence[Family], tasks: int, steps: int, batches: int = 2) -> Drawn:
    """`batches` times `tasks` tasks of each family, of seeds on which no search trains.

    >>> from cloche.train.controller import Quadratic, held_out
    >>> [len(tasks.weights[0]) for _, tasks in held_out([Quadratic()], tasks=3, steps=10)]
    [3, 3]
    """
    return [(family, family.draw(tasks, HELD_OUT + batch, steps)) for family in families for batch in range(batches)]


def outcomes(policy: Policy, vectors: Tensor, rule: UpdateRule, drawn: Drawn, steps: int) -> list[Outcome]:
    """Runs of the candidates on all tasks, family by family.

    >>> import torch
    >>> from cloche.train.controller import AdamSteps, Fixed, Quadratic, held_out, outcomes
    >>> vectors = torch.from_numpy(Fixed().centre())[None].float()
    >>> len(outcomes(Fixed(), vectors, AdamSteps(), held_out([Quadratic()], tasks=3, steps=10), steps=10))
    2
    """
    return [rollout(policy, vectors, rule, family, tasks, steps) for family, tasks in drawn]


def tuned_per_task(policy: Policy, vector: Tensor, rule: UpdateRule, drawn: Drawn, steps: int, trials: int) -> Tensor:
    """The best score of each task within the first k trials [trials, task]: the first is `vector`, the others have a rate
    up to 10 times and a 1 - momentum up to 5 times larger or smaller, all drawn at random. The best is chosen by the final
    score itself, so this is a stronger opponent than one who tunes on a validation set.

    >>> import torch
    >>> from cloche.train.controller import AdamSteps, Fixed, Quadratic, held_out, tuned_per_task
    >>> vector, drawn = torch.from_numpy(Fixed().centre()).float(), held_out([Quadratic()], tasks=3, steps=10)
    >>> best = tuned_per_task(Fixed(), vector, AdamSteps(), drawn, steps=10, trials=4)
    >>> bool((best[3] <= best[0]).all())
    True
    """
    g = torch.Generator().manual_seed(HELD_OUT)
    shifts = torch.zeros((trials, policy.size))
    for number, reach in enumerate((10.0, 5.0)):
        shifts[1:, number] = math.log(reach) * (2 * torch.rand(trials - 1, generator=g) - 1)
    found = torch.cat([outcome.scores for outcome in outcomes(policy, vector + shifts, rule, drawn, steps)], 1)
    return found.cummin(0).values


class Replayed(Policy):
    """A controller's mean run, replayed without looking: what is left of it as a schedule. settings: [step, knob], the
    (geometric) means of rate, 1 - momentum and decay. Its vector is `vector`.

    >>> import torch
    >>> from cloche.train.controller import AdamSteps, Quadratic, Replayed, held_out, outcomes
    >>> replayed = Replayed(torch.tensor([[0.1, 0.1, 1e-6]]).expand(10, 3))
    >>> found = outcomes(replayed, replayed.vector, AdamSteps(), held_out([Quadratic()], tasks=3, steps=10), steps=10)
    >>> round(found[0].settings[5, 0, 0, 0, 0].item(), 3)
    0.1
    """

    def __init__(self, settings: Tensor) -> None:
        self.settings = settings
        self.vector = torch.tensor([[settings[0, 0].log().item(), 0.0, 0.0]])

    @classmethod
    def of(cls, found: Sequence[Outcome]) -> Replayed:
        """The mean of these runs, over tasks and groups."""
        runs = torch.cat([outcome.settings.flatten(1, 3) for outcome in found], 1)  # [step, run, knob]
        runs = torch.stack([runs[..., 0], 1 - runs[..., 1], runs[..., 2] + NO_DECAY], -1)
        return cls(runs.clamp(min=1e-9).log().nanmean(1).exp())  # knobs of runs that diverged are not numbers

    def knobs(self, vectors: Tensor, state: Tensor, features: Tensor, progress: float) -> tuple[Tensor, Knobs]:
        now = self.settings[round(progress * len(self.settings))].log()
        now = torch.cat([now[:1] - self.vector[0, :1], now[1:]])
        return set_logs(state, now.expand(*state.shape[:-1], len(now)), torch.zeros(2))


def constant_knobs(found: Sequence[Outcome]) -> dict[str, float]:
    """How much each knob varies within the median run (see `variation`), and "constant": 1 if none varies by more than 5%.

    >>> import torch
    >>> from cloche.train.controller import AdamSteps, Quadratic, Steered, constant_knobs, held_out, outcomes
    >>> vectors = torch.from_numpy(Steered().centre())[None].float()  # a network of zeros
    >>> constant_knobs(outcomes(Steered(), vectors, AdamSteps(), held_out([Quadratic()], tasks=3, steps=10), steps=10))
    {'rate': 0.0, 'momentum': 0.0, 'decay': 0.0, 'constant': 1.0}
    """
    varied = torch.cat([outcome.variation.flatten(0, 1) for outcome in found]).nan_to_num(0.0).median(0).values
    by_knob = {knob: round(value, 3) for knob, value in zip(KNOBS, varied.tolist(), strict=True)}
    return {**by_knob, "constant": float(max(by_knob.values()) < CONSTANT)}
