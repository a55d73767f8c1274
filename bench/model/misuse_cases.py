"""The mistakes of `misuse.py`: each as one would make it in cloche, in TransformerLens and in nnsight.

A side is a function of its `Bed`, or None where its API has no such thing to get wrong (or gives it a meaning of its own).
Hooks and traces are written as their tutorials write them: `run_with_hooks` and `run_with_cache` there, `.output` and `.save()`
in a trace here. `names` matches what a message must at least name to count as clear: what was wrong, or what was wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Side = Callable[[Any], Any] | None
V, L = torch.ones(8), [0, 1]  # a steering vector; the layers there are
PAD, MASK = [0, 2], torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])  # the same padding, in each convention


@dataclass(frozen=True)
class Case:
    what: str
    names: str
    cloche: Side
    transformer_lens: Side
    nnsight: Side


RESID, Z, K = "blocks.0.hook_resid_post", "blocks.0.attn.hook_z", "blocks.0.attn.hook_v"


def ours(make: Callable[[Any], Any], **options: Any) -> Side:
    """An edit of our own, from the sites."""
    return lambda bed: bed.net.run(bed.ids, edits=[make(bed.net.sites)], **options)


def hook(name: Any, change: Callable[[Tensor], Any], **options: Any) -> Side:
    """TransformerLens: a hook that returns what `change` makes of the value."""
    return lambda bed: bed.lens.run_with_hooks(bed.ids, fwd_hooks=[(name, lambda x, hook: change(x))], **options)


def traced(change: Callable[[Any], Any], **options: Any) -> Side:
    """nnsight: `change` made inside a trace."""
    return lambda bed: bed.trace(change, bed.ids, **options)


def put(index: Any, value: Any = 0.0) -> Callable[[Tensor], Tensor]:
    """x[index] = value, as hooks write it."""

    def change(x: Tensor) -> Tensor:
        x[index] = value
        return x

    return change


def stream(change: Callable[[Tensor], Any]) -> Side:
    """nnsight: the first layer's output replaced by what `change` makes of it."""

    def inside(model: Any) -> None:
        layer = model.model.layers[0]
        layer.output = change(layer.output)

    return traced(inside)


def heads(change: Callable[[Tensor], Any], count: int = 4, module: str = "o_proj") -> Side:
    """nnsight: what o_proj reads (or v_proj gives), seen as heads and changed in place."""

    def inside(model: Any) -> None:
        attention = model.model.layers[0].self_attn
        value = attention.o_proj.input if module == "o_proj" else attention.v_proj.output
        change(value.view(*value.shape[:2], count, 2))

    return traced(inside)


def everywhere(case: str, names: str, at: Any, index: Any, **options: Any) -> Case:
    """The same wrong position on every side: zeros put at `index` of the stream."""
    edit = (slice(None), index)
    return Case(
        case,
        names,
        ours(lambda s: s.resid_post[0].zero().at(at), **options),
        hook(RESID, put(edit), **({"attention_mask": MASK} if options else {})),
        (lambda bed: bed.trace(lambda m: put(edit)(m.model.layers[0].output), bed.ids, attention_mask=MASK))
        if options
        else traced(lambda m: put(edit)(m.model.layers[0].output)),
    )


def value(case: str, names: str, wrong: Any, site: str = "stream") -> Case:
    """A wrong value added to the stream, or put in its place."""
    return Case(
        case,
        names,
        ours(lambda s: s.resid_post[0].add(wrong)),
        hook(RESID, lambda x: x + wrong),
        stream(lambda x: x + wrong),
    )


def prompt(case: str, names: str, ids: Any) -> Case:
    return Case(
        case,
        names,
        lambda bed: bed.net.run(ids),
        lambda bed: bed.lens(ids),
        lambda bed: bed.trace(lambda m: None, ids),
    )


def padded(case: str, names: str, pad: Any, mask: Any) -> Case:
    """Padding said wrongly: `pad` counts tokens here, an attention mask there."""
    return Case(
        case,
        names,
        lambda bed: bed.net.run(bed.ids, pad=pad),
        lambda bed: bed.lens(bed.ids, attention_mask=mask),
        lambda bed: bed.trace(lambda m: None, bed.ids, attention_mask=mask),
    )


def source(case: str, names: str, rows: int, length: int, pad: bool = False) -> Case:
    """A value from a run on another prompt, put in the place of this one's."""
    other = torch.randint(0, 17, (rows, length), generator=torch.Generator().manual_seed(5))

    def here(bed: Any) -> Any:
        found = bed.net.run(other, save="resid_post[0]", pad=PAD if pad else None)
        return bed.net.run(bed.ids, edits=[bed.net.sites.resid_post[0].replace(found)])

    def lens(bed: Any) -> Any:
        _, cache = bed.lens.run_with_cache(other, names_filter=[RESID], **({"attention_mask": MASK} if pad else {}))
        return bed.lens.run_with_hooks(bed.ids, fwd_hooks=[(RESID, lambda x, hook: cache[RESID])])

    def nnsight(bed: Any) -> Any:
        kept = bed.saved(lambda m: m.model.layers[0].output, other, **({"attention_mask": MASK} if pad else {}))

        def inside(model: Any) -> None:
            model.model.layers[0].output = kept

        return bed.trace(inside, bed.ids)

    return Case(case, names, here, lens, nnsight)


def generation(case: str, names: str, **options: Any) -> Case:
    theirs = {"max_new_tokens": 3, "do_sample": True} | options
    return Case(
        case,
        names,
        lambda bed: bed.generate(bed.net, bed.ids, new=3, **({"temperature": 1.0} | options)),
        lambda bed: bed.lens.generate(bed.ids, verbose=False, stop_at_eos=False, **theirs),
        lambda bed: bed.sight_generate(bed.ids, **theirs),
    )


def _lens_read(name: str, saved: Any) -> Side:
    return lambda bed: bed.lens.run_with_cache(bed.ids, names_filter=saved)[1][name]


def _bad_site(case: str, names: str, here: Any, name: str, module: Callable[[Any], Any]) -> list[Case]:
    """A place that is not there, once read and once edited."""
    zeroed = lambda m: put(slice(None))(module(m).output)  # noqa: E731
    return [
        Case(
            f"{case}, saved",
            names,
            lambda b: b.net.run(b.ids, save=[here]),
            _lens_read(name, [name]),
            lambda b: b.saved(lambda m: module(m).output, b.ids),
        ),
        Case(
            f"{case}, edited",
            names,
            lambda b: b.net.run(b.ids, edits=[b.site(here).zero()]),
            hook(name, put(slice(None))),
            traced(zeroed),
        ),
    ]


SITES = [
    *_bad_site(
        "a typo in a site",
        "resid_pots",
        "resid_pots[0]",
        "blocks.0.hook_resid_pots",
        lambda m: m.model.layers[0].resid_pots,
    ),
    *_bad_site(
        "a layer that is not there", r"\b7\b", "resid_post[7]", "blocks.7.hook_resid_post", lambda m: m.model.layers[7]
    ),
    *_bad_site(
        "a router in a dense model",
        "router",
        "router[0]",
        "blocks.0.mlp.hook_router",
        lambda m: m.model.layers[0].mlp.router,
    ),
    Case(
        "a typo in a pattern over all layers",
        "resid_pots",
        lambda b: b.net.run(b.ids, save=["resid_pots.all"]),
        hook(lambda name: name.endswith("hook_resid_pots"), put(slice(None))),
        traced(lambda m: [put(slice(None))(layer.resid_pots.output) for layer in m.model.layers]),
    ),
    Case(
        "a slice of layers that do not exist",
        r"2:5|\b2\b",
        lambda b: b.net.run(b.ids, save=[b.net.sites.resid_post[2:5]]),
        lambda b: b.lens.run_with_hooks(
            b.ids, fwd_hooks=[(f"blocks.{i}.hook_resid_post", lambda x, hook: 0 * x) for i in range(2, 5)]
        ),
        traced(lambda m: [put(slice(None))(layer.output) for layer in m.model.layers[2:5]]),
    ),
    Case(
        "a layer counted from the end, too far",
        r"-3|range",
        lambda b: b.net.run(b.ids, save=[b.net.sites.resid_post[-3]]),
        _lens_read("blocks.-3.hook_resid_post", ["blocks.-3.hook_resid_post"]),
        lambda b: b.saved(lambda m: m.model.layers[-3].output, b.ids),
    ),
    Case(
        "a site without its layer",
        r"layer|hook_z|\bz\b|self_attn",
        lambda b: b.net.run(b.ids, save="z"),
        hook("hook_z", put(slice(None))),
        lambda b: b.saved(lambda m: m.model.layers.self_attn.output, b.ids),
    ),
    Case(
        "no site at all",
        r"\b3\b|int",
        lambda b: b.net.run(b.ids, save=[3]),
        lambda b: b.lens.run_with_cache(b.ids, names_filter=[3]),
        None,
    ),
    Case(
        "a head that is not there",
        r"\b4\b",
        ours(lambda s: s.z[0].head(4).zero()),
        hook(Z, put((slice(None), slice(None), 4))),
        heads(put((slice(None), slice(None), 4))),
    ),
    Case(
        "a query head's number for a key-value head",
        r"\b3\b",
        ours(lambda s: s.v[0].head(3).zero()),
        hook(K, put((slice(None), slice(None), 3))),
        heads(put((slice(None), slice(None), 3)), 2, "v_proj"),
    ),
    Case(
        "a head of what has none",
        "head",
        ours(lambda s: s.resid_post[0].head(1).zero()),
        hook(RESID, put((slice(None), slice(None), 1))),
        traced(lambda m: put((slice(None), slice(None), 1))(m.model.layers[0].output)),
    ),
    Case(
        "a head as a fraction",
        "1.5|float|int",
        ours(lambda s: s.z[0].head(1.5).zero()),
        hook(Z, put((slice(None), slice(None), 1.5))),
        heads(put((slice(None), slice(None), 1.5))),
    ),
    Case(
        "a head as text",
        "'1'|str|int",
        ours(lambda s: s.z[0].head("1").zero()),
        hook(Z, put((slice(None), slice(None), "1"))),
        heads(put((slice(None), slice(None), "1"))),
    ),
    Case(
        "asked for what was not saved",
        r"z\[1\]|blocks.1.attn.hook_z|save|variable",
        lambda b: b.net.run(b.ids, save="z[0]")["z[1]"],
        _lens_read("blocks.1.attn.hook_z", [Z]),
        lambda b: b.unsaved(b.ids),
    ),
    Case(
        "logits of a pass that stopped before them",
        "logits|stop|lm_head|variable",
        lambda b: b.net.run(b.ids, save="z[0]", logits=False).logits,
        None,
        lambda b: b.stopped(b.ids),
    ),
    Case(
        "a site where an edit should be",
        r"edit|hook|tuple|unpack",
        lambda b: b.net.run(b.ids, edits=["z[0]"]),
        lambda b: b.lens.run_with_hooks(b.ids, fwd_hooks=[Z]),
        None,
    ),
]

PROMPTS = [
    prompt("an id too large", "17|range|vocab", torch.tensor([[1, 17]])),
    prompt("an id below zero", "-1|range|vocab", torch.tensor([[1, -1]])),
    prompt("fractions for ids", "loat|nteger|Long", torch.tensor([[1.0, 2.0]])),
    prompt("truths for ids", "ool|nteger|Long", torch.tensor([[True, False]])),
    prompt("complex numbers for ids", "omplex|nteger|Long", torch.ones(1, 2, dtype=torch.complex64)),
    Case(
        "text without a tokenizer",
        "okeniz|oken ids|str",
        lambda b: b.net.run("once upon"),
        lambda b: b.lens("once upon"),
        lambda b: b.untokenised("once upon"),
    ),
    prompt("no row", "shape|empty|token|row|size", torch.zeros(0, 4, dtype=torch.long)),
    prompt("rows without a token", "shape|empty|token|size", torch.zeros(2, 0, dtype=torch.long)),
    Case(
        "rows of unequal length",
        "rectangle|length|ragged|list|dim",
        lambda b: b.net.run([[1, 2], [3]]),
        lambda b: b.lens([[1, 2], [3]]),
        None,  # nnsight pads them
    ),
    prompt("three axes", r"shape|dim|\b3\b|batch", torch.ones(1, 2, 6, dtype=torch.long)),
    padded("padding for one row of two", r"row|shape|batch|\b1\b", [1], MASK[1:]),
    padded("padding in the other convention", "row|shape|mask|size", MASK.bool(), torch.tensor(PAD)),
    padded("padding as one number", "row|mask|number|int", 1, 1),
    padded("a row of nothing but padding", "real token|mask|empty|padding", [0, 6], torch.tensor([[1] * 6, [0] * 6])),
    padded("padding longer than the prompt", "between|size|shape|mask", [0, 9], torch.tensor([[0] * 3 + [1] * 6] * 2)),
    Case(
        "more tokens than learned positions",
        "position|length|range",
        lambda b: b.short.run(b.ids),
        lambda b: b.short_lens(b.ids),
        lambda b: b.short_trace(b.ids),
    ),
]

VALUES = [
    value("a vector too wide", r"\b9\b", torch.ones(9)),
    value("a value for too many tokens", r"\b7\b", torch.ones(7, 8)),
    value("a value for other rows", r"\b3\b", torch.ones(3, 6, 8)),
    value("a value with an axis too many", r"shape|dim|axes|unpack", torch.ones(1, 2, 6, 8)),
    value("a value of None", "None", None),
    value("a value as a list", "list", [1.0] * 8),
    value("a value as text", "str", "1"),
    Case(
        "a head's value with a head axis",
        "shape|size|broadcast",
        ours(lambda s: s.z[0].head(1).add(torch.ones(2, 6, 4, 2))),
        hook(Z, lambda x: put((slice(None), slice(None), 1), x[:, :, 1] + torch.ones(2, 6, 4, 2))(x)),
        heads(lambda z: put((slice(None), slice(None), 1), z[:, :, 1] + torch.ones(2, 6, 4, 2))(z)),
    ),
    Case(
        "more hidden units than there are",
        r"\b6\b",
        ours(lambda s: s.mlp_act[0].add(torch.ones(6))),
        hook("blocks.0.mlp.hook_post", lambda x: x + torch.ones(6)),
        traced(lambda m: m.model.layers[0].mlp.down_proj.input.add_(torch.ones(6))),
    ),
    Case(
        "a function that gives another shape",
        "shape|size",
        ours(lambda s: s.resid_post[0].apply(lambda x: x[:, :1])),
        hook(RESID, lambda x: x[:, :1]),
        stream(lambda x: x[:, :1]),
    ),
    Case(
        "a function that forgets to return",
        "None",
        ours(lambda s: s.resid_post[0].apply(lambda x: None)),
        hook(RESID, lambda x: None),
        stream(lambda x: None),
    ),
    Case(
        "a function that returns a number",
        "float|tensor",
        ours(lambda s: s.resid_post[0].apply(lambda x: 3.0)),
        hook(RESID, lambda x: 3.0),
        stream(lambda x: 3.0),
    ),
    Case(
        "no function",
        "function|callable",
        ours(lambda s: s.resid_post[0].apply(3.0)),
        lambda b: b.lens.run_with_hooks(b.ids, fwd_hooks=[(RESID, 3.0)]),
        None,
    ),
    Case(
        "an edit that a later one overwrites",
        "no effect|overwrit",
        lambda b: b.net.run(b.ids, edits=[b.net.sites.resid_post[0].add(V), b.net.sites.resid_post[0].zero()]),
        lambda b: b.lens.run_with_hooks(
            b.ids, fwd_hooks=[(RESID, lambda x, hook: x + V), (RESID, lambda x, hook: 0 * x)]
        ),
        traced(lambda m: [put(slice(None), V)(m.model.layers[0].output), put(slice(None))(m.model.layers[0].output)]),
    ),
    Case(
        "a pattern whose rows no longer sum to one (allowed, but to be said)",
        "sum",
        lambda b: b.said(b.net.run(b.ids, edits=[b.net.sites.pattern[0].scale(0.5)])),
        hook("blocks.0.attn.hook_pattern", lambda x: 0.5 * x),
        None,
    ),
]

POSITIONS = [
    everywhere("a position past the prompt", r"\b6\b", 6, 6),
    everywhere("a position before the prompt", "-7", -7, -7),
    everywhere("one of several positions past the prompt", r"\b9\b", [0, 9], [0, 9]),
    everywhere("an empty slice of positions", "never|empty", slice(3, 3), slice(3, 3)),
    everywhere("a slice past the prompt", "never|empty|range", slice(6, None), slice(6, None)),
    everywhere("a slice that steps backwards", "step", slice(None, None, -1), slice(None, None, -1)),
    everywhere("a position by an unknown word", "first|str", "first", "first"),
    everywhere("no positions", "none of these|empty", [], []),
    everywhere("a position as a fraction", "1.0|float|int", 1.0, 1.0),
    everywhere("a truth for a position", "True|bool", True, True),
    everywhere("truths for positions, too few", "True|bool|mask", [True, False], [True, False]),
    everywhere("a position that a padded row does not have", "row 1", 4, 4, pad=PAD),
    everywhere("a position from the end that a padded row does not have", "row 1", -5, -5, pad=PAD),
]

SOURCES = [
    Case(
        "a source that did not save the site",
        r"resid_post\[0\]|hook_resid_post|save|variable",
        lambda b: b.net.run(b.ids, edits=[b.net.sites.resid_post[0].replace(b.net.run(b.ids, save="z[0]"))]),
        lambda b: b.lens.run_with_hooks(
            b.ids, fwd_hooks=[(RESID, lambda x, hook: b.lens.run_with_cache(b.ids, names_filter=[Z])[1][RESID])]
        ),
        lambda b: b.unsaved(b.ids),
    ),
    source("a source from a longer prompt", r"\b7\b|length", 2, 7),
    source("a source of one token", r"\b1\b|length", 2, 1),
    source("a source of more rows", r"\b3\b|row", 3, 6),
    source("a source padded otherwise", "padding", 2, 6, pad=True),
]

GENERATION = [
    generation("a temperature below zero", "temperature", temperature=-1.0),
    generation("top-k of none", "top_k", top_k=-2),
    generation("top-p above one", "top_p", top_p=1.5),
    Case(
        "generating past the learned positions",
        "position|length|range",
        lambda b: b.generate(b.short, b.ids[:, :4], new=9),
        lambda b: b.short_lens.generate(b.ids[:, :4], max_new_tokens=9, verbose=False, stop_at_eos=False),
        lambda b: b.short_sight_generate(b.ids[:, :4], max_new_tokens=9),
    ),
]

CASES = [*SITES, *PROMPTS, *VALUES, *POSITIONS, *SOURCES, *GENERATION]
