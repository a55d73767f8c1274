"""Cross-entropy at the head, in chunks, with a fused gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cloche.errors import ModelUnsupported
from cloche.model import Network, Unembed


class HeadLoss(torch.autograd.Function):
    """Sum over tokens of importance * -log softmax(f(W h + b))[target], with the logits of at most `chunk` tokens in
    memory.

    The gradient is computed in the forward pass, chunk by chunk, while the logits are in cache: nothing of size
    [tokens, vocab] is kept or recomputed. Products run in bf16 under autocast; the log-sum-exp is always in fp32 (or wider).
    hidden [tokens, width], weight [vocab, width], target and importance [tokens], bias [vocab] or None -> a scalar, in nats.
    cap: f(x) = cap tanh(x / cap) (Gemma 2, 2408.00118), else f(x) = x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        importance: Tensor,
        chunk: int,
        bias: Tensor | None = None,
        cap: float | None = None,
    ) -> Tensor:
        device = hidden.device.type
        fast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        h, w = hidden.to(fast), weight.to(fast)
        wide = torch.promote_types(fast, torch.float32)
        learn = any(ctx.needs_input_grad)
        grad_h = torch.empty_like(h) if learn else None
        grad_w = torch.zeros_like(weight, dtype=wide) if learn else None
        grad_b = torch.zeros_like(bias, dtype=wide) if learn and bias is not None else None
        logits = torch.empty(min(chunk, len(h)), len(w), dtype=wide, device=h.device)
        total = torch.zeros((), dtype=torch.float64, device=h.device)
        for i in range(0, len(h), chunk):
            part, t, a = h[i : i + chunk], target[i : i + chunk, None], importance[i : i + chunk, None].to(wide)
            z = logits[: len(part)]
            if fast == wide:
                torch.mm(part, w.T, out=z)
            else:
                z.copy_(part @ w.T)
            slope = _shaped(z, bias, cap, learn)
            of_target = z.gather(1, t)
            top = z.amax(1, keepdim=True)
            exponentials = z.sub_(top).exp_()
            mass = exponentials.sum(1, keepdim=True)
            total += ((top + mass.log() - of_target) * a).sum(dtype=torch.float64)
            if grad_h is not None and grad_w is not None:
                # d loss / d logits = (softmax - onehot) * importance, in place of the exponentials
                d = exponentials.mul_(a / mass).scatter_add_(1, t, -a)
                if slope is not None:
                    d.mul_(slope)
                if grad_b is not None:
                    grad_b += d.sum(0)
                g = d.to(fast)
                torch.mm(g, w, out=grad_h[i : i + chunk])
                if fast == wide:
                    grad_w.addmm_(g.T, part)
                else:
                    grad_w += g.T @ part
        if grad_h is not None and grad_w is not None:
            of_bias = None if grad_b is None or bias is None else grad_b.to(bias.dtype)
            ctx.save_for_backward(grad_h.to(hidden.dtype), grad_w.to(weight.dtype), of_bias)
        return total.to(wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
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


def head_loss(net: Network, hidden: Tensor, targets: Tensor, weights: Tensor, chunk: int = 1024) -> Tensor:
    """The weighted sum of -log p(target), nats: hidden [row, position, width] after the final norm, targets and weights
    [row, position]. Raises ClocheError for a head that is not `Unembed`."""
    head = net.spec.head
    if type(head) is not Unembed:
        raise ModelUnsupported(
            f"{head} cannot be trained: the fused loss needs one linear map to the vocabulary, Unembed(...)."
        )
    flat = hidden.reshape(-1, hidden.shape[-1])
    loss: Tensor = HeadLoss.apply(
        flat, net.unembed_weight(), targets.reshape(-1), weights.reshape(-1), chunk, net.unembed.bias, head.cap
    )
    return loss
