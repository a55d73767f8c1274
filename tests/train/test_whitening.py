"""Shampoo, SOAP, SGD and RMSprop against references in float64, against torch's own, and against what must be so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cloche.train import SGD, SOAP, AdamW, Muon, RMSprop, Shampoo, Stepper
from cloche.train.optimizers.kronecker.shampoo import MatrixShampoo
from cloche.train.optimizers.kronecker.soap import MatrixSOAP


def gradients(shape, count, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(shape[0], shape[0], generator=generator, dtype=dtype)  # so that rows are correlated
    return [mixing @ torch.randn(shape, generator=generator, dtype=dtype) for _ in range(count)]


def taken(part, grads, start=None):
    """A matrix after the optimiser's steps along given gradients."""
    rows, columns = grads[0].shape
    net = torch.nn.Linear(columns, rows, bias=False, dtype=grads[0].dtype)
    with torch.no_grad():
        net.weight.copy_(torch.zeros_like(net.weight) if start is None else start)
    stepper = Stepper(net, part)
    for grad in grads:
        net.weight.grad = grad.clone()
        stepper.step()
    return net.weight.detach()


def power(matrix, exponent, eps):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag((values + eps * values[-1]) ** exponent) @ vectors.T


@pytest.mark.parametrize("largest", [64, 5])
def test_shampoo_is_the_papers_algorithm(largest):
    """1802.09568, algorithm 1, in numpy; a side that is too large is left out, and the other has the power -1/2."""
    grads, weight = gradients((4, 6), 7), np.zeros((4, 6))
    left, right = np.zeros((4, 4)), np.zeros((6, 6))
    for grad in map(torch.Tensor.numpy, grads):
        left, right = left + grad @ grad.T, right + grad.T @ grad
        two = power(left, -0.25, 1e-3) @ grad @ power(right, -0.25, 1e-3)
        weight = weight - 0.1 * (two if largest > 5 else power(left, -0.5, 1e-3) @ grad)
    settings = {"beta1": 0.0, "beta2": 1.0, "weight_decay": 0.0, "eps": 1e-3, "every": 1, "graft": False}
    ours = taken(Shampoo(lr=0.1, largest=largest, **settings), grads)
    assert np.abs(ours.numpy() - weight).max() < 1e-9 * np.abs(weight).max()


def test_shampoos_first_step_is_orthogonal_and_with_grafting_has_adams_norm():
    (grad,) = gradients((5, 3), 1)
    u, _, vt = torch.linalg.svd(grad, full_matrices=False)
    plain = taken(Shampoo(lr=1.0, beta1=0.0, weight_decay=0.0, eps=1e-12, graft=False), [grad])
    torch.testing.assert_close(plain, -u @ vt, atol=1e-3, rtol=0)
    grads = gradients((5, 3), 4)
    grafted = taken(Shampoo(lr=1.0, beta2=0.9, weight_decay=0.0), grads) - taken(
        Shampoo(lr=1.0, beta2=0.9, weight_decay=0.0), grads[:-1]
    )
    adam = taken(AdamW(lr=1.0, beta2=0.9, weight_decay=0.0), grads) - taken(
        AdamW(lr=1.0, beta2=0.9, weight_decay=0.0), grads[:-1]
    )
    assert grafted.norm() == pytest.approx(adam.norm().item(), rel=1e-6)
    assert torch.cosine_similarity(grafted.flatten(), adam.flatten(), dim=0) < 0.999


def soap_reference(grads, lr, beta1, beta2, eps, every):
    """2409.11321, algorithm 3, in numpy."""
    rows, columns = grads[0].shape
    weight, mean, square = np.zeros((rows, columns)), np.zeros((rows, columns)), np.zeros((rows, columns))
    left = right = ql = qr = None
    for t, grad in enumerate(grads):
        if t == 0:
            left, right = (1 - beta2) * grad @ grad.T, (1 - beta2) * grad.T @ grad
            ql, qr = np.linalg.eigh(left)[1][:, ::-1], np.linalg.eigh(right)[1][:, ::-1]
            continue
        mean = beta1 * mean + (1 - beta1) * grad
        square = beta2 * square + (1 - beta2) * (ql.T @ grad @ qr) ** 2
        step = (ql.T @ mean @ qr / (1 - beta1**t)) / (np.sqrt(square / (1 - beta2**t)) + eps)
        weight = weight - lr * ql @ step @ qr.T
        left, right = beta2 * left + (1 - beta2) * grad @ grad.T, beta2 * right + (1 - beta2) * grad.T @ grad
        if t % every == 0:
            order = np.argsort(-np.diag(ql.T @ left @ ql))
            ql, square = np.linalg.qr(left @ ql[:, order])[0], square[order]
            order = np.argsort(-np.diag(qr.T @ right @ qr))
            qr, square = np.linalg.qr(right @ qr[:, order])[0], square[:, order]
    return weight


@pytest.mark.parametrize("every", [1, 3])
def test_soap_is_the_papers_algorithm(every):
    grads = gradients((4, 4), 9)
    reference = soap_reference([g.numpy() for g in grads], 0.1, 0.9, 0.8, 1e-8, every)
    ours = taken(SOAP(lr=0.1, beta1=0.9, beta2=0.8, weight_decay=0.0, every=every), grads)
    assert np.abs(ours.numpy() - reference).max() < 1e-8 * np.abs(reference).max()


def test_soap_without_sides_is_adam_one_step_later():
    grads = gradients((4, 6), 6, dtype=torch.float32)
    ours = taken(SOAP(lr=0.1, weight_decay=0.0, largest=1), grads)
    adam = taken(AdamW(lr=0.1, beta1=0.95, beta2=0.95, weight_decay=0.0), grads[1:])
    torch.testing.assert_close(ours, adam, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("part", [SOAP, Shampoo, Muon, AdamW])
def test_turned_gradients_turn_the_update(part):
    """Of all but AdamW, which is the control; Shampoo's norm is Adam's, so that is switched off. The matrix is square: SOAP's
    first eigenvectors of a product without full rank are any there are."""
    grads = gradients((5, 5), 5)
    a, b = (torch.linalg.qr(matrix)[0] for matrix in gradients((5, 5), 2, seed=1))
    settings = {"graft": False} if part is Shampoo else {}
    there = taken(part(weight_decay=0.0, **settings), [a @ g @ b for g in grads])
    here = a @ taken(part(weight_decay=0.0, **settings), grads) @ b
    far = ((there - here).norm() / here.norm()).item()
    assert far > 0.05 if part is AdamW else far < 1e-4


@pytest.mark.parametrize("kind", [MatrixSOAP, MatrixShampoo])
def test_stacked_matrices_are_whitened_by_themselves(kind):
    settings = {"lr": 0.1, "betas": (0.9, 0.9), "eps": 1e-8, "weight_decay": 0.1, "graft": True}
    whole, parts = torch.nn.Parameter(torch.ones(7, 5)), [torch.nn.Parameter(torch.ones(n, 5)) for n in (4, 3)]
    stacked, single = kind([whole], settings, every=2, blocks={whole: [4, 3]}), kind(parts, settings, every=2)
    for grad in gradients((7, 5), 5, dtype=torch.float32):
        whole.grad, (parts[0].grad, parts[1].grad) = grad, grad.split([4, 3])
        stacked.step(), single.step()
    if kind is MatrixSOAP:
        assert torch.equal(whole, torch.cat(parts))
    else:
        torch.testing.assert_close(whole, torch.cat(list(parts)))
    with pytest.raises(ValueError, match="stack"):
        kind([whole], settings, blocks={whole: [4, 4]})


@pytest.mark.parametrize(
    ("part", "reference"),
    [
        (SGD(lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (SGD(lr=0.1, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)),
        (SGD(lr=0.1, momentum=0.0), lambda p: torch.optim.SGD(p, 0.1)),
        (RMSprop(lr=0.1, weight_decay=0.0), lambda p: torch.optim.RMSprop(p, 0.1)),
        (
            RMSprop(lr=0.1, alpha=0.9, momentum=0.8, centered=True, eps=1e-3, weight_decay=0.0),
            lambda p: torch.optim.RMSprop(p, 0.1, 0.9, 1e-3, momentum=0.8, centered=True),
        ),
        (AdamW(lr=0.1), lambda p: torch.optim.AdamW(p, 0.1, (0.9, 0.95), weight_decay=0.1)),
    ],
)
def test_they_step_as_torch_does(part, reference):
    grads, start = gradients((4, 6), 5, dtype=torch.float32), torch.ones(4, 6)
    theirs = torch.nn.Parameter(start.clone())
    optimizer = reference([theirs])
    for grad in grads:
        theirs.grad = grad.clone()
        optimizer.step()
    torch.testing.assert_close(taken(part, grads, start), theirs.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("part", [SGD, RMSprop, SOAP, Shampoo, AdamW, Muon])
def test_decay_is_decoupled_from_the_gradient(part):
    """With no gradient the weights shrink by 1 - lr * decay a step, and nothing of it goes into an average."""
    start = torch.arange(1.0, 13.0).reshape(3, 4)
    settings = {"lr": 0.1, "weight_decay": 0.5}
    end = taken(part(**settings), [torch.zeros(3, 4)] * 3, start)
    torch.testing.assert_close(end, start * 0.95**3)
    net = torch.nn.Linear(4, 3)
    assert Stepper(net, part(**settings)).shrink() == pytest.approx({"shrink_matrix": 0.95})
