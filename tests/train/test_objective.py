"""The fused head loss against float64 and against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from glasshouse.errors import GlasshouseError
from glasshouse.model import GLU, LM, Attention, Block, MoE, Stack, Unembed
from glasshouse.train import NextToken
from glasshouse.train.objective import HeadLoss

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
    loss = HeadLoss.apply(hidden, weight, target, importance, chunk)
    (3 * loss).backward()
    assert loss.item() == pytest.approx(loss64, rel=1e-6)
    assert relative(hidden.grad, 3 * grad_h) < 1e-6
    assert relative(weight.grad, 3 * grad_w) < 1e-6


def test_gradcheck():
    hidden, weight, target, importance = (x[:6] for x in problem(torch.float64))
    target, inputs = target % 6, (hidden.detach().requires_grad_(), weight.detach().requires_grad_())
    torch.autograd.gradcheck(lambda h, w: HeadLoss.apply(h, w, target, importance.double(), 4), inputs, fast_mode=True)


def test_bf16_rounds_only_the_products():
    loss64, grad_h, grad_w = reference()
    hidden, weight, target, importance = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = HeadLoss.apply(hidden, weight, target, importance, 8)
    loss.backward()
    assert loss.dtype == hidden.grad.dtype == weight.grad.dtype == torch.float32
    assert loss.item() == pytest.approx(loss64, rel=1e-2)
    assert relative(hidden.grad, grad_h) < 1e-2
    assert relative(weight.grad, grad_w) < 1e-2


def test_large_logits_stay_finite():
    hidden, weight, target, importance = problem()
    loss = HeadLoss.apply(hidden * 1e4, weight, target, importance, 8)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(hidden.grad).all()


def test_without_gradients_none_are_made():
    hidden, weight, target, importance = problem()
    with torch.no_grad():
        loss = HeadLoss.apply(hidden, weight, target, importance, 8)
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(reference()[0], rel=1e-6)


def test_next_token_equals_cross_entropy_through_a_network(tiny):
    net, batch = tiny.model.build(0), torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(0))
    loss = NextToken(chunk=10).loss(net, batch)
    loss.backward()
    ours = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    direct = F.cross_entropy(net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
    direct.backward()
    assert loss.item() == pytest.approx(direct.item(), rel=1e-5)
    for name, p in net.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("spoilt", ["head bias", "head cap", "experts", None])
def test_what_the_loss_would_leave_out_is_refused(spoilt):
    experts = MoE(experts=4, active=2, expert=GLU(hidden=8))
    block = Block(mix=Attention(heads=2), map=experts if spoilt == "experts" else GLU(hidden=8))
    head = Unembed(bias=spoilt == "head bias", cap=5.0 if spoilt == "head cap" else None)
    net = LM(vocab=11, width=8, body=Stack(1, block), head=head).build()
    if spoilt is None:
        NextToken().check(net)
        return
    with pytest.raises(GlasshouseError, match="cannot be trained"):
        NextToken().check(net)
