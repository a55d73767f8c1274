"""Cross-entropy at the head, in chunks, with a fused gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cloche.errors import ModelUnsupported
from cloche.model import Network, Unembed


class Shape(NamedTuple):
    """How logits become a loss.

    chunk: the most tokens whose logits are in memory at one time. cap: a logit x becomes cap tanh(x / cap) (Gemma 2,
    2408.00118). smoothing: share of each target that is spread evenly over the vocabulary (1512.00567, section 7).
    z_loss: weight of the squared log-sum-exp (PaLM, 2204.02311, section 5).
    """

    chunk: int = 1024
    cap: float | None = None
    smoothing: float = 0.0
    z_loss: float = 0.0


PLAIN = Shape()


class HeadLosses(NamedTuple):
    """Weighted sums over tokens: -log p(target), nats; its excess when the target is spread over the vocabulary; and the
    squared log-sum-exp. The gradient of all three together, with their weights, is that of `nats`: the others have none."""

    nats: Tensor
    spread: Tensor
    z: Tensor


class HeadLoss(torch.autograd.Function):
    """The sums of `HeadLosses` over tokens of logits W h + b, with the logits of at most `shape.chunk` tokens in memory.

    The gradient is computed in the forward pass, chunk by chunk, while the logits are in cache: nothing of size
    [tokens, vocab] is kept or recomputed. Products run in bf16 under autocast; the log-sum-exp is always in fp32 (or wider).
    hidden [tokens, width], weight [vocab, width], target [tokens], importance [tokens] or None (all one), bias [vocab] or
    None, feedback [vocab, width] or None: what the backward pass multiplies by instead of W (see `Linear`).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        importance: Tensor | None,
        shape: Shape = PLAIN,
        bias: Tensor | None = None,
        feedback: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device, vocab = hidden.device.type, len(weight)
        fast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        h, w = hidden.to(fast), weight.to(fast)
        back = w if feedback is None else feedback.to(fast)
        wide = torch.promote_types(fast, torch.float32)
        learn = any(ctx.needs_input_grad)
        grad_h = torch.empty_like(h) if learn else None
        grad_w = torch.zeros_like(weight, dtype=wide) if learn else None
        grad_b = torch.zeros_like(bias, dtype=wide) if learn and bias is not None else None
        logits = torch.empty(min(shape.chunk, len(h)), vocab, dtype=wide, device=h.device)
        sums = torch.zeros(3, dtype=torch.float64, device=h.device)
        for i in range(0, len(h), shape.chunk):
            part, t = h[i : i + shape.chunk], target[i : i + shape.chunk, None]
            a = 1.0 if importance is None else importance[i : i + shape.chunk, None].to(wide)
            z = logits[: len(part)]
            if fast == wide:
                torch.mm(part, w.T, out=z)
            else:
                z.copy_(part @ w.T)
            slope = _shaped(z, bias, shape.cap, learn)
            d, log_mass = _losses(z, t, a, shape, sums)
            if grad_h is not None and grad_w is not None:
                _gradient(d, t, a, log_mass, shape)
                if slope is not None:
                    d.mul_(slope)
                if grad_b is not None:
                    grad_b += d.sum(0)
                g = d.to(fast)
                torch.mm(g, back, out=grad_h[i : i + shape.chunk])
                if fast == wide:
                    grad_w.addmm_(g.T, part)
                else:
                    grad_w += g.T @ part
        if grad_h is not None and grad_w is not None:
            of_bias = None if grad_b is None or bias is None else grad_b.to(bias.dtype)
            ctx.save_for_backward(grad_h.to(hidden.dtype), grad_w.to(weight.dtype), of_bias)
        nats, spread, squared = sums.to(wide)
        ctx.mark_non_differentiable(spread, squared)
        return nats, spread, squared

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        grad_h, grad_w, grad_b = ctx.saved_tensors
        return grad_h * grad, grad_w * grad, None, None, None, None if grad_b is None else grad_b * grad, None


def _shaped(z: Tensor, bias: Tensor | None, cap: float | None, learn: bool) -> Tensor | None:
    """Adds the bias to z [tokens, vocab] and applies the cap, in place; returns the cap's derivative if a gradient is
    needed."""
    if bias is not None:
        z.add_(bias)
    if cap is None:
        return None
    z.div_(cap).tanh_()
    slope = 1 - z.square() if learn else None
    z.mul_(cap)
    return slope


def _losses(z: Tensor, t: Tensor, a: Tensor | float, shape: Shape, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Adds a chunk's losses to `sums`; z [tokens, vocab] becomes its softmax, and log_mass [tokens, 1] is the
    log-sum-exp."""
    of_target = z.gather(1, t)
    mean = z.mean(1, keepdim=True) if shape.smoothing else None
    top = z.amax(1, keepdim=True)
    exponentials = z.sub_(top).exp_()
    mass = exponentials.sum(1, keepdim=True)
    log_mass = top + mass.log()
    sums[0] += ((log_mass - of_target) * a).sum(dtype=torch.float64)
    if mean is not None:
        sums[1] += ((of_target - mean) * a).sum(dtype=torch.float64)
    if shape.z_loss:
        sums[2] += (log_mass.square() * a).sum(dtype=torch.float64)
    return exponentials.mul_(a / mass), log_mass


def _gradient(d: Tensor, t: Tensor, a: Tensor | float, log_mass: Tensor, shape: Shape) -> None:
    """The derivative by the logits in place of d, `a` times the softmax: a (softmax (1 + 2 z_loss log_mass) -
    (1 - smoothing) onehot - smoothing / vocab)."""
    if shape.z_loss:
        d.mul_(1 + 2 * shape.z_loss * log_mass)
    if shape.smoothing:
        d.sub_(a * (shape.smoothing / d.shape[1]))
    share = -(1 - shape.smoothing) * a
    d.scatter_add_(1, t, share if isinstance(share, Tensor) else d.new_full(t.shape, share))


def head_loss(
    net: Network, hidden: Tensor, targets: Tensor, weights: Tensor | None = None, shape: Shape = PLAIN
) -> HeadLosses:
    """The weighted sums of the losses: hidden [row, position, width] after the final norm, targets and weights
    [row, position]. Positions of weight zero never reach the head. Raises ClocheError for a head that is not `Unembed`."""
    head = net.spec.head
    if type(head) is not Unembed:
        raise ModelUnsupported(
            f"{head} cannot be trained: the fused loss needs one linear map to the vocabulary, Unembed(...)."
        )
    flat, targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    if weights is not None:
        weights = weights.reshape(-1)
        used = weights.nonzero()[:, 0]
        if len(used) < len(weights):
            flat, targets, weights = flat[used], targets[used], weights[used]
    shape = shape._replace(cap=head.cap)
    return HeadLosses(
        *HeadLoss.apply(flat, net.unembed_weight(), targets, weights, shape, net.unembed.bias, net.unembed.feedback)
    )
