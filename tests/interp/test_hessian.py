"""`hessian_spectrum` against the whole Hessian of tiny models, a planted saddle, and a convex problem."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from cloche import GLU, LM, MLP, Attention, Block, Glass, LayerNorm, RoPE, Stack
from cloche.errors import CorpusEmpty, InstrumentOption
from cloche.interp import hessian_spectrum
from cloche.interp.landscape.hessian import Curvature
from cloche.interp.landscape.lanczos import lanczos
from cloche.interp.landscape.paths import loss_of
from cloche.model import Network

GATED = LM(5, 4, Stack(1, Block(Attention(2, kv_heads=1, position=RoPE()), GLU(hidden=3))))
PLAIN = LM(
    5, 4, Stack(1, Block(Attention(1, bias=True), MLP("gelu", hidden=3, bias=True), norm=LayerNorm())), tied=True
)
TEXT = torch.randint(5, (4, 8), generator=torch.Generator().manual_seed(1))


def whole_hessian(net: Network, within: str = "") -> Tensor:
    names = [name for name, _ in net.named_parameters() if within in name]
    parameters = dict(net.named_parameters())
    sizes = [parameters[name].numel() for name in names]
    rest = {name: weight.detach() for name, weight in parameters.items() if name not in names}

    def loss(flat: Tensor) -> Tensor:
        pieces = {name: part.view(parameters[name].shape) for name, part in zip(names, flat.split(sizes), strict=True)}
        logits = functional_call(net, rest | pieces, (TEXT[:, :-1],))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), TEXT[:, 1:].flatten())

    flat = torch.cat([parameters[name].detach().reshape(-1) for name in names])
    with sdpa_kernel(SDPBackend.MATH):
        found = torch.autograd.functional.hessian(loss, flat)
    assert isinstance(found, Tensor) and len(flat) < 500
    return found.double()


@pytest.mark.parametrize("spec", [GATED, PLAIN], ids=["gated", "tied"])
def test_the_ends_of_the_spectrum_are_those_of_the_whole_hessian(spec: LM) -> None:
    net = spec.build(seed=0)
    exact = torch.linalg.eigvalsh(whole_hessian(net))
    found = hessian_spectrum(Glass(net), [TEXT], eigenvalues=2, steps=150)
    values, residuals = found.arrays["values"], found.arrays["residuals"]
    for at in (0, 1, -2, -1):
        assert float(values[at]) == pytest.approx(float(exact[at]), rel=1e-4, abs=1e-4 * float(exact[-1]))
        assert float(residuals[at]) < 1e-4 * float(exact.abs().max())
    clearly = int((exact < -1e-3 * exact.abs().max()).sum())
    assert clearly > 0 and 0 < found.figures["negative"] <= int((exact < 0).sum())


def test_a_residual_bounds_how_far_the_nearest_eigenvalue_is() -> None:
    net = GATED.build(seed=3)
    exact = torch.linalg.eigvalsh(whole_hessian(net))
    curvature = Curvature(net, [TEXT])
    found = lanczos(curvature.product, torch.ones(len(curvature.gradient)), steps=12, ends=6)
    gaps = (found.values[:, None] - exact[None]).abs().amin(1)
    assert bool((gaps <= found.residuals + 1e-5 * exact.abs().max()).all())
    assert float(found.residuals.max()) > 1e-3  # most are not converged, and say so


def test_a_planted_saddle_is_a_stall_with_negative_curvature() -> None:
    net = GATED.build(seed=0)
    with torch.no_grad():
        net.embed.weight.zero_()  # nothing reaches the head, and the head sends nothing back
        net.unembed_weight().zero_()
    found = hessian_spectrum(Glass(net), [TEXT], eigenvalues=2).figures
    assert found["gradient_norm"] == 0 and found["stalled"] == 1
    assert found["negative"] >= 1 and found["smallest"] < -1
    assert found["smallest"] == pytest.approx(-found["largest"], rel=1e-3)  # a product of two matrices


def test_a_planted_saddle_has_as_many_negative_directions_as_it_must() -> None:
    """With embedding, head and all updates at zero the loss is a product of two matrices to second order: plus and minus each
    singular value of what links tokens to their successors, once for each entry of the width."""
    net = GATED.build(seed=0)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith(("embed.weight", "out.weight", "outer.weight")):
                weight.zero_()
    before, after = TEXT[:, :-1].flatten(), TEXT[:, 1:].flatten()
    links = (0.2 - torch.eye(5)[after]).T @ torch.eye(5)[before] / len(after)
    size = torch.linalg.matrix_norm(links, 2) / net.final_norm(torch.full((1, 4), 1e-9)).mean().reciprocal() / 1e-9
    rank, width = int(torch.linalg.matrix_rank(links)), 4
    found = hessian_spectrum(Glass(net), [TEXT], eigenvalues=1, within="embed", probes=24).figures
    assert rank == 4 and found["negative_share"] == pytest.approx(rank * width / (2 * 5 * width), abs=0.08)
    assert found["smallest"] == pytest.approx(-float(size), rel=1e-3)
    assert found["largest"] == pytest.approx(float(size), rel=1e-3)
    exact = torch.linalg.eigvalsh(whole_hessian(net, "embed"))
    assert int((exact < -1e-4 * exact[-1]).sum()) == rank * width


def test_a_convex_problem_has_no_negative_eigenvalue() -> None:
    for seed in range(3):
        net = GATED.build(seed=seed)
        exact = torch.linalg.eigvalsh(whole_hessian(net, "unembed"))
        found = hessian_spectrum(Glass(net), [TEXT], eigenvalues=2, within="unembed").figures
        assert found["negative"] == found["negative_share"] == 0 and found["smallest"] > -1e-4 * found["largest"]
        assert found["largest"] == pytest.approx(float(exact[-1]), rel=1e-4)


def test_only_a_gradient_beyond_its_error_is_no_stall() -> None:
    """A bigram model at its optimum on this text has no gradient left; at random it has."""
    net = LM(5, 4, Stack(1, Block(Attention(1), MLP("gelu", hidden=3)))).build(seed=0)
    text = torch.arange(32).remainder(5).repeat(8, 1)  # one text, eight times: no error at all
    far = hessian_spectrum(Glass(net), [text], eigenvalues=1)
    assert far.figures["gradient_error"] < 1e-6 < far.figures["gradient_norm"] and far.figures["stalled"] == 0
    assert "no stall" in far.summary
    noise = torch.randint(5, (16, 9), generator=torch.Generator().manual_seed(0))
    head = torch.optim.LBFGS([net.unembed_weight()], max_iter=30, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        head.zero_grad()
        loss = loss_of(net, noise, "mean")
        loss.backward()
        return loss

    head.step(closure)  # type: ignore[no-untyped-call]
    assert hessian_spectrum(Glass(net), [noise], eigenvalues=1, within="unembed").figures["stalled"] == 1


def test_the_model_is_left_as_it_was_and_bad_options_are_one_sentence() -> None:
    net = GATED.build(seed=0)
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    found = hessian_spectrum(Glass(net), [TEXT], eigenvalues=1, steps=4)
    assert all(torch.equal(before[name], weight) for name, weight in net.named_parameters())
    assert all(weight.grad is None for weight in net.parameters())
    assert set(found.null) == set(found.figures) and found.null["largest"] != 0
    for options, said in (
        ({"within": "nowhere"}, "names begin with embed, body, final_norm, unembed"),
        ({"eigenvalues": 0}, "at least 1"),
        ({"steps": 3}, "at least two"),
    ):
        with pytest.raises(InstrumentOption, match=said):
            hessian_spectrum(Glass(net), [TEXT], **options)  # type: ignore[arg-type]
    with pytest.raises(CorpusEmpty, match="second token"):
        hessian_spectrum(Glass(net), [TEXT[:, :1]])
