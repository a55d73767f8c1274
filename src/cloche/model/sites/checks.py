"""Checks of the arguments of a run, before it starts; each failure is one sentence."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cloche.errors import ContextExceeded, EditInvalid, PromptInvalid, SiteUnsuitable, shown
from cloche.model.sites.edits import Edit, average
from cloche.model.sites.result import Result
from cloche.model.sites.slots import PromptSlots
from cloche.model.sites.vocabulary import Site, Sites

if TYPE_CHECKING:
    from cloche.model.network import Network


def check_ids(ids: Any, vocab: int, length: int | None, device: torch.device) -> Tensor:
    """Token ids as a LongTensor [batch, position] on the model's device, every one of them in the vocabulary.

    >>> import torch
    >>> from cloche.model.sites import check_ids
    >>> check_ids([1, 2, 3], vocab=64, length=None, device=torch.device("cpu"))
    tensor([[1, 2, 3]])
    """
    try:
        tensor = torch.as_tensor(ids, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise PromptInvalid(
            "Token ids must form a rectangle [batch, position]; pad rows on the left and pass pad=."
        ) from None
    if tensor.dim() == 1:
        tensor = tensor[None]
    if tensor.dim() != 2 or tensor.numel() == 0:
        raise PromptInvalid(
            f"Token ids must be [batch, position] with at least one token; got shape {tuple(tensor.shape)}."
        )
    if not _integers(tensor):
        raise PromptInvalid(f"Token ids must be integers; got {tensor.dtype}.")
    tensor = tensor.long()
    low, high = tensor.min().item(), tensor.max().item()
    if low < 0 or high >= vocab:
        raise PromptInvalid(f"Token id {low if low < 0 else high} is outside the vocabulary 0 to {vocab - 1}.")
    if length is not None and tensor.shape[1] > length:
        raise ContextExceeded(
            f"{tensor.shape[1]} tokens are more than the {length} positions this model has; shorten the prompt."
        )
    return tensor


def _integers(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def check_pad(pad: Any, ids: Tensor) -> Tensor | None:
    """Left padding as a LongTensor [batch], or None.

    >>> import torch
    >>> from cloche.model.sites import check_pad
    >>> check_pad([1, 0], torch.tensor([[0, 5, 6], [7, 8, 9]]))
    tensor([1, 0])
    """
    if pad is None:
        return None
    batch, width = ids.shape
    try:
        tensor = torch.as_tensor(pad, device=ids.device)
    except (TypeError, ValueError, RuntimeError):
        raise PromptInvalid(f"pad= needs one whole number per row, [{batch}]; got {pad!r}.") from None
    if tensor.shape != (batch,) or not _integers(tensor):
        raise PromptInvalid(
            f"pad= needs one whole number per row, [{batch}]; got {tensor.dtype} of shape {tuple(tensor.shape)}."
        )
    tensor = tensor.long()
    if (tensor < 0).any() or (tensor >= width).any():
        raise PromptInvalid(
            f"pad={tensor.tolist()} must lie between 0 and {width - 1}: each row keeps at least one real token."
        )
    return tensor if bool((tensor > 0).any()) else None


def check_edits(edits: Sequence[Any], sites: Sites, slots: PromptSlots) -> list[Edit]:
    """The edits, with this model's sites. Raises ClocheError for an unknown site, or positions that no token of this
    run has."""
    edits = [_of_this_model(edit, sites) for edit in edits]
    for edit in edits:
        for where in edit.where if isinstance(edit.where, tuple) else (edit.where,):
            row = None if where is None else slots.first_row_without(where)
            if row is not None:
                raise EditInvalid(
                    f"The edit {edit} would never fire in row {row}: it has positions 0 to {int(slots.lengths[row]) - 1}"
                    + (f" and {slots.new} new ones." if slots.new else ', and "new" ones only when generating.')
                )
    for number, late in enumerate(edits):
        for early in edits[:number]:
            if late.overwrites(early) and not bool((slots.mask(early.where) & ~slots.mask(late.where)).any()):
                raise EditInvalid(
                    f"The edit {early} has no effect, because {late} comes after it and overwrites all of it; drop one."
                )
    return edits


def _of_this_model(edit: Any, sites: Sites) -> Edit:
    if not isinstance(edit, Edit):
        unquoted = ", without the quotes" if isinstance(edit, str) else ""
        raise EditInvalid(f"edits= takes values such as net.sites.resid_post[0].add(v){unquoted}; got {edit!r}.")
    own = sites.resolve(edit.site)[0]
    if instead := sites.declared(own).view_of:
        raise SiteUnsuitable(f"{own.whole} is computed from {instead} and read by nothing: edit {instead} instead.")
    return edit if own.whole_axes == edit.site.whole_axes else dataclasses.replace(edit, site=own)


def edit_value(edit: Edit, ids: Tensor, net: Network, slots: PromptSlots) -> Tensor:
    """The tensor an edit brings, on the model's device, broadcastable to its site."""
    value, shape, pad = edit.value, shape_here(edit.site, ids, net.sites), slots.pad
    if edit.kind == "noise":
        return noise(edit, shape, slots).to(net.embed.weight.device)
    if edit.kind == "clamp":
        return _finite(edit, _clamped(edit, shape), net).to(net.embed.weight.device)
    if isinstance(value, Result) and edit.kind == "mean":
        source = value[edit.site]
        width = source.shape[1]
        real = torch.arange(width, device=source.device)[None] >= (0 if value.pad is None else value.pad[:, None])
        value = average(source, real)
    if isinstance(value, Result):
        value = _from_result(edit, value, pad, shape)
    if not isinstance(value, Tensor):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise EditInvalid(f"The edit {edit} takes a tensor or a number; got {type(value).__name__}.")
        value = torch.tensor(_number(edit, value))
    if not value.is_floating_point():
        raise EditInvalid(f"The edit {edit} takes floating-point values; got {value.dtype}.")
    # torch.broadcast_shapes would take a third of the time that a sweep spends on reading its edits
    fits = value.dim() <= len(shape) and all(
        own in (1, size) for own, size in zip(reversed(value.shape), reversed(shape), strict=False)
    )
    if edit.kind == "project_out":
        fits = fits and value.dim() > 0 and value.shape[-1] == shape[-1]
        if bool((value.norm(dim=-1) == 0).any()):
            raise EditInvalid(f"The edit {edit} was given a zero vector, which has no direction to project out.")
    if not fits:
        axes = ", ".join(edit.site.axes)
        raise SiteUnsuitable(
            f"The edit {edit} got shape {list(value.shape)}, which does not fit its site [{axes}] = {shape}."
        )
    return _finite(edit, value, net).to(device=net.embed.weight.device)


def _number(edit: Edit, value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise EditInvalid(f"The edit {edit} got {shown(value)}, which no tensor can hold.") from None


def _finite(edit: Edit, value: Tensor, net: Network) -> Tensor:
    """The value itself. Raises ClocheError for what would spread to every logit: NaN, or infinity in the dtype of its
    site. Scores may be -inf, as they are where a key is hidden."""
    wide = edit.site.name in ("scores", "pattern")
    held = value.detach() if wide else value.detach().to(net.embed.weight.dtype)
    if edit.site.name == "scores" and edit.kind == "replace":
        held = held.masked_fill(held == -torch.inf, 0.0)
    if not bool(held.isfinite().all()):
        wrong = "NaN" if bool(held.isnan().any()) else f"numbers that are infinite in {held.dtype}"
        raise EditInvalid(f"The edit {edit} brings {wrong}; give finite numbers.")
    return value


def check_no_grad(edits: Sequence[Edit], values: Sequence[Tensor]) -> None:
    """Raise if a tensor requires a gradient and the pass keeps none; not inside `torch.no_grad()`, where that is
    explicit."""
    for edit, value in zip(edits, values, strict=True):
        if value.requires_grad and torch.is_grad_enabled():
            raise EditInvalid(
                f"The edit {edit} brings a tensor that requires a gradient, and this pass keeps none; use run(..., grad=True), "
                "or give the tensor's .detach()."
            )


def noise(edit: Edit, shape: list[int], slots: PromptSlots) -> Tensor:
    """The noise of a noise edit, [batch, slot, ...], including new tokens; zero on padding."""
    std, seed = edit.value
    out = torch.zeros(shape[0], slots.width + slots.new, *shape[2:])
    for row in range(shape[0]):
        skip = 0 if slots.pad is None else int(slots.pad[row])
        digest = hashlib.sha256(f"{seed}/{edit.site}/{row}".encode()).digest()
        # Drawn one after the other, so that further positions never change the earlier ones.
        draw = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
        values = draw.standard_normal((out.shape[1] - skip, *shape[2:]), dtype=np.float32)
        out[row, skip:] = std * torch.from_numpy(values)
    return out


def _clamped(edit: Edit, shape: list[int]) -> Tensor:
    """Unit vectors with the level of each appended, [..., width + 1], because an edit has a single tensor."""
    direction, level = edit.value
    if isinstance(level, int | float) and not isinstance(level, bool):
        level = torch.tensor(_number(edit, level))
    for value in (direction, level):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise EditInvalid(
                f"The edit {edit} takes a floating-point direction and a number or tensor; got {value!r}."
            )
    try:
        lead = torch.broadcast_shapes(direction.shape[:-1], level.shape)
        fits = (
            direction.dim() > 0 and direction.shape[-1] == shape[-1] and not bool((direction.norm(dim=-1) == 0).any())
        )
        fits = fits and torch.broadcast_shapes(lead, shape[:-1]) == torch.Size(shape[:-1])
    except RuntimeError:
        fits = False
    if not fits:
        raise SiteUnsuitable(
            f"The edit {edit} got a direction of shape {list(direction.shape)} and a value of shape {list(level.shape)}; its "
            f"site is {shape}, so it needs a direction [{shape[-1]}] other than zero and a value for its other axes."
        )
    unit = direction / direction.norm(dim=-1, keepdim=True)
    return torch.cat([unit.expand(*lead, -1), level.to(unit)[..., None].expand(*lead, 1)], -1)


def _from_result(edit: Edit, source: Result, pad: Tensor | None, shape: list[int]) -> Tensor:
    """The value that another run, of the same prompt length and padding, saved at the edit's site."""
    value = source[edit.site]
    if value.shape[1:] != torch.Size(shape[1:]) or value.shape[0] not in (1, shape[0]):
        raise EditInvalid(
            f"The edit {edit} takes its value from a run where the site was {list(value.shape)}, and here it is {shape}; "
            "run both on prompts of one length."
        )
    theirs, ours = (None if p is None else p.tolist() for p in (source.pad, pad))
    if theirs != ours:
        raise EditInvalid(
            f"The edit {edit} takes its value from a run with left padding {theirs}, and this run's is {ours}; "
            "give both prompts the same padding."
        )
    return value


def shape_here(site: Site, ids: Tensor, sites: Sites) -> list[int]:
    """The shape a site of this model has in a pass over `ids` [batch, position]."""
    (batch, length), sizes = ids.shape, sites.declared(site).sizes
    return [sizes[axis] or (batch if axis == "batch" else length) for axis in site.axes]


def row_shape(sites: Sites, site: Site) -> list[int]:
    """The shape of one token's row of a site that has one for each token.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model.sites import row_shape
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0)
    >>> row_shape(net.sites, net.sites.z[0])
    [4, 8]
    """
    return [size for axis, size in sites.shape(site).items() if axis not in ("batch", "position") and size is not None]
