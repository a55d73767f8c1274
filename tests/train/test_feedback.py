"""Feedback alignment: with the weights themselves as feedback it is backpropagation; with random ones it still learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cloche.errors import ClocheError
from cloche.model import GLU, LM, MLP, Attention, Block, MoE, Stack, linear_maps, with_feedback
from cloche.part import part_from_line
from cloche.train import AdamW, FeedbackAlignment, NextToken, Objective, SquaredError, Stepper, total_loss

BATCH = torch.randint(40, (3, 9), generator=torch.Generator().manual_seed(0))


def network(**settings):
    blocks = (Block(Attention(2), GLU(hidden=24, bias=True)), Block(Attention(2), MoE(2, 1, MLP(hidden=12))))
    return LM(40, 16, Stack(2, blocks), **settings).build(seed=0)


def gradients(net, objective, batch=BATCH):
    net.zero_grad()
    total_loss(objective.terms(net, batch)).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_with_the_weights_as_feedback_it_is_backpropagation(tied, precision):
    net, fast = network(tied=tied), precision == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        expected = gradients(net, NextToken())
        with with_feedback(net, {name: module.weight.detach().clone() for name, module in linear_maps(net).items()}):
            found = gradients(net, NextToken())
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        torch.testing.assert_close(
            grad, expected[name], rtol=2e-2 if fast else 1e-4, atol=1e-3 if fast else 1e-6, msg=name
        )


def test_every_linear_map_is_fed_back_and_the_forward_pass_is_the_same():
    """Control: the gradients below the head are others; the head's own is not. Each map's matrix matters."""
    net, objective = network(), part_from_line("FeedbackAlignment(objective=NextToken(), seed=3)", Objective)
    assert torch.equal(objective.terms(net, BATCH)["loss"].value, NextToken().terms(net, BATCH)["loss"].value)
    true, fed = gradients(net, NextToken()), gradients(net, objective)
    assert torch.equal(fed["unembed.weight"], true["unembed.weight"])
    assert not torch.allclose(fed["embed.weight"], true["embed.weight"], rtol=0.1)
    maps = linear_maps(net)
    assert (
        len(maps) == 1 + 2 + 2 + 2 + 1 + 4
    )  # the head; qkv and out of two layers; inner and outer; the router; the experts'
    for name in maps:
        with with_feedback(net, {name: torch.zeros_like(maps[name].weight)}):
            cut = gradients(net, NextToken())
        same = torch.equal(cut["embed.weight"], true["embed.weight"])
        assert not same, f"{name} is not fed back"
    assert all(module.feedback is None for module in maps.values())
    again, other = FeedbackAlignment(seed=3).matrices(network()), FeedbackAlignment(seed=4).matrices(net)
    for name, matrix in objective.matrices(net).items():
        assert torch.equal(matrix, again[name]) and not torch.equal(matrix, other[name])
        declared = maps[name].declared["weight"].std
        assert matrix.std().item() == pytest.approx(declared, rel=0.3)


def test_it_learns_a_linear_task_and_its_gradient_turns_to_the_true_one():
    """The paper's linear task, 30-20-10. Control: with the lower map frozen, the 20 random directions of it do not suffice."""
    torch.manual_seed(0)
    target = torch.randn(10, 30) / 30**0.5
    target = target / target.std() * 0.2

    def batch(step):
        x = torch.randn(64, 30, generator=torch.Generator().manual_seed(step))
        return x, x @ target.T

    def trained(objective, frozen=False, steps=600):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10))
        net[0].requires_grad_(not frozen)
        stepper = Stepper(net, AdamW(lr=0.01, weight_decay=0.0))
        for step in range(steps):
            stepper.set_rate(1 - step / steps)
            gradients(net, objective, batch(step))
            stepper.step()
        return net, objective.terms(net, batch(-1))["loss"].value.item()

    fed, plain = FeedbackAlignment(SquaredError(), seed=1), SquaredError()
    before = fed.angles(nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10)), batch(-1))["0.weight"]
    net, loss = trained(fed)
    start = trained(fed, steps=0)[1]
    backpropagated, frozen = trained(plain)[1], trained(plain, frozen=True)[1]
    # Where the loss is nearly zero no gradient has a direction: the angle is taken on the way.
    halfway = fed.angles(trained(fed, steps=150)[0], batch(-1))["0.weight"]
    assert before > 75 and halfway < 60, (before, halfway)
    assert loss < 0.01 * start and backpropagated < 0.01 * start < 0.2 * start < frozen, (
        loss,
        backpropagated,
        frozen,
        start,
    )
    assert fed.angles(net, batch(-1))["1.weight"] < 0.1  # the last map's is the true one


def test_a_network_without_linear_maps_is_one_sentence():
    with pytest.raises(ClocheError, match="finds no linear map"):
        FeedbackAlignment(SquaredError()).check(nn.ReLU())
