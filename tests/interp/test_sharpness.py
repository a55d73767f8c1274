"""Eigenvalues of the Hessian of quadratics with a planted spectrum, and of a network against the whole matrix."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from cloche import GLU, LM, Attention, Block, Glass, Stack
from cloche.errors import ArgumentRange, CorpusEmpty
from cloche.interp import extreme_eigenvalues, sharpness

TEXT = torch.randint(12, (2, 9), generator=torch.Generator().manual_seed(0))


def quadratic(spectrum: list[float]):
    """w^T H w / 2 + b w in two weights, H with this spectrum in a random basis."""
    draw = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=draw))[0]
    matrix = basis @ torch.diag(torch.tensor(spectrum)) @ basis.T
    a, b = torch.ones(2, requires_grad=True), torch.zeros(len(spectrum) - 2, requires_grad=True)

    def loss():
        w = torch.cat([a, b])
        return w @ matrix @ w / 2 + w.sum()

    return loss, [a, b]


@pytest.mark.parametrize("spectrum", [[9.0, 4.0, 1.0, -3.0], [3.0, 1.0, 0.5, -8.0], [5.0, 2.0, 1.0, 0.25]])
def test_planted_eigenvalues_are_found_at_both_ends(spectrum):
    high, low = extreme_eigenvalues(*quadratic(spectrum), steps=4)
    assert (high[-1], low[-1]) == pytest.approx((max(spectrum), min(spectrum)), abs=1e-3)
    assert min(low) >= min(spectrum) - 1e-4 and max(high) <= max(spectrum) + 1e-4  # never beyond them


def test_a_plane_has_no_curvature():
    w = torch.ones(3, requires_grad=True)
    high, low = extreme_eigenvalues(lambda: (w * w).sum() * 0 + w.sum(), [w], steps=4)
    assert high[-1] == low[-1] == 0


def test_a_network_has_that_of_its_whole_hessian():
    net = LM(12, 4, Stack(1, Block(Attention(1), GLU(hidden=4)))).build(seed=0)
    finding = sharpness(Glass(net), [TEXT], steps=40)
    names = dict(net.named_parameters())

    def loss(flat):
        parts = flat.split([p.numel() for p in names.values()])
        given = {name: part.view_as(p) for (name, p), part in zip(names.items(), parts, strict=True)}
        logits = torch.func.functional_call(net, given, (TEXT[:, :-1],))
        return F.cross_entropy(logits.flatten(0, 1), TEXT[:, 1:].flatten())

    with sdpa_kernel(SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(loss, torch.cat([p.detach().flatten() for p in names.values()]))
    true = torch.linalg.eigvalsh(hessian)
    assert finding.figures["sharpness"] == pytest.approx(true[-1].item(), rel=1e-3)
    assert finding.figures["lowest"] == pytest.approx(true[0].item(), rel=1e-3)
    rough = sharpness(Glass(net), [TEXT], steps=5).figures["sharpness"]
    assert 0.8 * true[-1] < rough <= true[-1] + 1e-5
    assert finding.null == pytest.approx(finding.figures)  # the identical, untrained model


def test_what_cannot_be_measured_is_refused():
    glass = Glass(LM(12, 4, Stack(1, Block(Attention(1), GLU(hidden=4)))).build(seed=0))
    with pytest.raises(ArgumentRange, match="steps=1 must be"):
        sharpness(glass, [TEXT], steps=1)
    with pytest.raises(CorpusEmpty, match="second token"):
        sharpness(glass, [TEXT[:, :1]])
