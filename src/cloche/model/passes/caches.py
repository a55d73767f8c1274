"""Activations that another library kept, under our names of sites."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cloche.errors import SiteUnknown, SiteUnsuitable, shown
from cloche.model.sites import Key, Result, Site, make_plan

if TYPE_CHECKING:
    from cloche.model.network import Network

# Modules of transformers' models, which nnsight names by path: what goes in and comes out of them, in a layer -> our site.
IN_A_LAYER = {
    "input": "resid_pre",
    "output": "resid_post",
    **{f"{name}.output": "attn_out" for name in ("self_attn", "attn", "attention")},
    **{f"{name}.input": "z" for name in ("self_attn.o_proj", "attn.c_proj", "attention.dense")},
    "mlp.output": "mlp_out",
    **{f"mlp.{name}.input": "mlp_act" for name in ("down_proj", "c_proj", "dense_4h_to_h")},
}
BEFORE_A_NORM = {"attn_out": "mix_post", "mlp_out": "map_post"}  # ours are after the norm that a block may have there
LOGITS = ("lm_head.output", "embed_out.output", "unembed.hook_out")
_PATH = re.compile(r"(?:model\.layers|transformer\.h|gpt_neox\.layers)[.\[](\d+)\]?\.(.+)")


def read_cache(net: Network, cache: Mapping[str, Any]) -> Result:
    """What TransformerLens or nnsight kept of a pass, as a Result: `result[site]` under our names, and a source for edits.

    cache: tensors by name: TransformerLens' `ActivationCache` or a dict with its hooks ("blocks.3.attn.hook_z"), paths of
    transformers' modules with `.input` or `.output` ("model.layers.3.mlp.output", what nnsight saves), or our own names.
    Values may lack a batch of one, have heads and their sizes on one axis, or be a module's tuple, of which the first is
    taken. A number that hides a score becomes -inf. Names without a site of the same numbers here are left out, and
    `result.notes` counts them.

    The other model must have these weights as they are: TransformerLens' `enable_compatibility_mode()` and its processing
    of weights change activations. Raises SiteUnknown if no name is known, SiteUnsuitable for a value of another shape.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model import read_cache
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> read_cache(net, {"blocks.1.hook_resid_post": torch.ones(1, 3, 32), "model.layers.0.mlp.output": torch.ones(3, 32)})
    <Result: resid_post[1] [1, 3, 32], mlp_out[0] [1, 3, 32]>
    """
    found: dict[Key, Tensor] = {}
    logits, left_out = None, list[str]()
    for name, value in cache.items():
        value = value[0] if isinstance(value, tuple | list) and value else value
        if name in LOGITS:
            logits = value
        elif (site := _site(net, name)) is None or not isinstance(value, Tensor):
            left_out.append(name)
        else:
            found[site.name, site.layer] = _fitted(net, name, site, value.detach())
    if not found and logits is None:
        raise SiteUnknown(
            f"None of the {len(left_out)} names of this cache is a site here; the first is {shown(next(iter(left_out), ''))}."
        )
    plan, _ = make_plan([Site(*key) for key in found], [])
    notes = [f"{len(left_out)} names have no site here, such as {left_out[0]}."] if left_out else []
    return Result(logits, found, plan, net.sites, notes=notes)


def _site(net: Network, name: str) -> Site | None:
    """Our site with the same numbers."""
    if (match := _PATH.fullmatch(name)) and match[2] in IN_A_LAYER:
        ours = IN_A_LAYER[match[2]]
        layer = int(match[1])
        if layer < len(net.layers) and getattr(net.layers[layer], BEFORE_A_NORM.get(ours, ""), None) is not None:
            return None
        name = f"{ours}[{layer}]"
    try:
        (site,) = net.sites.resolve(name)
    except SiteUnknown:
        return None
    return site


def _fitted(net: Network, name: str, site: Site, value: Tensor) -> Tensor:
    """The value with all the axes of its site."""
    sizes = net.sites.declared(site).sizes
    want = [sizes[axis] for axis in site.whole_axes]
    forms = [value]
    heads = [size or 0 for size in want[-2:]]
    if site.whole_axes[-2:] == ("head", "head_size") and value.shape[-1:] == (heads[0] * heads[1],):
        forms.append(value.unflatten(-1, heads))
    for form in [*forms, *(each[None] for each in forms)]:
        if form.dim() == len(want) and all(size in (own, None, 0) for own, size in zip(form.shape, want, strict=True)):
            hidden = torch.finfo(form.dtype).min / 2
            return form.masked_fill(form < hidden, -torch.inf) if site.name == "scores" else form
    axes = ", ".join(site.whole_axes)
    raise SiteUnsuitable(f"{shown(name)} has shape {list(value.shape)}, which does not fit {site} [{axes}] = {want}.")
