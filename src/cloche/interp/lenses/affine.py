"""The learned maps of lenses: from the residual stream after each layer to that after the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cloche.errors import InstrumentOption, ModelUnsupported, WeightsInvalid
from cloche.model import Network, Site

LOGIT, TUNED, JACOBIAN = "logit lens", "tuned lens", "Jacobian lens"
KINDS = ("bias only", "ridge map", TUNED, JACOBIAN)


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


@dataclass(frozen=True)
class JacobianFit:
    """What a Jacobian lens was estimated from: texts and tokens, the positions left out at the start of each text, and the
    cotangents per text. error: the standard error of J per layer, relative to the norm of J, from the difference between two
    halves of the texts; empty for one text.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import JacobianConfig, fit_jacobian
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> fit = fit_jacobian(glass, [torch.randint(64, (8, 32))], JacobianConfig(cotangents=4)).jacobian
    >>> fit.texts, fit.tokens, fit.skip, fit.cotangents, len(fit.error)
    (8, 256, 16, 4, 2)
    """

    texts: int
    tokens: int
    skip: int
    cotangents: int
    error: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Lens:
    """Affine maps from the residual stream h_l after each layer to that after the last: softmax(U(norm(h_l + W h_l + b))), with
    the model's own final norm and unembedding U.

    maps: by kind. "tuned lens" (Belrose et al. 2023, 2303.08112) and the two that it is compared with, "ridge map", least
    squares from h_l to the last layer's h_L (2303.09435), and "bias only", W = 0, are from `train_lens`; "Jacobian lens", W =
    J - I and b = 0, is from `fit_jacobian`. `one | other` has the maps of both. sites: where each layer is read; the last layer
    has no map. `checkpoint` and `tokens` say what it was trained on, `jacobian` what J was estimated from.

    >>> import torch
    >>> from cloche.interp.lenses import Affine, Lens
    >>> lens = Lens({"tuned lens": Affine(torch.zeros(1, 2, 2), torch.ones(1, 2))}, ("embed",))
    >>> lens(torch.zeros(2, 4, 2))[:, 0]
    tensor([[1., 1.],
            [0., 0.]])
    """

    maps: dict[str, Affine]
    sites: tuple[str, ...]
    checkpoint: str = ""
    tokens: int = 0
    jacobian: JacobianFit | None = None

    def __call__(self, h: Tensor, kind: str = TUNED) -> Tensor:
        """The stream [site, row, width] with every layer but the last mapped to the last."""
        return torch.cat([self.maps[kind].to(h.device)(h[:-1]), h[-1:]])

    def __or__(self, other: Lens) -> Lens:
        if (self.sites, self.width, self.checkpoint) != (other.sites, other.width, other.checkpoint):
            raise WeightsInvalid(
                f"A lens of {self.checkpoint or 'one model'} and one of {other.checkpoint or 'another'} cannot be joined: they "
                "must have the same sites, width and checkpoint."
            )
        return Lens(
            self.maps | other.maps,
            self.sites,
            self.checkpoint,
            self.tokens or other.tokens,
            other.jacobian or self.jacobian,
        )

    @property
    def width(self) -> int:
        return next(iter(self.maps.values())).bias.shape[1]

    def check(self, net: Network, kind: str = "") -> None:
        """Raises ClocheError if the lens is of a model with other layers or another width, or has no map of the kind."""
        found = tuple(str(site) for site in stream_sites(net)[:-1])
        if (found, net.spec.width) != (self.sites, self.width):
            raise WeightsInvalid(
                f"The lens has maps of width {self.width} at {', '.join(self.sites)}, and this model needs them of width "
                f"{net.spec.width} at {', '.join(found)}: use the lens of this model, or train one."
            )
        if kind and kind not in self.maps:
            maker = "fit_jacobian" if kind == JACOBIAN else "train_lens"
            raise InstrumentOption(f"The lens has no {kind}, only {', '.join(self.maps)}: {maker} makes one.")

    def notes(self, checkpoint: str) -> list[str]:
        """A sentence if the model is at another checkpoint than the one the lens was trained on."""
        if self.checkpoint in ("", checkpoint):
            return []
        return [f"The lens was trained on {self.checkpoint} and reads {checkpoint or 'another model'}."]


def stream_sites(net: Network) -> list[Site]:
    """Where a lens reads: the residual stream after the embedding and after every layer."""
    return [net.sites.embed, *net.sites.resid_post]


def mapped_sites(net: Network) -> tuple[str, ...]:
    """The sites that a lens has maps of: all but the last. Raises ModelUnsupported if there are none."""
    sites = stream_sites(net)[:-1]
    if not sites:
        raise ModelUnsupported("This model has no layers, so a lens has nothing to map.")
    return tuple(str(site) for site in sites)
