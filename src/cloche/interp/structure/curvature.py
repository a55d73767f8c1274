"""Sharpness: the extreme eigenvalues of the loss's Hessian, from Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from cloche.drawing import Finding, Lines, Provenance, Series
from cloche.errors import ArgumentRange, CorpusEmpty
from cloche.interp.landscape.lanczos import HessianProducts, lanczos
from cloche.interp.subject import Subject, windows_of
from cloche.model import Network

ROWS = 8  # most windows


def sharpness(subject: Subject, windows: Iterable[Any], steps: int = 12, seed: int = 0) -> Finding:
    """The largest eigenvalue of the Hessian of the mean loss on the first batch of `windows` (at most 8 of them), and the
    lowest: how sharply the loss curves in its steepest direction (Cohen et al., 2103.00065), and whether there is one in which
    it bends down.

    Gradient descent at rate lr is stable while `sharpness` is below 2 / lr; other optimisers meet their limit elsewhere.
    `steps`: Hessian-vector products, each about two passes forward and back. The estimates never go beyond the true
    eigenvalues, and are close to them once the curves (arrays `highest` and `lowest`) are level.
    The null is an untrained model of the same parts. Raises ArgumentRange for fewer than two steps, CorpusEmpty for windows
    without a second token.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import sharpness
    >>> glass = Glass(LM(64, 16, Stack(1, Block(Attention(2), GLU()))).build(seed=0))
    >>> text = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    >>> figures = sharpness(glass, [text], steps=3).figures
    >>> figures["sharpness"] > figures["lowest"]
    True
    """
    ids = next((batch[:ROWS] for batch in windows_of(subject, windows) if batch.shape[1] > 1), None)
    if ids is None:
        raise CorpusEmpty("The text for sharpness has no second token to predict; give more text.")
    net = subject.net
    ids = ids.to(net.embed.weight.device)
    high, low = _curves(net, ids, steps, seed)
    untrained = net.spec.build(seed).to(ids.device)
    null_high, null_low = _curves(untrained, ids, steps, seed)
    figures = {"sharpness": high[-1], "lowest": low[-1]}
    null = {"sharpness": null_high[-1], "lowest": null_low[-1]}
    summary = (
        f"The loss curves by {high[-1]:.3g} in its steepest direction and by {low[-1]:.3g} in its lowest; "
        f"untrained, by {null['sharpness']:.3g} and {null['lowest']:.3g}."
    )
    series = (Series("highest", tuple(high)), Series("lowest", tuple(low)))
    panel = Lines("Estimates by product", tuple(float(i + 1) for i in range(steps)), series, "product")
    arrays = {"highest": torch.tensor(high), "lowest": torch.tensor(low)}
    about = Provenance("sharpness", subject.checkpoint, seed=seed)
    return Finding(about, summary, figures, {"tokens": int(ids[:, 1:].numel())}, arrays, null, [panel])


def _curves(net: Network, ids: Tensor, steps: int, seed: int) -> tuple[list[float], list[float]]:
    def loss() -> Tensor:
        return F.cross_entropy(net(ids[:, :-1]).flatten(0, 1).float(), ids[:, 1:].flatten())

    with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no second derivative
        return extreme_eigenvalues(loss, list(net.parameters()), steps, seed)


def extreme_eigenvalues(
    loss: Callable[[], Tensor], weights: Sequence[Tensor], steps: int = 12, seed: int = 0
) -> tuple[list[float], list[float]]:
    """Estimates of the largest and of the lowest eigenvalue of the Hessian of `loss` in `weights`, after each of `steps`
    products with it. Raises ArgumentRange for fewer than two.

    The Lanczos method: the eigenvalues of H in the space of v, Hv, H^2 v, ... of a random v, which reach the extreme ones of H
    sooner than power iteration and keep three vectors, as it is done here without orthogonalising them again. (That repeats
    eigenvalues which were found, and moves none.)

    >>> import torch
    >>> from cloche.interp import extreme_eigenvalues
    >>> w, curvature = torch.zeros(3, requires_grad=True), torch.tensor([4.0, 1.0, -2.0])
    >>> high, low = extreme_eigenvalues(lambda: (curvature * w**2).sum() / 2, [w], steps=30)
    >>> round(high[-1], 3), round(low[-1], 3)
    (4.0, -2.0)
    """
    if steps < 2:
        raise ArgumentRange(f"steps={steps} must be at least 2 products with the Hessian.")
    product = HessianProducts(loss(), [w for w in weights if w.requires_grad])
    found = lanczos(product, product.random(seed), steps, tolerance=0.0, keep=False).ends
    found += found[-1:] * (steps - len(found))
    return [high for _, high in found], [low for low, _ in found]
