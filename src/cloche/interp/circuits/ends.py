"""Units that write into the residual stream and units that read it: neurons of layers, or features of dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cloche.errors import ModelUnsupported, SiteUnsuitable
from cloche.interp.circuits.weights import is_linear, reading, writing
from cloche.interp.route import FIRST, reader_of
from cloche.model import Network, Site
from cloche.sparse import SAE

STREAM = (
    "embed",
    "resid_pre",
    "attn_out",
    "resid_mid",
    "mlp_out",
    "resid_post",
)  # sites whose vectors are the stream's
NORMED = {"attn_in": ("mix_norm", "attn_scale"), "mlp_in": ("map_norm", "mlp_scale")}  # the stream after a norm
Values = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Writers:
    """Units of a layer: their activations [..., unit] as a function of the value of `read`, what each writes into the stream
    per unit of activation [unit, width], and the rows [unit, width of `written`] to take away there to remove it, None where
    the site holds the units themselves."""

    name: str
    layer: int
    read: Site
    written: Site
    activations: Values
    writes: Tensor
    rows: Tensor | None

    def contribution(self, unit: int, activation: Tensor, width: int) -> Tensor:
        """What the unit adds at `written` where it has these activations [...], [..., width]."""
        row = torch.eye(width)[unit] if self.rows is None else self.rows[unit]
        return activation[..., None] * row.to(activation)


@dataclass(frozen=True, eq=False)
class Readers:
    """Units of a layer, their pre-activations [..., unit] up to a constant as a function of the value of `site`, the direction
    of the stream that each reads [unit, width], and the site of the norm's divisor between, if there is one."""

    name: str
    layer: int
    site: Site
    activations: Values
    reads: Tensor
    scale: Site | None


def ends(net: Network, sae: SAE | None, later: SAE | None) -> tuple[list[Writers], list[Readers]]:
    """The features of `sae` and of `later`; of None, the neurons of all layers. Raises ModelUnsupported where no unit is
    followed by one of a later layer, and SiteUnsuitable for a dictionary of sites that are not of the stream."""
    writers = _writing_neurons(net) if sae is None else [_writing_features(net, sae)]
    readers = _reading_neurons(net) if later is None else [_reading_features(net, later)]
    if not any(one.layer < other.layer for one in writers for other in readers):
        what = "neurons" if sae is None and later is None else "units"
        raise ModelUnsupported(
            f"This model has no {what} whose output, a matrix times their activations, a later layer reads; choose a model of "
            "two layers with such neurons, or dictionaries of an earlier and a later layer."
        )
    return writers, readers


def _flat(value: Tensor) -> Tensor:
    return value.flatten(2).float()


def _writing_neurons(net: Network) -> list[Writers]:
    found = []
    for layer, block in enumerate(net.layers):
        post = getattr(block.part, "post", None)
        if _has_neurons(block) and hasattr(block.map, "outer") and is_linear(post):
            site = net.sites.mlp_act[layer]
            matrix = writing(post, getattr(block, "map_post", None), block.map.outer.weight.detach().double())
            found.append(Writers("unit", layer, site, site, _flat, matrix.T.float().cpu(), None))
    return found


def _reading_neurons(net: Network) -> list[Readers]:
    found = []
    for layer, block in enumerate(net.layers):
        norm, module = getattr(block.part, "norm", None), getattr(block, "map_norm", None)
        if _has_neurons(block) and hasattr(block.map, "inner") and is_linear(norm):
            site = net.sites.mlp_pre[layer]
            hidden = net.sites.shape(site)["hidden"]
            weight = reading(
                norm, module, block.map.inner.weight.detach().double()[:hidden]
            )  # the gate's rows come first
            scale = net.sites.mlp_scale[layer] if "mlp_scale" in getattr(block, "declared_sites", {}) else None
            found.append(Readers("unit", layer, site, _flat, weight.float().cpu(), scale))
    return found


def _has_neurons(block: Any) -> bool:
    return {"mlp_pre", "mlp_act"} <= set(getattr(block.map, "declared_sites", {}))


def _writing_features(net: Network, sae: SAE) -> Writers:
    reader = reader_of(sae, net)
    written = [site for _, site in reader.written()]
    if len(reader.sites) > 2 or len(written) > 1 or written[0].name not in STREAM:
        _refuse(str(reader.route), "write into the residual stream at one site")
    rows = sae.dictionary.atoms.detach().float().cpu()

    def activations(value: Tensor) -> Tensor:
        flat = _flat(value).cpu()
        code = sae.encode(flat[:, FIRST:].flatten(0, 1)).dense().view(*flat[:, FIRST:].shape[:2], -1)
        return torch.nn.functional.pad(code, (0, 0, FIRST, 0))

    layer = -1 if written[0].layer is None else written[0].layer
    return Writers("feature", layer, reader.sites[0], written[0], activations, rows, rows)


def _reading_features(net: Network, sae: SAE) -> Readers:
    reader = reader_of(sae, net)
    site = reader.sites[0]
    if len(sae.wiring.reads) > 1 or site.name not in (*STREAM, *NORMED) or site not in reader.own:
        _refuse(str(reader.route), "read the residual stream at one site")
    rows = (sae.encoder * sae.scale).detach().float().cpu()
    reads, scale = rows, None
    layer = -1 if site.layer is None else site.layer
    if site.name in NORMED:
        name, divisor = NORMED[site.name]
        block = net.layers[layer]
        part, norm = getattr(block.part, "norm", None), getattr(block, name, None)
        if not is_linear(part):
            _refuse(str(reader.route), "read the residual stream through a norm that is linear but for its scale")
        reads = reading(part, norm, rows.double()).float()
        scale = getattr(net.sites, divisor)[layer] if divisor in getattr(block, "declared_sites", {}) else None
    return Readers("feature", layer, site, lambda value: _flat(value).cpu() @ rows.T, reads, scale)


def _refuse(route: str, what: str) -> None:
    raise SiteUnsuitable(
        f"Inhibition is measured between features that {what}, and this dictionary is of {route}; choose another."
    )


def needed(writers: Sequence[Writers], readers: Sequence[Readers]) -> list[Site]:
    """The sites whose values they need."""
    sites = [each.read for each in writers] + [each.site for each in readers]
    return list(dict.fromkeys(sites + [each.scale for each in readers if each.scale is not None]))
