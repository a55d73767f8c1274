"""A steering vector as a value, and its file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from cloche.errors import EditInvalid, FileDamaged, FileMissing, PathInvalid, SiteUnsuitable, WeightsInvalid, shown
from cloche.files import refuse_existing, write_atomically
from cloche.model import Edit, Network, Site

FORMAT = 1
LARGEST = 1 << 26  # bytes of a file; a vector of width 10,000 has 40,000
LONGEST = 1e18  # vector that can be added: the square of a longer one overflows float32 in the next norm
TENSOR, CARD, SHA256 = "direction", "cloche", "sha256"
UNIT_NORM = 1e-3  # by which the norm of a stored direction may differ from one


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A direction at a site, to be added to it: `direction` [width] of norm one, and `unit`, the mean norm of the site's own
    values, so that a strength of 1 adds a vector as long as the stream itself.

    `card`: how it was made (method, concept, checkpoint, number of texts, seed).

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import SteeringVector
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> vector = SteeringVector(torch.eye(32)[3], "resid_post[0]", unit=2.0)
    >>> r = net.run([[1, 2]], save=["resid_post[0]"], edits=vector.edits(net, 0.5))
    >>> clean = net.run([[1, 2]], save=["resid_post[0]"])
    >>> (r["resid_post[0]"] - clean["resid_post[0]"])[0, :, 3]
    tensor([1., 1.])
    """

    direction: Tensor
    site: str
    unit: float
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        norm = float(self.direction.norm()) if self.direction.ndim == 1 else math.nan
        if not (math.isfinite(norm) and norm > 0 and math.isfinite(self.unit) and self.unit > 0):
            raise WeightsInvalid(
                f"A steering vector needs a finite direction [width] that is not zero and a unit above zero; got a direction "
                f"of shape {list(self.direction.shape)} and norm {norm:.3g}, and unit {self.unit:.3g}."
            )
        object.__setattr__(self, "direction", (self.direction.detach().float() / norm).cpu())

    def at(self, net: Network) -> Site:
        """The site in a network. Raises WeightsInvalid if it has another width there, and what `place_of` raises."""
        site = place_of(net, self.site)
        width = net.sites.shape(site)[site.axes[-1]]
        if width != len(self.direction):
            raise WeightsInvalid(
                f"This steering vector has width {len(self.direction)}, and {site} of this model has {width}; use a vector "
                "made for this model."
            )
        return site

    def edits(self, net: Network, strength: float, start: int | None = None) -> list[Edit]:
        """The edits that add `strength` units at every position, or from position `start` on: from the last of the prompt, to
        steer the first new token too."""
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength):
            raise EditInvalid(f"A strength of {shown(strength)} is not a finite number; give one such as 0.5 or -1.")
        dtype = net.embed.weight.dtype
        if abs(strength) * self.unit > min(LONGEST, torch.finfo(dtype).max):
            raise EditInvalid(
                f"A strength of {strength:g} in units of {self.unit:.3g} is too long for {dtype}; give one such as 0.5."
            )
        edit = self.at(net).add(strength * self.unit * self.direction)
        return [edit if start is None else edit.at(slice(start, None))]

    def removal(self, net: Network) -> Edit:
        """The edit that takes the direction out of the site at every position."""
        return self.at(net).project_out(self.direction)

    def save(self, path: Path | str) -> Path:
        """Writes the vector and its card to a new safetensors file. Raises PathInvalid, FileExists, and WeightsInvalid for a
        card that JSON cannot hold or with an entry that the file has of its own."""
        path = self.check_path(path)
        about = {"format": FORMAT, "site": self.site, "unit": self.unit}
        try:
            if taken := {*about, SHA256} & self.card.keys():
                raise TypeError(f"{min(taken)!r} is an entry that the file has of its own")
            card = {**about, **self.card}
            metadata = {CARD: json.dumps(card | {SHA256: _digest(card, self.direction)})}
        except (TypeError, ValueError) as error:  # of JSON, or the check above
            raise WeightsInvalid(f"The card of this steering vector cannot be saved: {error}; change it.") from None
        write_atomically(path, save({TENSOR: self.direction.contiguous()}, metadata=metadata))
        return path

    @staticmethod
    def check_path(path: Path | str) -> Path:
        """The path, if a vector can be saved there. Raises PathInvalid and FileExists."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise PathInvalid(f"{path} is the name of another kind of file; a steering vector's ends in .safetensors.")
        refuse_existing(path, "choose another name")
        return path


def load_vector(path: Path | str) -> SteeringVector:
    """Reads the file of a steering vector. Raises FileMissing and, for anything that `SteeringVector.save` would not have
    written, FileDamaged.

    >>> import torch
    >>> from cloche.interp import SteeringVector, load_vector
    >>> path = SteeringVector(torch.ones(4), "resid_post[1]", 3.0, {"method": "mine"}).save("mine.safetensors")
    >>> load_vector(path).direction, load_vector(path).card["method"]
    (tensor([0.5000, 0.5000, 0.5000, 0.5000]), 'mine')
    """
    path = Path(path)
    if not path.is_file():
        raise FileMissing(f"There is no steering vector {path}; `cloche steer` makes one.")
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is too large")
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {})[CARD])
            direction = file.get_tensor(TENSOR)
        if not isinstance(card, dict):
            raise ValueError("its card is not an object")
        if card["format"] != FORMAT:
            raise ValueError("it is of another format")
        if card.pop(SHA256) != _digest(card, direction):
            raise ValueError("its bytes are not those that were written")
        del card["format"]
        site, unit = card.pop("site"), card.pop("unit")
        if not isinstance(site, str) or isinstance(unit, bool) or not isinstance(unit, int | float):
            raise ValueError("its card has no site or unit")
        if not (direction.is_floating_point() and abs(float(direction.float().norm()) - 1) <= UNIT_NORM):
            raise ValueError("its direction is not of norm one")
        return SteeringVector(direction, site, float(unit), card)
    except Exception as error:  # of the system, JSON, safetensors, or the checks above
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise FileDamaged(
            f"{path} cannot be read as a steering vector ({reason}); make it again with `cloche steer`."
        ) from error


def _digest(card: Mapping[str, Any], direction: Tensor) -> str:
    """The sha256 of a card and the direction's bytes."""
    return hashlib.sha256(
        json.dumps(card, sort_keys=True).encode() + direction.contiguous().numpy().tobytes()
    ).hexdigest()


def place_of(net: Network, site: str | None) -> Site:
    """The site of a text, by default the stream after the middle layer. Raises SiteUnsuitable for one without one vector
    per token."""
    found = net.sites.resolve(site or net.sites.resid_post[(len(net.layers) - 1) // 2])
    if len(found) > 1 or len(found[0].axes) != 3:
        raise SiteUnsuitable(
            f"{site} does not hold one vector per token; a steering vector is added to one such as resid_post[2] or mlp_out[1]."
        )
    return found[0]


def unit_of(values: Tensor) -> float:
    """The mean norm of a site's values [row, width]."""
    return float(values.float().norm(dim=-1).mean().clamp(min=torch.finfo(torch.float32).tiny))
