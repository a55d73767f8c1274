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
    knob], the largest over groups. settings: learning rate, momentum and decay of each step [step, candidate, task, group,
    knob]. losses: of each step [step, candidate, task].

    >>> import torch
    >>> from cloche.train.controller import AdamSteps, Fixed, Quadratic, rollout
    >>> vectors = torch.from_numpy(Fixed().centre())[None].float()
    >>> outcome = rollout(Fixed(), vectors, AdamSteps(), Quadratic(), Quadratic().draw(2, seed=0, steps=9), steps=9)
    >>> tuple(outcome.scores.shape), tuple(outcome.settings.shape), outcome.variation.max().item()
    ((1, 2), (9, 1, 2, 1, 3), 0.0)
    """

    scores: Tensor
    variation: Tensor
    settings: Tensor
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
    flat, weights, member = _flattened(tasks, many)
    decays, base = torch.tensor(tasks.decays).float(), vectors[:, :1, None].exp()
    state = new_state((many, count * groups)).to(flat.dtype)
    rule_state: State = {}
    before, settings, losses = torch.zeros_like(flat), [], []
    for step in range(steps):
        loss = family.loss(weights, tasks, step)
        grads = torch.cat([grad.flatten(2) for grad in torch.autograd.grad(loss.sum(), weights)], -1)
        with torch.no_grad():
            state, features = observe(state, _seen(loss, grads, before, member), step / steps)
            state, knobs = policy.knobs(vectors, state, features, step / steps)
            factor, momentum, decay = (knob.view(many, count, groups) for knob in knobs)
            turned = torch.stack([base * factor, momentum, decay * decays])  # [knob, candidate, task, group]
            rule.update(flat, grads, rule_state, *(turned @ member.T))
            before = grads
        settings.append(turned.movedim(0, -1))
        losses.append(loss.detach())
    with torch.no_grad():
        scores = family.score(weights, tasks)
    spread = variation(state).view(many, count, groups, -1).amax(2)
    return Outcome(scores.nan_to_num(torch.inf, torch.inf), spread, torch.stack(settings), torch.stack(losses))


def _flattened(tasks: Tasks, many: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """All weights of a task in one axis [candidate, task, weight], so that a step is a few operations; the weights as views of
    it; and which group each is a member of [weight, group]."""
    flat = torch.cat([w.flatten(1) for w in tasks.weights], -1).expand(many, -1, -1).clone()
    sizes = [w[0].numel() for w in tasks.weights]
    weights = [
        part.view(many, *w.shape).requires_grad_() for part, w in zip(flat.split(sizes, -1), tasks.weights, strict=True)
    ]
    numbers = torch.tensor([next(g for g, held in enumerate(tasks.groups) if i in held) for i in range(len(sizes))])
    group = numbers.repeat_interleave(torch.tensor(sizes))
    return flat, weights, torch.nn.functional.one_hot(group, len(tasks.groups)).to(flat.dtype)


def _seen(loss: Tensor, grads: Tensor, before: Tensor, member: Tensor) -> Seen:
    """Norms and cosines by group, groups flattened into the axis of tasks: [candidate, task * group]."""
    square, dot, old = (torch.stack([grads * grads, grads * before, before * before]) @ member).flatten(2)
    each = loss[..., None].expand(*loss.shape, member.shape[1]).flatten(1)
    return Seen(each, square.sqrt(), dot / (square * old).sqrt().clamp(min=1e-30))
