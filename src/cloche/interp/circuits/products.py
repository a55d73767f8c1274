"""The products of a head's weight matrices, decomposed without ever being formed."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cloche.errors import ModelUnsupported
from cloche.interp.circuits.scanning import layers_with_patterns
from cloche.interp.circuits.weights import (
    embedding_to_logits,
    finite,
    head_weights,
    product_of_embeddings,
    signed_share,
)
from cloche.model import Network, rotate

Kind = Literal["ov", "qk"]


class Product(NamedTuple):
    """left core right^T of each head: left and right [head, width, size], core [head, size, size]."""

    left: Tensor
    core: Tensor
    right: Tensor

    def decomposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Singular vectors and values: left [head, width, size], values [head, size], right [head, width, size]."""
        left, first = torch.linalg.qr(self.left)
        right, second = torch.linalg.qr(self.right)
        u, values, v = torch.linalg.svd(finite(first @ self.core @ second.mT))
        return left @ u, values, right @ v.mT

    def eigenvalues(self, between: Tensor | None = None) -> Tensor:
        """The eigenvalues that are not zero by necessity, [head, size]; with `between` [width, width], those of the product
        times it."""
        right = self.right.mT if between is None else self.right.mT @ between
        return torch.linalg.eigvals(finite(self.core @ right @ self.left))


class Spectra(NamedTuple):
    """Of all heads of `layers` at each offset: singular and eigenvalues (complex) [offset, layer, head, size], score [offset,
    layer, head]. Layers with fewer heads are filled up with NaN."""

    layers: list[int]
    singular: Tensor
    eigenvalues: Tensor
    score: Tensor


def spectra_of(net: Network, kind: Kind, layers: list[int], offsets: list[int]) -> Spectra:
    between = embedding_to_logits(net) if kind == "ov" else product_of_embeddings(net)
    found: dict[str, list[Tensor]] = {"singular": [], "eigenvalues": [], "score": []}
    for layer in layers:
        products = [product(net, kind, layer, offset) for offset in offsets]
        found["singular"].append(torch.stack([each.decomposed()[1] for each in products]))
        found["eigenvalues"].append(torch.stack([each.eigenvalues() for each in products]))
        unknown = torch.full(found["singular"][-1].shape[:2], torch.nan, dtype=torch.float64)
        scores = [] if between is None else [signed_share(each.eigenvalues(between)) for each in products]
        found["score"].append(torch.stack(scores) if scores else unknown)
    return Spectra(layers, *(joined(each).cpu() for each in found.values()))


def joined(layers: list[Tensor]) -> Tensor:
    """Layers [offset, head, ...] as [offset, layer, head, ...]."""
    by_head = [each.transpose(0, 1) for each in layers]
    sizes = {each.shape[2:] for each in by_head}
    if len(sizes) > 1:  # heads of several sizes: pad the last axis too
        widest = max(size[-1] for size in sizes)
        by_head = [torch.nn.functional.pad(each, (0, widest - each.shape[-1]), value=torch.nan) for each in by_head]
    return pad_sequence(by_head, True, torch.nan).movedim(2, 0)


def product(net: Network, kind: Kind, layer: int, offset: int = 0) -> Product:
    """Kind "ov": W_O W_V, from what is attended to, to what is written; "qk": W_Q^T R W_K times the scale, the score of a query
    and a key `offset` back before a soft cap."""
    block = net.layers[layer]
    weights = head_weights(block)
    if weights is None:
        raise ModelUnsupported(f"The heads of layer {layer} are not products of weight matrices; choose other layers.")
    if kind == "ov":
        size = weights.value.shape[1]
        core = torch.eye(size, dtype=torch.float64, device=weights.value.device).expand(len(weights.value), -1, -1)
        return Product(weights.output, core, weights.value.mT)
    core = (block.mix.scale or block.mix.size**-0.5) * rotation(block.mix, offset).to(weights.query.device)
    return Product(weights.query.mT, core.expand(len(weights.query), -1, -1), weights.key.mT)


def rotation(mix: Any, offset: int) -> Tensor:
    """R [size, size] with q^T R k the product of a query and a key `offset` positions before it, both rotated."""
    both = torch.tensor([[0, offset]])
    table = mix.part.position.table(both, mix.size)
    each = torch.eye(mix.size, dtype=torch.float64)
    if table is None:
        return each
    turned = rotate(each.expand(1, 2, -1, -1), table)[0]  # [position, basis vector, size]
    return turned[1] @ turned[0].T


def depends_on_offset(net: Network, layers: list[int]) -> bool:
    mixers = [net.layers[layer].mix for layer in layers]
    return any(mix.part.position.table(torch.tensor([[0, 1]]), mix.size) is not None for mix in mixers)


def layers_of(net: Network, kind: Kind) -> list[int]:
    """The layers whose heads are products of weight matrices. Raises ModelUnsupported if there are none, and for "qk" if one
    normalises queries and keys."""
    layers = [layer for layer in layers_with_patterns(net) if head_weights(net.layers[layer]) is not None]
    if not layers:
        raise ModelUnsupported(
            "No head of this model is a product of weight matrices: it needs attention after a norm that is linear once its "
            "scale is fixed (RMSNorm, LayerNorm, NoNorm)."
        )
    normed = [layer for layer in layers if kind == "qk" and net.layers[layer].mix.q_norm is not None]
    if normed:
        raise ModelUnsupported(
            f"Layer {normed[0]} normalises its queries and keys (qk_norm), so its scores are not a bilinear form with a "
            "spectrum; look at of=ov instead."
        )
    return layers
