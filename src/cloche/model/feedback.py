"""Linear maps whose backward pass uses another matrix than the forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _FedBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor) -> Tensor:
        ctx.save_for_backward(x, feedback)
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (dy,), (x, feedback) = grads, ctx.saved_tensors
        rows = dy.flatten(0, -2)
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        return (
            (dy @ feedback.to(dy.dtype)).to(x.dtype) if wants_x else None,
            (rows.T @ x.flatten(0, -2).to(dy.dtype)).to(feedback.dtype) if wants_weight else None,
            rows.sum(0).to(feedback.dtype) if wants_bias else None,
            None,
        )


def fed_back(x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor) -> Tensor:
    """x W^T + b, whose gradient with respect to x is that of y times `feedback`, of W's shape, instead of W; the gradients of
    W and b are the usual ones.

    >>> import torch
    >>> from cloche.model import fed_back
    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> y = fed_back(x, torch.eye(2), None, torch.tensor([[5.0, 0.0], [0.0, 7.0]]))
    >>> y.sum().backward()
    >>> y, x.grad
    (tensor([[1., 1.]], grad_fn=<_FedBackBackward>), tensor([[5., 7.]]))
    """
    out: Tensor = _FedBack.apply(x, weight, bias, feedback)
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor | None) -> Tensor:
    """x W^T + b, with feedback if there is any."""
    return nn.functional.linear(x, weight, bias) if feedback is None else fed_back(x, weight, bias, feedback)


def linear_maps(net: nn.Module) -> dict[str, Any]:
    """Every linear map of a network by the name of its weight: ours and torch's, the head's included.

    >>> import torch
    >>> from cloche.model import linear_maps
    >>> list(linear_maps(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))))
    ['0.weight', '2.weight']
    """
    from cloche.model.declare import Linear

    maps = ((name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear | Linear))
    return {f"{name}.weight".removeprefix("."): module for name, module in maps}


@contextmanager
def with_feedback(net: nn.Module, matrices: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block, passes through these linear maps use the matrices, by names of weights, in their backward pass.

    >>> import torch
    >>> from cloche.model import with_feedback
    >>> net, x = torch.nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    >>> with with_feedback(net, {"weight": torch.tensor([[3.0, 4.0]])}):
    ...     y = net(x)
    >>> y.sum().backward()
    >>> x.grad
    tensor([[3., 4.]])
    """
    maps = linear_maps(net)
    chosen = [(maps[name], matrix) for name, matrix in matrices.items()]
    try:
        for module, matrix in chosen:
            if isinstance(module, nn.Linear):
                module.forward = _forward(module, matrix)  # type: ignore[method-assign]
            else:
                module.feedback = matrix
        yield
    finally:
        for module, _ in chosen:
            if isinstance(module, nn.Linear):
                module.__dict__.pop("forward", None)
            else:
                module.feedback = None


def _forward(module: nn.Linear, matrix: Tensor) -> Any:
    return lambda x: fed_back(x, module.weight, module.bias, matrix)
