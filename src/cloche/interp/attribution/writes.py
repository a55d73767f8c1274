"""What the components of a model add to the residual stream at one position of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cloche.errors import ModelUnsupported
from cloche.interp.attribution.readouts import Readout
from cloche.model import Context, Edit, MoE, Network, Result, Site
from cloche.model.sites import Keeping

By = Literal["component", "head", "expert", "neuron"]
BY: tuple[By, ...] = ("component", "head", "expert", "neuron")
Vector = Callable[[int], Tensor]  # the write [width] of a part


@dataclass(frozen=True, eq=False)
class Group:
    """Parts that write into one branch: the heads of a layer, the units of an expert, or a bias.

    direct [pair, part]: what each adds to each logit difference. write, usual: what a part writes at the position, and on
    average over the positions of the prompt, before a norm after the branch.
    """

    names: Sequence[str]
    direct: Tensor
    write: Vector
    usual: Vector


@dataclass(frozen=True, eq=False)
class Branch:
    """One addition to the stream, [width], at the position: `value` through the norm `post` if there is one.

    constants [pair]: what the norm itself adds to each logit difference.
    """

    site: Site
    value: Tensor
    groups: list[Group]
    constants: Tensor
    dtype: torch.dtype
    post: Any = None

    def without(self, written: Tensor, position: int) -> Edit:
        """The edit that takes the vector `written` out of the branch."""
        value = (self.value - written).to(self.dtype)
        return self.site.replace(value if self.post is None else self.post(value)).at(position)


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over a prompt with what the branches of `by` are made of, and the readout of the stream at `position`."""

    by: By
    net: Network
    ids: Tensor
    position: int
    result: Result
    readout: Readout

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the stream."""
        return self.net.embed.weight.dtype

    def at(self, site: Site) -> Tensor:
        """The site's value at every position, [position, ...]."""
        return self.result[site][0]


def sites_of(net: Network, by: By) -> list[Site]:
    """The sites that `branches` reads. Raises ModelUnsupported where the model has nothing to divide."""
    sites, divided = [net.sites.embed, net.sites.resid_post[-1]], False
    for layer in range(len(net.layers)):
        heads = by == "head" and has_heads(net, layer)
        experts = by in ("expert", "neuron") and _experts(net, layer) is not None
        neurons = by == "neuron" and _has_neurons(net, layer)
        sites += [net.sites.z[layer] if heads else net.sites.attn_out[layer], net.sites.mlp_out[layer]]
        sites += [net.sites.mlp_in[layer], net.sites.router[layer]] if experts else []
        sites += [net.sites.mlp_act[layer]] if neurons else []
        divided = divided or heads or experts or neurons
    if by != "component" and not divided:
        where = {"head": "heads", "expert": "experts", "neuron": "neurons"}[by]
        raise ModelUnsupported(f"No layer of this model has {where} that its output is a sum of; choose by=component.")
    return sites


def branches(made: Pass) -> Iterator[Branch]:
    """Every addition to the stream, in the order of the pass."""
    sites = made.net.sites
    yield branch(made, sites.embed)
    for layer in range(len(made.net.layers)):
        yield branch(made, sites.attn_out[layer])
        yield branch(made, sites.mlp_out[layer])


def branch(made: Pass, site: Site) -> Branch:
    """What is added to the stream at embed, attn_out or mlp_out of a layer, divided as the pass says."""
    net, by, layer = made.net, made.by, site.layer
    if layer is None:
        return _embedding(made)
    if site.name == "attn_out":
        return _heads(made, layer) if by == "head" and has_heads(net, layer) else _whole(made, site)
    if by in ("expert", "neuron") and _experts(net, layer) is not None:
        return _of_experts(made, layer, units=by == "neuron")
    return _neurons(made, layer) if by == "neuron" and _has_neurons(net, layer) else _whole(made, site)


# ---- what a layer has


def has_heads(net: Network, layer: int) -> bool:
    """Whether the attention output of a layer is a sum over heads, z W_O, plus a bias."""
    return {"z", "head_out"} <= set(getattr(net.layers[layer].mix, "declared_sites", {}))


def _has_neurons(net: Network, layer: int) -> bool:
    """Whether the map's output is a matrix times its neurons."""
    mapping = net.layers[layer].map
    return "mlp_act" in getattr(mapping, "declared_sites", {}) and hasattr(mapping, "outer")


def _experts(net: Network, layer: int) -> MoE | None:
    part = net.layers[layer].part.map
    return part if isinstance(part, MoE) else None


# ---- branches


def _whole(made: Pass, site: Site) -> Branch:
    values = made.at(site)
    value = values[made.position].double()
    group = _vectors([str(site)], made.readout, value[None], lambda _: values.double().mean(0))
    return Branch(site, value, [group], torch.zeros_like(made.readout.constants), made.dtype)


def _embedding(made: Pass) -> Branch:
    """The token's embedding, and that of the position where the model adds one."""
    site = made.net.sites.embed
    values = made.at(site).double()
    names, writes = ["token embedding"], [values]
    if made.net.position is not None:
        rows = made.net.embed(made.ids)[0].double()
        names, writes = ["token embedding", "position embedding"], [rows, values - rows]
    here = torch.stack([each[made.position] for each in writes])
    group = _vectors(names, made.readout, here, lambda part: writes[part].mean(0))
    return Branch(site, values[made.position], [group], torch.zeros_like(made.readout.constants), made.dtype)


def _heads(made: Pass, layer: int) -> Branch:
    """Head by head, and the output's bias: z . W_O^T w, so that no head's output [width] is held for all tokens."""
    mix, site = made.net.layers[layer].mix, made.net.sites.z[layer]
    z = made.at(site).flatten(1)  # [position, head * size]
    names = [f"{site}.head({head})" for head in range(made.result[site].shape[2])]
    return _products(made, made.net.sites.attn_out[layer], [_Product(names, z, mix.out)])


def _neurons(made: Pass, layer: int) -> Branch:
    act = made.at(made.net.sites.mlp_act[layer])
    names = [f"mlp_act[{layer}] unit {i}" for i in range(act.shape[1])]
    return _products(made, made.net.sites.mlp_out[layer], [_Product(names, act, made.net.layers[layer].map.outer)])


def _of_experts(made: Pass, layer: int, units: bool) -> Branch:
    """Each expert that the token was sent to, times its probability; `units`: unit by unit."""
    site, module, part = made.net.sites.mlp_out[layer], made.net.layers[layer].map, made.net.layers[layer].part.map
    logits = made.result[made.net.sites.router[layer]][0]  # [position, expert]
    weights = module.weights(logits.float().softmax(-1)).double()
    x, products, outputs, names = made.result[made.net.sites.mlp_in[layer]][0], [], [], []
    for expert in logits[made.position].topk(part.active).indices.tolist():
        inside, share, module_here = Keeping(["mlp_act"]), weights[:, expert, None], module.experts[expert]
        update, _ = module_here(x, Context.over(made.ids, record=inside), layer)
        names.append(f"{site} expert {expert}")
        outputs.append(share * update.double())
        if units and (not inside.kept or not hasattr(module_here, "outer")):
            raise ModelUnsupported(f"The experts of layer {layer} have no neurons; choose by=expert.")
        if units:
            act = inside.kept["mlp_act", layer].double()
            own = [f"{names[-1]} unit {i}" for i in range(act.shape[1])]
            products.append(_Product(own, share * act, module_here.outer, share, f"{names[-1]} bias"))
    if units:
        return _products(made, site, products)
    writes = torch.stack(outputs)  # [expert, position, width]
    here = writes[:, made.position]
    readout, post = _before_post(made, site, here.sum(0))
    return Branch(
        site,
        here.sum(0),
        [_vectors(names, readout, here, lambda part: writes[part].mean(0))],
        readout.constants,
        made.dtype,
        post,
    )


# ---- their parts


@dataclass(frozen=True, eq=False)
class _Product:
    """W x + share bias, with x [position, column] and share [position, 1]; every part has equally many columns."""

    names: Sequence[str]
    x: Tensor
    matrix: Any
    share: Tensor | None = None
    bias_name: str = ""

    def bias(self) -> Tensor:
        """What the bias adds at each position, [position, width]."""
        bias: Tensor = self.matrix.bias.detach().double()
        return bias.expand(len(self.x), -1) if self.share is None else self.share * bias


def _products(made: Pass, site: Site, products: list[_Product]) -> Branch:
    """A branch that is a sum of matrices times vectors, part by part."""
    here = made.position
    columns = [_columns(each, here) for each in products]
    value = sum((each.sum(1) for each in columns[1:]), columns[0].sum(1))
    with_bias = [each for each in products if each.matrix.bias is not None]
    value = value + sum(each.bias()[here] for each in with_bias)
    readout, post = _before_post(made, site, value)
    groups = [_group(*each, readout, here) for each in zip(products, columns, strict=True)]
    for each in with_bias:
        bias = each.bias()
        groups.append(_vectors([each.bias_name or f"{site} bias"], readout, bias[here][None], _mean_of(bias)))
    return Branch(site, value, groups, readout.constants, made.dtype, post)


def _before_post(made: Pass, site: Site, value: Tensor) -> tuple[Readout, Any]:
    """The readout of a branch before the norm that its block has after it, without the head's own constants; and that norm."""
    block = made.net.layers[site.layer or 0]
    norm = block.mix_post if site.name == "attn_out" else block.map_post
    own = Readout(made.readout.rows, torch.zeros_like(made.readout.constants))
    return own if norm is None else own.before(norm, value), norm


def _weight(matrix: Any) -> Tensor:
    weight: Tensor = matrix.weight.detach().double()
    return weight


def _columns(product: _Product, here: int) -> Tensor:
    """What each part, a run of columns of the matrix, writes at the position: [width, part]."""
    written = _weight(product.matrix) * product.x[here].double()
    return written.unflatten(1, (len(product.names), -1)).sum(-1)


def _group(product: _Product, columns: Tensor, readout: Readout, here: int) -> Group:
    x, weight = product.x, product.matrix.weight.detach()
    size = x.shape[1] // len(product.names)

    def written(part: int, rows: slice) -> Tensor:
        own = slice(part * size, (part + 1) * size)
        return weight[:, own].double() @ x[rows, own].double().mean(0)

    return Group(
        product.names,
        readout.rows @ columns,
        lambda part: written(part, slice(here, here + 1)),
        lambda part: written(part, slice(None)),
    )


def _vectors(names: Sequence[str], readout: Readout, here: Tensor, usual: Vector) -> Group:
    """Parts given as what each writes, [part, width]."""
    return Group(names, readout.rows @ here.T, lambda part: here[part], usual)


def _mean_of(values: Tensor) -> Vector:
    return lambda _: values.mean(0)
