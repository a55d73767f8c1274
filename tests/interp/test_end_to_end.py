"""Training by what the model makes of the reconstruction, where it is known which part of a reconstruction the model reads."""

import numpy as np
import pytest
import torch

from cloche.glass import Glass
from cloche.interp import end_to_end, loss_recovered
from cloche.model import GLU, LM, Attention, Block, Network, RMSNorm, RoPE, Stack
from cloche.sparse import Provenance, TopK, Training, train_sae
from cloche.sparse.saes import continue_training

WIDTH, VOCAB, SITE = 32, 48, "resid_post[1]"


def network() -> Network:
    """Its head reads only the first half of the stream; the other half is as loud as the first and means nothing."""
    block = Block(mix=Attention(heads=2, position=RoPE()), map=GLU("silu", hidden=32), norm=RMSNorm())
    net = LM(vocab=VOCAB, width=WIDTH, body=Stack(2, block)).build(seed=0)
    with torch.no_grad():
        net.unembed_weight()[:, WIDTH // 2 :] = 0
        net.unembed_weight().mul_(3)
    return net


def windows(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(VOCAB, size=(8, 33)) for _ in range(count)]


def test_the_loss_is_the_divergence_of_the_spliced_model_and_its_gradient_is_exact() -> None:
    net = network()
    batch = next(end_to_end(net, windows(1, 0), SITE, local=0.5))
    made = (
        batch.rows + 0.1 * torch.randn(batch.rows.shape, generator=torch.Generator().manual_seed(0))
    ).requires_grad_()
    assert batch.downstream is not None
    loss = batch.downstream(made)
    ids = torch.as_tensor(windows(1, 0)[0])
    value = net.run(ids, save=[SITE])[SITE].clone()
    value[:, 1:] = made.detach().view(8, 32, WIDTH)
    clean, spliced = (
        net.run(ids, edits=edits).logits[:, 1:].double().log_softmax(-1)
        for edits in ([], [net.sites.resid_post[1].replace(value)])
    )
    spread = (batch.rows - batch.rows.mean(0)).square().sum()
    local = 0.5 * (batch.rows - made.detach()).square().sum() / spread
    assert float(loss.detach()) == pytest.approx(
        float((clean.exp() * (clean - spliced)).sum(-1).mean() + local), rel=1e-4
    )
    (gradient,) = torch.autograd.grad(loss, made)
    step = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        up, down = (float(batch.downstream(made + sign * 1e-2 * step)) for sign in (1, -1))
    assert float((gradient * step).sum()) == pytest.approx((up - down) / 2e-2, rel=2e-2)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert float(batch.downstream(batch.rows)) == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_end_to_end_keeps_more_of_the_model_than_the_variance_does() -> None:
    net = network()
    glass, fresh = Glass(net, None, "here", "step-000001"), windows(4, 99)
    lessons = windows(150, 1)
    rows = torch.cat([batch.rows for batch in end_to_end(net, lessons, SITE)])
    plain, _ = train_sae(rows, 96, 4, Training(steps=300, batch=256, lr=5e-3), kind=TopK(), trained_on=Provenance(SITE))
    before = loss_recovered(glass, plain, fresh)
    for _ in continue_training(plain, end_to_end(net, lessons, SITE, local=0.1), Training(steps=150, lr=2e-3)):
        pass
    after = loss_recovered(glass, plain, fresh)
    assert after.kl < 0.85 * before.kl
    scratch, _ = train_sae(
        end_to_end(net, 2 * lessons, SITE), 96, 4, Training(steps=300, lr=5e-3), trained_on=Provenance(SITE)
    )
    assert loss_recovered(glass, scratch, fresh).kl < before.kl
