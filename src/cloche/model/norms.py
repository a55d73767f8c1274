"""Normalisation layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cloche.errors import SettingRange, shown
from cloche.model.declare import Declared, Module, freeze
from cloche.model.maps.activations import MOST_SHIFT
from cloche.part import Part, positive

if TYPE_CHECKING:
    from cloche.model.sites.proof import Proof
    from cloche.model.sites.recorder import Recorder


Backward = Callable[[Tensor], Tensor]  # from cotangents of an output to those of its input


class Norm(Part):
    """A normalisation over the last axis.

    `build(width)` gives a module from [..., width] to [..., width]; `gain` is the standard deviation of the output,
    for norms after a branch. A module with `scale(x)` [..., 1] and `divided(x, scale)` has a site for the divisor of
    each row.

    `frozen(x)` gives its output and the adjoint at that scale (see `Module`).

    `prove(x, proof, site, scale)` gives the two sites from the norm's fields and weights alone (see `sites.proof`).

    >>> from cloche import GLU, LM, Attention, Block, LayerNorm, Stack
    >>> from cloche.model import Norm
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU())), norm=LayerNorm()).build(seed=0)
    >>> isinstance(net.spec.norm, Norm), net.final_norm(net.embed.weight[:3]).shape
    (True, torch.Size([3, 32]))
    """

    def build(self, width: int, gain: float = 1.0) -> Module:
        raise TypeError(f"{type(self).__name__} must define build(width, gain)")

    def build_heads(self, heads: int, size: int) -> Module:
        """A module on [..., heads, size]: each head separately, all with the same gains."""
        return self.build(size)

    def prove_heads(self, x: Tensor, proof: Proof, site: str | None) -> Tensor | None:
        """What the site of heads [..., heads, size] is."""
        return proof.through(self, x, "", site)


@dataclass(frozen=True)
class NoNorm(Norm):
    """No normalisation: a branch reads the residual stream itself (OLMo 2, which normalises the branch's output).

    >>> import torch
    >>> from cloche.model import NoNorm
    >>> NoNorm().build(2)(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """

    def build(self, width: int, gain: float = 1.0) -> Module:
        return _NoNorm()

    def prove(self, x: Tensor, proof: Proof, site: str | None = None, scale: str | None = None) -> Tensor | None:
        return proof(site, x)


@dataclass(frozen=True)
class RMSNorm(Norm):
    """x / sqrt(mean(x^2) + eps) * gain (Zhang and Sennrich 2019, 1910.07467).

    >>> from cloche import GLU, LM, Attention, Block, RMSNorm, Stack
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU(), norm=RMSNorm()))).build(seed=0)
    >>> x = net.run([[1, 2]], save=["attn_in[0]"])["attn_in[0]"]
    >>> bool((x.pow(2).mean(-1) - 1).abs().max() < 0.01)
    True
    """

    eps: float = 1e-5

    def __post_init__(self) -> None:
        positive(self, eps=self.eps)

    def build(self, width: int, gain: float = 1.0) -> Module:
        return _RMSNorm(width, self.eps, gain)

    def prove(self, x: Tensor, proof: Proof, site: str | None = None, scale: str | None = None) -> Tensor | None:
        y = x / proof(scale, x.pow(2).mean(-1, keepdim=True).add(self.eps).sqrt()) * self._gain(proof)
        return proof(site, y, _rounded_among(x, y))

    def _gain(self, proof: Proof) -> Tensor:
        return proof.vector("weight")


@dataclass(frozen=True)
class ZeroCenteredRMSNorm(RMSNorm):
    """RMSNorm whose gain is 1 + weight, so that weight decay pulls the gain to one (Gemma).

    >>> from cloche.model import ZeroCenteredRMSNorm
    >>> ZeroCenteredRMSNorm(eps=1e-6).eps
    1e-06
    """

    def build(self, width: int, gain: float = 1.0) -> Module:
        return _ZeroCenteredRMSNorm(width, self.eps, gain - 1.0)

    def prove(self, x: Tensor, proof: Proof, site: str | None = None, scale: str | None = None) -> Tensor | None:
        return super().prove(x, proof, site, scale)

    def _gain(self, proof: Proof) -> Tensor:
        return 1.0 + proof.vector("weight")


@dataclass(frozen=True)
class LayerNorm(Norm):
    """(x - mean) / sqrt(variance + eps) * gain + bias (Ba et al. 2016, 1607.06450).

    >>> from cloche import GLU, LM, Attention, Block, LayerNorm, Stack
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU(), norm=LayerNorm()))).build(seed=0)
    >>> x = net.run([[1, 2]], save=["attn_in[0]"])["attn_in[0]"]
    >>> bool(x.mean(-1).abs().max() < 1e-6)
    True
    """

    eps: float = 1e-5
    bias: bool = True

    def __post_init__(self) -> None:
        positive(self, eps=self.eps)

    def build(self, width: int, gain: float = 1.0) -> Module:
        return _LayerNorm(width, self.eps, self.bias, gain)

    def prove(self, x: Tensor, proof: Proof, site: str | None = None, scale: str | None = None) -> Tensor | None:
        gain, centred = proof.vector("weight"), x - x.mean(-1, keepdim=True)
        divisor = proof(scale, centred.pow(2).mean(-1, keepdim=True).add(self.eps).sqrt())
        return proof(site, centred / divisor * gain + proof.vector("bias"), _rounded_among(x, x / divisor * gain))


@dataclass(frozen=True)
class AllHeads(Norm):
    """`norm` over all heads of q, and of k, together, each number with a gain of its own (OLMo 2).

    >>> from cloche.model import AllHeads, Attention, RMSNorm
    >>> Attention(heads=4, qk_norm=AllHeads(RMSNorm())).qk_norm
    AllHeads(norm=RMSNorm(eps=1e-05))
    """

    norm: Norm = RMSNorm()

    def build(self, width: int, gain: float = 1.0) -> Module:
        return self.norm.build(width, gain)

    def build_heads(self, heads: int, size: int) -> Module:
        return _AllHeads(self.norm.build(heads * size))

    def prove(self, x: Tensor, proof: Proof, site: str | None = None, scale: str | None = None) -> Tensor | None:
        return proof.through(self.norm, x, "", site, scale)

    def prove_heads(self, x: Tensor, proof: Proof, site: str | None) -> Tensor | None:
        y = proof.through(self.norm, x.flatten(-2), "all")
        return proof(site, None if y is None else y.view_as(x))


@dataclass(frozen=True)
class RectifiedNorm(Norm):
    """relu(norm(x) - shift): a branch's input is not negative, and sparser for a larger `shift`.

    Its gain is initialised so that the output has a second moment of one, as after any other norm.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model import RectifiedNorm
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU(), norm=RectifiedNorm(shift=0.5)))).build(seed=0)
    >>> bool((net.run([[1, 2]], save=["attn_in[0]"])["attn_in[0]"] >= 0).all())
    True
    """

    norm: Norm = RMSNorm()
    shift: float = 0.0

    def __post_init__(self) -> None:
        self.check_fields(type(self).__name__)
        if not 0 <= self.shift <= MOST_SHIFT:
            raise SettingRange(f"RectifiedNorm(shift={shown(self.shift)}) must be a number from 0 to {MOST_SHIFT:,}.")

    def build(self, width: int, gain: float = 1.0) -> Module:
        return _RectifiedNorm(self.norm.build(width, _before_rectifying(gain, self.shift)), self.shift)

    def build_heads(self, heads: int, size: int) -> Module:
        return _RectifiedNorm(self.norm.build_heads(heads, size), self.shift)

    def prove(self, x: Tensor, proof: Proof, site: str | None = None, scale: str | None = None) -> Tensor | None:
        return self._rectified(x, proof.through(self.norm, x, "inner", None, scale), proof, site)

    def prove_heads(self, x: Tensor, proof: Proof, site: str | None) -> Tensor | None:
        return self._rectified(x, self.norm.prove_heads(x, proof.inside("inner"), None), proof, site)

    def _rectified(self, x: Tensor, y: Tensor | None, proof: Proof, site: str | None) -> Tensor | None:
        return proof(site, None) if y is None else proof(site, (y - self.shift).clamp(min=0), _rounded_among(x, y))


def _before_rectifying(rms: float, shift: float) -> float:
    """The standard deviation g of a normal z for which relu(g z - shift) has this root mean square."""

    def second_moment(g: float) -> float:
        a = shift / g
        upper = math.erfc(a / math.sqrt(2)) / 2
        return g**2 * ((1 + a**2) * upper - a * math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi))

    low, high = rms, 2 * rms + 4 * shift  # it grows with g, from below the target to above
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if second_moment(middle) < rms**2 else (low, middle)
    return high


def row_size(x: Tensor) -> Tensor:
    """The norm of each row: [..., 1]."""
    return x.norm(dim=-1, keepdim=True)


def _rounded_among(x: Tensor, y: Tensor) -> Tensor:
    """[..., 1]: the scale at which a norm's output is rounded; infinite where the squares of x overflow float32."""
    return torch.where(row_size(x) < torch.finfo(torch.float32).max ** 0.5 / 2, row_size(y), torch.inf)


def normalised(norm: Any, x: Tensor, record: Recorder, scale: str, layer: int | None) -> Any:
    """norm(x). If a plan touches the site `scale`, the divisor of each row is computed separately and offered to
    `record`."""
    if not record.wants(scale, layer):
        return norm(x)
    return norm.divided(x, record(scale, layer, norm.scale(x)))


def has_scale(norm: Any) -> bool:
    """Whether the module of a norm has a site for its divisor."""
    return hasattr(norm, "divided") and (not isinstance(norm, _RectifiedNorm) or has_scale(norm.inner))


class _RectifiedNorm(Module):
    def __init__(self, norm: Module, shift: float) -> None:
        super().__init__()
        self.inner = norm
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x) - self.shift)

    def scale(self, x: Tensor) -> Tensor:
        return self.inner.scale(x)  # type: ignore[operator]

    def divided(self, x: Tensor, scale: Tensor) -> Tensor:
        return F.relu(self.inner.divided(x, scale) - self.shift)  # type: ignore[operator]

    def frozen(self, x: Tensor) -> tuple[Tensor, Backward]:
        inside, backward = freeze(self.inner, x)
        on = inside > self.shift
        return F.relu(inside - self.shift), lambda dy: backward(dy * on)


class _NoNorm(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x

    def frozen(self, x: Tensor) -> tuple[Tensor, Backward]:
        return x, lambda dy: dy


class _AllHeads(Module):
    def __init__(self, norm: Module) -> None:
        super().__init__()
        self.all = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.all(x.flatten(-2)).view_as(x)


class _RMSNorm(Module):
    def __init__(self, width: int, eps: float, start: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = self.declare("weight", (width,), Declared(constant=start, group="vector"))

    @property
    def gain(self) -> Tensor:
        """[width]: the factor of each normalised number."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return _Normalise.apply(x, self.gain, self.eps)

    def scale(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def divided(self, x: Tensor, scale: Tensor) -> Tensor:
        return x * scale.reciprocal().to(x.dtype) * self.gain

    def frozen(self, x: Tensor) -> tuple[Tensor, Backward]:
        scale = self.scale(x)
        slope = self.gain / scale
        return self.divided(x, scale), lambda dy: dy * slope


class _ZeroCenteredRMSNorm(_RMSNorm):
    @property
    def gain(self) -> Tensor:
        return 1.0 + self.weight


class _Normalise(torch.autograd.Function):
    """RMSNorm with its gradient written out: half the passes over memory of the composed operations on a CPU.

    The backward is made of differentiable operations on the inputs, so second derivatives work.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _reciprocal(x, eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.eps = eps
        return x * scale * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (dy,) = gradients
        x, weight, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted, and what was saved does not depend on x
            scale = _reciprocal(x, ctx.eps)
        normed = x * scale
        dy_normed = dy * normed
        along = (dy_normed @ weight.to(dy.dtype))[..., None] / x.shape[-1]
        dx = torch.addcmul(dy * weight, normed, along, value=-1) * scale
        return dx, dy_normed.reshape(-1, x.shape[-1]).sum(0), None


def _reciprocal(x: Tensor, eps: float) -> Tensor:
    """[..., 1]: 1 / the root mean square of each row, computed in float32 at least."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return (norm.square() / x.shape[-1] + eps).rsqrt().to(x.dtype)


class _LayerNorm(Module):
    def __init__(self, width: int, eps: float, bias: bool, start: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = self.declare("weight", (width,), Declared(constant=start, group="vector"))
        self.bias = self.declare("bias", (width,), Declared(group="vector")) if bias else None

    @property
    def gain(self) -> Tensor:
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)

    def scale(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide.var(-1, correction=0, keepdim=True) + self.eps).sqrt()

    def divided(self, x: Tensor, scale: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        y = (wide - wide.mean(-1, keepdim=True)) / scale * self.weight
        return (y if self.bias is None else y + self.bias).to(x.dtype)

    def frozen(self, x: Tensor) -> tuple[Tensor, Backward]:
        scale = self.scale(x)
        slope = self.weight / scale

        def backward(dy: Tensor) -> Tensor:
            dy = dy * slope
            return dy - dy.mean(-1, keepdim=True)

        return self.divided(x, scale), backward
