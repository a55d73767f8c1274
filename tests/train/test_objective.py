"""The fused head loss against float64 and against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, MoE, Stack, Unembed
from cloche.train import NextToken, total_loss
from cloche.train.objectives.head_loss import HeadLoss, Shape

TOKENS, WIDTH, VOCAB = 37, 24, 61


def problem(dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(TOKENS, WIDTH, generator=g).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, WIDTH, generator=g).to(dtype).requires_grad_()
    importance = torch.rand(TOKENS, generator=g)
    importance[::5] = 0.0
    return hidden, weight, torch.randint(VOCAB, (TOKENS,), generator=g), importance


def reference():
    hidden, weight, target, importance = problem(torch.float64)
    losses = F.cross_entropy(hidden @ weight.T, target, reduction="none") * importance
    losses.sum().backward()
    return losses.sum().item(), hidden.grad, weight.grad


def relative(a, b):
    return ((a.double() - b).norm() / b.norm()).item()


@pytest.mark.parametrize("chunk", [1, 7, 37, 1000])
def test_loss_and_gradients_equal_float64(chunk):
    loss64, grad_h, grad_w = reference()
    hidden, weight, target, importance = problem()
    loss = HeadLoss.apply(hidden, weight, target, importance, Shape(chunk))[0]
    (3 * loss).backward()
    assert loss.item() == pytest.approx(loss64, rel=1e-6)
    assert relative(hidden.grad, 3 * grad_h) < 1e-6
    assert relative(weight.grad, 3 * grad_w) < 1e-6


def test_gradcheck():
    hidden, weight, target, importance = (x[:6] for x in problem(torch.float64))
    target, inputs = target % 6, (hidden.detach().requires_grad_(), weight.detach().requires_grad_())
    torch.autograd.gradcheck(
        lambda h, w: HeadLoss.apply(h, w, target, importance.double(), Shape(4))[0], inputs, fast_mode=True
    )


def test_bf16_rounds_only_the_products():
    loss64, grad_h, grad_w = reference()
    hidden, weight, target, importance = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = HeadLoss.apply(hidden, weight, target, importance, Shape(8))[0]
    loss.backward()
    assert loss.dtype == hidden.grad.dtype == weight.grad.dtype == torch.float32
    assert loss.item() == pytest.approx(loss64, rel=1e-2)
    assert relative(hidden.grad, grad_h) < 1e-2
    assert relative(weight.grad, grad_w) < 1e-2


def test_large_logits_stay_finite():
    hidden, weight, target, importance = problem()
    loss = HeadLoss.apply(hidden * 1e4, weight, target, importance, Shape(8))[0]
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(hidden.grad).all()


def test_without_gradients_none_are_made():
    hidden, weight, target, importance = problem()
    with torch.no_grad():
        loss = HeadLoss.apply(hidden, weight, target, importance, Shape(8))[0]
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(reference()[0], rel=1e-6)


def test_next_token_equals_cross_entropy_through_a_network(tiny):
    net, batch = tiny.model.build(0), torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(0))
    loss = total_loss(NextToken(chunk=10).terms(net, batch))
    loss.backward()
    ours = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    direct = F.cross_entropy(net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
    direct.backward()
    assert loss.item() == pytest.approx(direct.item(), rel=1e-5)
    for name, p in net.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("biased", [False, True])
def test_gradcheck_of_capped_and_biased_heads(cap, biased):
    hidden, weight, target, importance = (x[:6] for x in problem(torch.float64))
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True) if biased else None
    inputs = [hidden.detach().requires_grad_(), weight.detach().requires_grad_(), *([bias] if biased else [])]

    def loss(h, w, b=None):
        return HeadLoss.apply(h, w, target % 6, importance.double(), Shape(4, cap), b)[0]

    torch.autograd.gradcheck(loss, inputs, fast_mode=False)


def capped_and_biased(experts=True, **head):
    map = MoE(4, 2, GLU(hidden=8)) if experts else GLU(hidden=8)
    blocks = (Block(mix=Attention(heads=2), map=map), Block(mix=Attention(heads=2), map=GLU(hidden=8)))
    net = LM(vocab=11, width=8, body=Stack(3, blocks), head=Unembed(**head)).build(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, p in net.groups()["vector"]:
            p += 0.5 * torch.randn(p.shape, generator=generator)
        net.unembed.weight.mul_(3)
        for block in net.layers[::2]:
            if experts:
                block.map.router.weight.mul_(20)
    return net, torch.randint(11, (3, 17), generator=generator)


@pytest.mark.parametrize("experts", [False, True])
@pytest.mark.parametrize("head", [{}, {"bias": True}, {"cap": 2.0}, {"bias": True, "cap": 2.0}])
def test_the_loss_is_autograds_over_full_logits(experts, head):
    net, batch = capped_and_biased(experts, **head)
    loss = total_loss(NextToken(chunk=10, balance=0.3).terms(net, batch))
    loss.backward()
    ours = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    logits = net(batch[:, :-1])
    direct = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    if experts:  # from the routers' own logits, by Switch's formula
        site = net.run(batch[:, :-1], save="router.all", grad=True)["router.all"].flatten(1, 2)
        for layer in site:
            shares = layer.softmax(-1)
            sent = F.one_hot(shares.topk(2).indices, 4).sum(1).double().mean(0)
            direct = direct + 0.3 * 4 * (sent * shares.mean(0)).sum()
    direct.backward()
    assert loss.item() == pytest.approx(direct.item(), rel=1e-5)
    if "cap" in head:
        assert logits.abs().max() > 1.5  # where the cap bends
    for name, p in net.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_balance_reaches_the_routers_alone_where_it_should():
    """The control: without its weight the routers' gradients are others, and cross-entropy is reported the same."""
    net, batch = capped_and_biased()
    grads = []
    for weight in (0.0, 0.3):
        objective = NextToken(balance=weight)
        terms = objective.terms(net, batch)
        net.zero_grad()
        total_loss(terms).backward()
        grads.append(
            (terms["loss"].value.item(), net.layers[2].map.router.weight.grad.clone(), net.unembed.weight.grad.clone())
        )
    assert grads[0][0] == grads[1][0] and torch.equal(grads[0][2], grads[1][2])
    assert not torch.allclose(grads[0][1], grads[1][1], rtol=1e-2)


def test_what_is_evaluated_has_no_balance_in_it():
    net, batch = capped_and_biased(bias=True, cap=2.0)
    with torch.no_grad():
        nats, weight = NextToken(balance=100.0).nats(net, batch)
        direct = F.cross_entropy(net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
    assert (nats / weight).item() == pytest.approx(direct.item(), rel=1e-6)


def test_what_the_loss_would_leave_out_is_refused():
    class Another(Unembed):
        pass

    class Spreading:
        """The network, with an auxiliary loss that the objective does not know."""

        def __init__(self, net):
            self.net = net

        def hidden_and_losses(self, ids, documents, prefix):
            return self.net.hidden(ids), {"spread": torch.ones(())}

    net, batch = capped_and_biased(experts=False)
    NextToken().check(net)
    with pytest.raises(ClocheError, match="'spread', which NextToken would ignore"):
        NextToken().terms(Spreading(net), batch)
    net.spec = LM(vocab=11, width=8, body=net.spec.body, head=Another())
    with pytest.raises(ClocheError, match="cannot be trained"):
        NextToken().check(net)
