"""Runs of many candidates on many tasks at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.train.controller.controller import Seen, new_state, observe, variation
from cloche.train.controller.families import Family, Tasks
from cloche.train.controller.policies import Policy
from cloche.train.controller.rules import State, UpdateRule


@dataclass(frozen=True)
class Outcome:
    """Results of runs. scores: [candidate, task], infinite where a run diverged. variation: of each knob [candidate, task,
    knob], the largest over groups. rates: learning rates at each step, of the first group [step, candidate, task]. losses: of
    each step, likewise.

    >>> import torch
    >>> from cloche.train.controller import AdamSteps, Fixed, Quadratic, rollout
    >>> vectors = torch.from_numpy(Fixed().centre())[None].float()
    >>> outcome = rollout(Fixed(), vectors, AdamSteps(), Quadratic(), Quadratic().draw(2, seed=0, steps=9), steps=9)
    >>> tuple(outcome.scores.shape), tuple(outcome.rates.shape), outcome.variation.max().item()
    ((1, 2), (9, 1, 2), 0.0)
    """

    scores: Tensor
    variation: Tensor
    rates: Tensor
    losses: Tensor


def rollout(policy: Policy, vectors: Tensor, rule: UpdateRule, family: Family, tasks: Tasks, steps: int) -> Outcome:
    """Trains each task by each candidate: `vectors` [candidate, policy.size].

    >>> import torch
    >>> from cloche.train.controller import Fixed, HeavyBall, Quadratic, rollout
    >>> tasks = Quadratic().draw(2, seed=0, steps=50)
    >>> vectors = torch.tensor([[-4.0, -1.0, -20.0], [9.0, -1.0, -20.0]])
    >>> scores = rollout(Fixed(), vectors, HeavyBall(), Quadratic(), tasks, steps=50).scores
    >>> scores.isinf().tolist()
    [[False, False], [True, True]]
    """
    many, count, groups = len(vectors), len(tasks.weights[0]), len(tasks.groups)
    group_of = {number: group for group, numbers in enumerate(tasks.groups) for number in numbers}
    weights = [w.expand(many, *w.shape).clone().requires_grad_() for w in tasks.weights]
    decays, base = torch.tensor(tasks.decays).float(), vectors[:, :1, None].exp()
    states: list[State] = [{} for _ in weights]
    state, before = new_state((many, count * groups)).to(weights[0].dtype), list[Tensor]()
    rates, losses = [], []
    for step in range(steps):
        loss = family.loss(weights, tasks, step)
        grads = list(torch.autograd.grad(loss.sum(), weights))
        with torch.no_grad():
            seen = _seen(loss, grads, before, tasks)
            state, features = observe(state, seen, step / steps)
            state, knobs = policy.knobs(vectors, state, features, step / steps)
            factor, momentum, decay = (knob.view(many, count, groups) for knob in knobs)
            rate, decay, before = base * factor, decay * decays, grads
            for number, (w, grad) in enumerate(zip(weights, grads, strict=True)):
                turned = (_as(knob[..., group_of[number]], w) for knob in (rate, momentum, decay))
                rule.update(w, grad, states[number], *turned)
        rates.append(rate[..., 0])
        losses.append(loss.detach())
    with torch.no_grad():
        scores = family.score(weights, tasks)
    spread = variation(state).view(many, count, groups, -1).amax(2)
    return Outcome(scores.nan_to_num(torch.inf, torch.inf), spread, torch.stack(rates), torch.stack(losses))


def _seen(loss: Tensor, grads: list[Tensor], before: list[Tensor], tasks: Tasks) -> Seen:
    """Norms and cosines by group, groups flattened into the axis of tasks: [candidate, task * group]."""
    squares, dots, olds = [], [], []
    for numbers in tasks.groups:
        squares.append(sum(_dot(grads[i], grads[i]) for i in numbers))
        olds.append(sum(_dot(before[i], before[i]) for i in numbers) if before else torch.zeros_like(loss))
        dots.append(sum(_dot(grads[i], before[i]) for i in numbers) if before else torch.zeros_like(loss))
    square, dot, old = (torch.stack(values, -1).flatten(1) for values in (squares, dots, olds))  # type: ignore[arg-type]
    each = loss[..., None].expand(*loss.shape, len(tasks.groups)).flatten(1)
    return Seen(each, square.sqrt(), dot / (square * old).sqrt().clamp(min=1e-30))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(2).sum(-1)


def _as(knob: Tensor, weights: Tensor) -> Tensor:
    return knob.view(*knob.shape, *[1] * (weights.ndim - 2))
