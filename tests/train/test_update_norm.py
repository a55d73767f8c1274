"""The norm of every update, as the optimisers know it, against a copy of the weights."""

import pytest
import torch

from cloche.model import GLU, LM, Attention, Block, Stack
from cloche.train import (
    KFAC,
    SGD,
    SOAP,
    AdamW,
    Group,
    Health,
    Learned,
    Library,
    Muon,
    NextToken,
    RMSprop,
    Shampoo,
    Stepper,
)

NET = LM(vocab=20, width=16, body=Stack(2, Block(Attention(2), GLU(hidden=20))))
EXACT = (
    AdamW(lr=0.01),
    AdamW(lr=0.01, groups=(Group("layers.0", lr=0.05, beta2=0.5), Group("embed", lr=0.0))),
    SGD(lr=0.1, weight_decay=0.2),
    SGD(lr=0.1, nesterov=True),
    SGD(lr=0.1, momentum=0.0, weight_decay=0.2),
    RMSprop(lr=0.01),
    RMSprop(lr=0.01, momentum=0.8, centered=True),
    Muon(lr=0.02, weight_decay=2.0),
    KFAC(lr=0.1),
    Shampoo(lr=0.01),
    SOAP(lr=0.01),
)


def batch(seed: int = 0) -> torch.Tensor:
    return torch.randint(20, (4, 13), generator=torch.Generator().manual_seed(seed))


def backward(net: torch.nn.Module, optimizer: Stepper, seed: int) -> None:
    optimizer.zero_grad()
    NextToken().terms(net, batch(seed))["loss"].value.backward()
    optimizer.clip_gradient()


@pytest.mark.parametrize("part", EXACT, ids=lambda part: part.to_line())
def test_the_optimiser_knows_how_far_each_weight_moved(part):
    net = NET.build(0)
    optimizer, norms = Stepper(net, part), []
    for step in range(3):
        backward(net, optimizer, step)
        before = {p: p.detach().double() for p in net.parameters()}
        optimizer.step(1.0)
        known, true = optimizer.moved(), {p: (p.detach() - old).square().sum().item() for p, old in before.items()}
        for p, square in true.items():
            assert known[p].item() == pytest.approx(square, rel=1e-3, abs=1e-12)
        norms.append(sum(true.values()) ** 0.5)
        assert torch.linalg.vector_norm(optimizer.update_norms[1]).item() == pytest.approx(norms[-1], rel=1e-3)
    assert min(norms) > 1e-3  # they did move


@pytest.mark.parametrize("part", [Library("torch.optim:Adamax", lr=0.01), Learned(lr=0.01)])
def test_what_says_nothing_of_its_updates_is_measured_by_a_copy(part):
    net = NET.build(0)
    optimizer = Stepper(net, part)
    health = Health(net, optimizer=optimizer)
    backward(net, optimizer, 0)
    before = [p.detach().clone() for p in net.layers[0].parameters()]
    health.before()
    optimizer.step(1.0)
    assert optimizer.moved() is None and optimizer.update_norms is None
    moved = sum((p - old).square().sum() for p, old in zip(net.layers[0].parameters(), before, strict=True)).sqrt()
    ratio = moved / sum(old.square().sum() for old in before).sqrt()
    assert health.record(1, batch()[:, :-1], 1.0)["update_ratio"][1] == pytest.approx(ratio.item(), rel=1e-5)


def test_health_asks_the_optimiser_and_copies_nothing():
    ratios = []
    for told in (True, False):
        net = NET.build(0)
        optimizer = Stepper(net, AdamW(lr=0.01))
        health = Health(net, optimizer=optimizer if told else None)
        backward(net, optimizer, 0)
        health.before()
        assert bool(health.weights) is not told
        optimizer.step()
        ratios.append(health.record(1, batch()[:, :-1], 1.0)["update_ratio"])
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-3)
