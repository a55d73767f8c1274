"""The learned maps of lenses: from the residual stream after each layer to that after the last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from cloche.errors import WeightsInvalid
from cloche.model import Network, Site

KINDS = ("bias only", "ridge map", "tuned lens")


class Affine(NamedTuple):
    """h -> h + W h + b for every layer: weight [layer, width, width] or None for W = 0, bias [layer, width].

    >>> import torch
    >>> from cloche.interp.lenses import Affine
    >>> Affine(None, torch.ones(1, 2))(torch.zeros(1, 3, 2))
    tensor([[[1., 1.],
             [1., 1.],
             [1., 1.]]])
    """

    weight: Tensor | None
    bias: Tensor

    def __call__(self, h: Tensor) -> Tensor:
        """[layer, row, width] of h [layer, row, width]."""
        moved = h + self.bias[:, None]
        return moved if self.weight is None else torch.baddbmm(moved, h, self.weight.mT)

    def to(self, device: torch.device) -> Affine:
        return Affine(None if self.weight is None else self.weight.to(device), self.bias.to(device))

    def where(self, layers: Tensor, other: Affine) -> Affine:
        """`other` at the layers (a boolean for each), this one elsewhere."""
        bias = torch.where(layers[:, None], other.bias, self.bias)
        if self.weight is None and other.weight is None:
            return Affine(None, bias)
        one, two = (torch.zeros_like(bias)[..., None] if m.weight is None else m.weight for m in (self, other))
        return Affine(torch.where(layers[:, None, None], two, one), bias)


@dataclass(frozen=True, eq=False)
class TunedLens:
    """A tuned lens (Belrose et al. 2023, 2303.08112): per layer l, softmax(U(norm(h_l + W h_l + b))), with the model's own
    final norm and unembedding U.

    maps: by kind, "tuned lens", and the two that it is compared with: "ridge map", least squares from h_l to the last
    layer's h_L (2303.09435), and "bias only", W = 0. sites: where each layer is read; the last layer has no map.
    `checkpoint` and `tokens` say what it was trained on.

    >>> import torch
    >>> from cloche.interp.lenses import Affine, TunedLens
    >>> lens = TunedLens({"tuned lens": Affine(torch.zeros(1, 2, 2), torch.ones(1, 2))}, ("embed",))
    >>> lens(torch.zeros(2, 4, 2))[:, 0]
    tensor([[1., 1.],
            [0., 0.]])
    """

    maps: dict[str, Affine]
    sites: tuple[str, ...]
    checkpoint: str = ""
    tokens: int = 0
    figures: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, h: Tensor, kind: str = "tuned lens") -> Tensor:
        """The stream [site, row, width] with every layer but the last mapped to the last."""
        return torch.cat([self.maps[kind].to(h.device)(h[:-1]), h[-1:]])

    def check(self, net: Network) -> None:
        """Raises ClocheError if the lens is of a model with other layers or another width."""
        width = self.maps["tuned lens"].bias.shape[1]
        found = tuple(str(site) for site in stream_sites(net)[:-1])
        if (found, net.spec.width) != (self.sites, width):
            raise WeightsInvalid(
                f"The lens has maps of width {width} for {len(self.sites)} layers, and this model needs {len(found)} of "
                f"width {net.spec.width}: use the lens of this model, or train one."
            )

    def notes(self, checkpoint: str) -> list[str]:
        """A sentence if the model is at another checkpoint than the one the lens was trained on."""
        if self.checkpoint in ("", checkpoint):
            return []
        return [f"The lens was trained on {self.checkpoint} and reads {checkpoint or 'another model'}."]


def stream_sites(net: Network) -> list[Site]:
    """Where a lens reads: the residual stream after the embedding and after every layer."""
    return [net.sites.embed, *net.sites.resid_post]
