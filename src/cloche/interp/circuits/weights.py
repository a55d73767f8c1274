"""The weight matrices of attention heads, with the gains of the norms around them folded in."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cloche.errors import NotFinite
from cloche.model import LayerNorm, Network, NoNorm, Norm, RMSNorm, Unembed

PIECE = 4096  # tokens whose embeddings are held in double precision at a time


class HeadWeights(NamedTuple):
    """Matrices of one layer, per query head and in double precision: query, key and value [head, size, width] read the
    normalised stream, and output [head, width, size] writes into it. Grouped heads share keys and values."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


def head_weights(block: Any) -> HeadWeights | None:
    """The weights of a block's heads as functions of its input divided by the norm's scale; None where a head is not
    such a product: another mixer, or a norm that is not linear once its scale is fixed.

    A norm's gain is folded into q, k and v, that of a norm after the branch into the output, and LayerNorm's subtraction of
    the mean with either. Biases are left out.
    """
    mix, part = block.mix, block.part
    before, after = getattr(part, "norm", None), getattr(part, "post", None)
    if not (hasattr(mix, "qkv") and hasattr(mix, "out")) or not (is_linear(before) and is_linear(after)):
        return None
    sizes = [mix.heads * mix.size, mix.kv_heads * mix.size, mix.kv_heads * mix.size]
    rows = reading(before, getattr(block, "mix_norm", None), mix.qkv.weight.detach().double())
    query, key, value = (each.unflatten(0, (-1, mix.size)) for each in rows.split(sizes))
    groups = mix.heads // mix.kv_heads
    key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
    output = writing(after, getattr(block, "mix_post", None), mix.out.weight.detach().double())
    return HeadWeights(query, key, value, output.unflatten(1, (mix.heads, mix.size)).transpose(0, 1))


def is_linear(norm: Norm | None) -> bool:
    """Whether a norm is a linear map, plus a constant, once its scale is fixed."""
    return norm is None or isinstance(norm, NoNorm | RMSNorm | LayerNorm)


def reading(part: Norm | None, norm: Any, weight: Tensor) -> Tensor:
    """A matrix [..., width] that reads a norm's output, as one that reads the input divided by the norm's scale."""
    if part is None or isinstance(part, NoNorm):
        return weight
    weight = weight * norm.gain.detach().to(weight.dtype)
    return weight - weight.mean(-1, keepdim=True) if isinstance(part, LayerNorm) else weight


def writing(part: Norm | None, norm: Any, weight: Tensor) -> Tensor:
    """A matrix [width, ...] whose output a norm divides by a scale and multiplies by its gain, with that gain."""
    if part is None or isinstance(part, NoNorm):
        return weight
    if isinstance(part, LayerNorm):
        weight = weight - weight.mean(0)
    return weight * norm.gain.detach().to(weight.dtype)[:, None]


def unembedding(net: Network) -> Tensor | None:
    """Logits as a function of the stream after the last layer divided by the final norm's scale, [vocab, width] in single
    precision; None for a head or a final norm that is not linear."""
    if not isinstance(net.spec.head, Unembed) or not is_linear(net.spec.norm):
        return None
    return reading(net.spec.norm, net.final_norm, net.unembed_weight().detach().float())


def embedding_to_logits(net: Network) -> Tensor | None:
    """What is between a head's output and its input when the one writes logits and the other reads tokens: E^T U with the
    final norm folded in, [width, width]; None for a head or a final norm that is not linear."""
    if not isinstance(net.spec.head, Unembed) or not is_linear(net.spec.norm):
        return None
    return reading(net.spec.norm, net.final_norm, _product(net.embed.weight, net.unembed_weight()))


def product_of_embeddings(net: Network) -> Tensor:
    """E^T E, [width, width]."""
    return _product(net.embed.weight, net.embed.weight)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """first^T second of [token, width] each, in double precision."""
    total = first.new_zeros(first.shape[1], second.shape[1], dtype=torch.float64)
    for one, other in zip(first.detach().split(PIECE), second.detach().split(PIECE), strict=True):
        total += one.double().T @ other.double()
    return total


def copying(weights: HeadWeights, between: Tensor) -> Tensor:
    """Sum of Re(e) over sum of |e| for each head [head], of the eigenvalues of W_V E^T U W_O, [size, size], which are those
    of the map from tokens to logits, [vocab, vocab]; 0 for a head that writes nothing."""
    return signed_share(torch.linalg.eigvals(finite(weights.value @ between @ weights.output)))


def finite(product: Tensor) -> Tensor:
    """The product itself. Raises NotFinite where it is not: given NaN, LAPACK may end the process."""
    if not bool(product.isfinite().all()):
        raise NotFinite(
            "A product of this model's weights is NaN or infinite; check its weights, or take another checkpoint."
        )
    return product


def signed_share(eigenvalues: Tensor) -> Tensor:
    """Sum of Re(e) over sum of |e| along the last axis; 0 where all are 0."""
    size = eigenvalues.abs().sum(-1)
    return torch.where(size > 0, eigenvalues.real.sum(-1) / size.clamp_min(1e-300), 0.0)
