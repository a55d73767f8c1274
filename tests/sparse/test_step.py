"""The sparse step against dense automatic differentiation of the same autoencoder."""

import pytest
import torch
from torch import Tensor

from cloche.sparse import SAE
from cloche.sparse.saes.choose import select_topk
from cloche.sparse.saes.fit import project_gradient


def autoencoder(features: int = 256, width: int = 32, k: int = 8) -> SAE:
    sae = SAE(width, features, k, seed=3)
    with torch.no_grad():
        sae.encoder_bias.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        sae.decoder_bias.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    return sae


def signals(n: int = 700, width: int = 32) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def dense_reconstruct(sae: SAE, x: Tensor) -> Tensor:
    pre = (x - sae.decoder_bias) @ sae.encoder.T + sae.encoder_bias
    best = pre.topk(int(sae.l0), dim=1)
    code = torch.zeros_like(pre).scatter(1, best.indices, best.values.relu())
    return code @ sae.decoder + sae.decoder_bias


def gradients(sae: SAE, loss: Tensor) -> dict[str, Tensor]:
    sae.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("features", "k"), [(256, 8), (250, 8), (64, 64), (96, 1), (40_000, 4)])
def test_gradients_equal_dense_autograd(features: int, k: int) -> None:
    sae, x = autoencoder(features, k=k), signals()
    reconstruction = sae(x)
    reference = dense_reconstruct(sae, x)
    torch.testing.assert_close(reconstruction, reference, atol=1e-5, rtol=1e-5)
    ours = gradients(sae, (x - reconstruction).square().sum(1).mean())
    dense = gradients(sae, (x - reference).square().sum(1).mean())
    assert ours.keys() == dense.keys() == {"encoder", "encoder_bias", "decoder", "decoder_bias"}
    for name in ours:
        assert (ours[name] - dense[name]).norm() <= 1e-5 * dense[name].norm(), name


@pytest.mark.parametrize(("features", "k"), [(512, 32), (512, 33), (513, 5), (2_048, 1), (64, 64)])
def test_selection_is_the_exact_topk(features: int, k: int) -> None:
    x, weight = signals(1_100), signals(features)
    bias = torch.linspace(-1, 1, features)
    indices, values = (choice := select_topk(x, weight, bias, k)).padded(choice.pre)
    expected = torch.addmm(bias, x, weight.T).topk(k, dim=1)
    assert torch.equal(indices.sort(1).values, expected.indices.sort(1).values)
    torch.testing.assert_close(values.sort(1, descending=True).values, expected.values, atol=1e-5, rtol=1e-5)


def test_auxk_reaches_encoder_and_decoder_of_dead_features_only() -> None:
    sae, x = autoencoder(), signals()
    dead = torch.tensor([3, 50, 51, 200, 255])
    error = signals(700).flip(0)
    loss = sae.explain_error(x, error, dead, k=2) / error.square().mean()
    pre = (x - sae.decoder_bias.detach()) @ sae.encoder[dead].T + sae.encoder_bias[dead]
    best = pre.topk(2, dim=1)
    dense = torch.zeros_like(pre).scatter(1, best.indices, best.values.relu()) @ sae.decoder[dead]
    ours, reference = gradients(sae, loss), gradients(sae, (dense - error).square().mean() / error.square().mean())
    alive = torch.ones(256, dtype=torch.bool)
    alive[dead] = False
    for name in ("encoder", "encoder_bias", "decoder"):
        assert (ours[name] - reference[name]).norm() <= 1e-5 * reference[name].norm(), name
        assert ours[name][dead].abs().sum(-1).min() > 0, name
        assert ours[name][alive].abs().max() == 0, name


def test_projection_leaves_no_gradient_along_the_rows() -> None:
    sae, x = autoencoder(), signals()
    gradients(sae, (x - sae(x)).square().sum(1).mean())
    assert sae.decoder.grad is not None
    before = (sae.decoder.grad * sae.decoder).sum(1)
    project_gradient(sae)
    along = (sae.decoder.grad * sae.decoder).sum(1)
    assert before.abs().max() > 1e-3 > 1e-6 > along.abs().max()
