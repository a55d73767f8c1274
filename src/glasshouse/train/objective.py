"""What training minimises: next-token cross-entropy, with its head and its gradient fused and taken in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glasshouse.errors import GlasshouseError
from glasshouse.model import Network, Unembed


class Predictor(Protocol):
    """What an objective needs of a network."""

    def hidden(self, ids: Tensor) -> Tensor: ...

    def unembed_weight(self) -> Tensor: ...


class HeadLoss(torch.autograd.Function):
    """Sum over tokens of weight * -log softmax(W h)[target], never holding more than `chunk` tokens' logits.

    The gradient is computed on the way forward, chunk by chunk, while the logits are in cache: nothing of size
    [tokens, vocab] is kept or recomputed. Products run in bf16 under autocast; the log-sum-exp is always in fp32 (or wider).
    hidden [tokens, width], weight [vocab, width], target and importance [tokens] -> a scalar, in nats.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, importance: Tensor, chunk: int) -> Tensor:
        device = hidden.device.type
        fast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        h, w = hidden.to(fast), weight.to(fast)
        wide = torch.promote_types(fast, torch.float32)
        learn = any(ctx.needs_input_grad)
        grad_h = torch.empty_like(h) if learn else None
        grad_w = torch.zeros_like(weight, dtype=wide) if learn else None
        logits = torch.empty(min(chunk, len(h)), len(w), dtype=wide, device=h.device)
        total = torch.zeros((), dtype=torch.float64, device=h.device)
        for i in range(0, len(h), chunk):
            part, t, a = h[i : i + chunk], target[i : i + chunk, None], importance[i : i + chunk, None].to(wide)
            z = logits[: len(part)]
            if fast == wide:
                torch.mm(part, w.T, out=z)
            else:
                z.copy_(part @ w.T)
            of_target = z.gather(1, t)
            top = z.amax(1, keepdim=True)
            exponentials = z.sub_(top).exp_()
            mass = exponentials.sum(1, keepdim=True)
            total += ((top + mass.log() - of_target) * a).sum(dtype=torch.float64)
            if grad_h is not None and grad_w is not None:
                # d loss / d logits = (softmax - onehot) * importance, written over the exponentials
                g = exponentials.mul_(a / mass).scatter_add_(1, t, -a).to(fast)
                torch.mm(g, w, out=grad_h[i : i + chunk])
                if fast == wide:
                    grad_w.addmm_(g.T, part)
                else:
                    grad_w += g.T @ part
        if grad_h is not None and grad_w is not None:
            ctx.save_for_backward(grad_h.to(hidden.dtype), grad_w.to(weight.dtype))
        return total.to(wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_w = ctx.saved_tensors
        return grad_h * grad, grad_w * grad, None, None, None


@dataclass(frozen=True)
class NextToken:
    """Mean cross-entropy of each token given those before it, nats per token.

    `chunk` is the number of tokens whose logits exist at one time.
    """

    chunk: int = 1024

    def check(self, net: Network) -> None:
        """Raises GlasshouseError for what the fused loss would leave out: more head than a matrix, a router's loss."""
        if net.spec.head != Unembed():
            raise GlasshouseError(
                f"{net.spec.head} cannot be trained: the next-token loss knows a head without bias or cap, Unembed()"
            )
        if "router" in dir(net.sites):
            raise GlasshouseError(
                "A mixture of experts cannot be trained yet: its routers' balance loss would be left out"
            )

    def examples(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """batch [rows, length + 1] -> inputs, targets and their weights, each [rows, length]."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        return inputs, targets, torch.ones(targets.shape, device=batch.device)

    def total(self, net: Predictor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum of the tokens' losses, nats, and the sum of their weights."""
        inputs, targets, weights = self.examples(batch)
        hidden = net.hidden(inputs)
        flat = hidden.reshape(-1, hidden.shape[-1])
        loss = HeadLoss.apply(flat, net.unembed_weight(), targets.reshape(-1), weights.reshape(-1), self.chunk)
        return loss, weights.sum()

    def loss(self, net: Predictor, batch: Tensor) -> Tensor:
        """The mean loss, with its gradient."""
        loss, weight = self.total(net, batch)
        return loss / weight
