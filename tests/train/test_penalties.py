"""L1 and L2 in the loss against their closed forms, and L2 against decoupled decay; the activation penalty's invariance."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from cloche.errors import ClocheError
from cloche.part import part_from_line
from cloche.train import (
    L1,
    L2,
    ActivationL1,
    AdamW,
    NextToken,
    Objective,
    Optimizer,
    Penalised,
    Penalty,
    Stepper,
    Term,
    total_loss,
)
from cloche.train.penalties.activations import watched_activations


@dataclass(frozen=True)
class Near(Objective):
    """Half the squared distance of the weights from a target: with a penalty its minimum is known."""

    def terms(self, net, batch):
        return {"loss": Term((net.weight - batch).square().sum() / 2)}


@dataclass(frozen=True)
class Nothing(Objective):
    def terms(self, net, batch):
        return {"loss": Term(0 * net.weight.sum())}


@dataclass(frozen=True)
class Descent(Optimizer):
    """Plain gradient descent, of torch's: its decay is added to the gradient."""

    weight_decay: float = 0.0

    def build(self, net, dtype=torch.float32):
        named = [{"name": "all", "params": list(net.parameters()), "lr": self.lr}]
        return [torch.optim.SGD(named, weight_decay=self.weight_decay)]


def linear(weights):
    net = nn.Linear(len(weights), 1, bias=False)
    net.weight.data = torch.tensor([weights])
    return net


def trained(net, objective, optimizer, steps, batch=None):
    stepper = Stepper(net, optimizer)
    for _ in range(steps):
        stepper.set_rate(1.0)
        stepper.zero_grad()
        total_loss(objective.terms(net, batch)).backward()
        stepper.step()
    return net.weight.detach()[0]


TARGET = [2.0, -0.5, 0.1]


@pytest.mark.parametrize(
    ("penalties", "minimum", "within"),
    [
        ((), TARGET, 1e-5),
        ((L2(weight=0.25),), [1.6, -0.4, 0.08], 1e-5),  # target / (1 + weight)
        ((L1(weight=0.3),), [1.7, -0.2, 0.0], 0.05 * 0.4),  # shrunk by the weight, or zero to within a step
        ((L1(weight=0.3), L2(weight=0.25)), [1.36, -0.16, 0.0], 0.05 * 0.4),  # the elastic net
    ],
)
def test_the_minimum_is_the_closed_form(penalties, minimum, within):
    net = linear([0.3, 0.2, -0.7])
    found = trained(net, Penalised(Near(), penalties), Descent(lr=0.05), 300, torch.tensor([TARGET]))
    torch.testing.assert_close(found, torch.tensor(minimum), rtol=0, atol=within)


def test_under_adam_l2_in_the_loss_is_not_decoupled_decay():
    """With nothing else in the loss, Adam's first step under L2 moves every weight by the rate, however large the weight and
    the penalty; decoupled decay multiplies every weight by 1 - lr x decay. Under plain descent the two are one."""
    weights, lr, decay = [4.0, -1.0, 0.25], 0.01, 0.1
    start = torch.tensor(weights)
    objective = Penalised(Nothing(), (L2(weight=decay),))
    in_loss = trained(linear(weights), objective, AdamW(lr=lr, weight_decay=0.0), 1)
    torch.testing.assert_close(in_loss, start - lr * start.sign(), rtol=1e-5, atol=0)
    decoupled = trained(linear(weights), Nothing(), AdamW(lr=lr, weight_decay=decay), 1)
    torch.testing.assert_close(decoupled, start * (1 - lr * decay), rtol=1e-6, atol=0)
    assert Stepper(linear(weights), AdamW(lr=lr, weight_decay=decay)).shrink() == {"shrink_matrix": 1 - lr * decay}
    plain = trained(linear(weights), objective, Descent(lr=lr), 1)
    torch.testing.assert_close(plain, start * (1 - lr * decay), rtol=1e-6, atol=0)


def test_a_decay_that_is_added_to_the_gradient_is_not_reported_as_decoupled():
    assert Stepper(linear([1.0]), Descent(lr=0.1, weight_decay=0.1)).shrink() == {}
    assert Stepper(linear([1.0]), AdamW(weight_decay=0.0)).shrink() == {}


def test_penalties_leave_the_loss_and_its_validation_alone(tiny):
    net, batch = tiny.model.build(0), torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(0))
    line = "Penalised(objective=NextToken(), penalties=[L1(weight=1e-6), L2(groups=['embedding']), ActivationL1(weight=1e-4)])"
    objective = part_from_line(line, Objective)
    assert part_from_line(objective.to_line(), Objective) == objective
    objective.check(net)
    terms, plain = objective.terms(net, batch), NextToken().terms(net, batch)
    assert list(terms) == ["loss", "l1", "l2", "activation_l1"]
    assert torch.equal(terms["loss"].value, plain["loss"].value)
    assert torch.equal(objective.nats(net, batch)[0], NextToken().nats(net, batch)[0])
    matrices = [p for _, p in net.groups()["matrix"]]
    assert terms["l1"].value.item() == pytest.approx(sum(p.abs().sum().item() for p in matrices), rel=1e-5)
    assert terms["l2"].value.item() == pytest.approx(net.embed.weight.square().sum().item() / 2, rel=1e-5)
    acts = net.run(batch[:, :-1], save="mlp_act.all")["mlp_act.all"].abs().mean((1, 2))  # [layer, unit]
    norms = torch.stack([block.map.outer.weight.norm(dim=0) for block in net.layers])
    assert terms["activation_l1"].value.item() == pytest.approx((acts * norms).sum().item(), rel=1e-5)


class Hidden(nn.Module):
    def __init__(self, width, hidden, out):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, out)

    def forward(self, x):
        return self.outer(self.inner(x).relu())


def test_rescaling_does_not_cheat_the_activation_penalty():
    torch.manual_seed(0)
    net, x = Hidden(4, 8, 3), torch.randn(50, 4)

    def value():
        with watched_activations(net) as hidden:
            net(x)
        return ActivationL1().value(net, hidden()).item()

    before, out = value(), net(x).detach()
    with torch.no_grad():
        net.inner.weight.mul_(0.1), net.inner.bias.mul_(0.1), net.outer.weight.mul_(10)
    torch.testing.assert_close(net(x), out)
    assert value() == pytest.approx(before, rel=1e-5)
    assert not net.outer._forward_pre_hooks


def test_what_would_penalise_nothing_is_one_sentence():
    with pytest.raises(ClocheError, match=r"has l2 twice"):
        Penalised(penalties=(L2(), L2(groups=("vector",))))
    with pytest.raises(ClocheError, match=r"penalises nothing; name matrix"):
        L1(groups=())
    with pytest.raises(ClocheError, match="must be one of 'matrix', 'embedding', 'vector'"):
        part_from_line("L1(groups=['rest'])", Penalty)
    with pytest.raises(ClocheError, match="has none in embedding"):
        L1(groups=("embedding",)).check(nn.Linear(2, 1))
    with pytest.raises(ClocheError, match="finds no hidden layer"):
        ActivationL1().check(nn.Linear(2, 1))
    with pytest.raises(ClocheError, match="must lie between 0"):
        L2(weight=-1.0)
