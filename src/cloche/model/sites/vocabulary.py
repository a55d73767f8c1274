"""The vocabulary of sites in a model: `resid_post[3]`, `z[9].head(6)`, `logits`.

A site is a value. The same object comes from attributes (`net.sites.z[9].head(6)`) and from text (`site("z[9].head(6)")`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloche.errors import SiteUnknown, SiteUnsuitable, shown
from cloche.model.sites.declared import Declarations, DeclaredSite
from cloche.model.sites.dialects import in_our_words, nearest, unlike_here
from cloche.model.sites.site_value import AXES, METHODS, Site
from cloche.words import IN_A_BLOCK, IN_THE_MODEL


@dataclass(frozen=True)
class Layers:
    """A site in each of several layers. Saving it gives one tensor with a leading layer axis.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> net.run([[1, 2, 3]], save=[net.sites.z.all])[net.sites.z.all].shape  # [layer, batch, position, head, size]
    torch.Size([2, 1, 3, 4, 8])
    """

    sites: tuple[Site, ...]

    @property
    def all(self) -> Layers:
        return self

    @property
    def name(self) -> str:
        """The name of the site."""
        return self.sites[0].name

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        layers = [site.layer for site in self.sites]
        unbroken = layers == list(range(len(layers)))
        if any(site.iteration != f"layer {site.layer}" for site in self.sites):
            names = [f"{site.iteration} [{site.layer}]" for site in self.sites]
            return f"{self.name} in {f'{names[0]} to {names[-1]}' if unbroken and len(names) > 1 else ', '.join(names)}"
        return f"{self.name} in layers {f'0 to {len(layers) - 1}' if unbroken else ', '.join(map(str, layers))}"

    def __getitem__(self, layer: int | slice) -> Any:
        """The site in one layer (negative from the end), or in a slice of layers. Not every layer need have it."""
        by_layer = {site.layer: site for site in self.sites}
        count = max(by_layer) + 1  # type: ignore[operator, type-var]
        if isinstance(layer, slice):
            chosen = tuple(by_layer[i] for i in range(*layer.indices(count)) if i in by_layer)
            if chosen:
                return Layers(chosen)
        elif isinstance(layer, int) and (found := by_layer.get(layer + count if layer < 0 else layer)):
            return found
        raise SiteUnknown(f"There is no {self.name}[{_shown(layer)}]: this model has {self}.")

    def __getattr__(self, name: str) -> Any:
        if name == "head" or name in METHODS:
            raise SiteUnsuitable(
                f"{self.name} is in several layers; say which before .{name}: {self.name}[{self.sites[0].layer}]."
            )
        raise AttributeError(name)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)


def _shown(layer: Any) -> str:
    if not isinstance(layer, slice):
        return repr(layer)
    return f"{'' if layer.start is None else layer.start}:{'' if layer.stop is None else layer.stop}"


class Sites:
    """The sites of one model, as attributes; built from the sites its own modules declare.

    before, after: the sites outside the layers, before and after them. layers: the sites of each layer (iteration of
    the body). named: the body's name for an iteration.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> str(net.sites.resid_post[1]), net.sites.z.all
    ('resid_post[1]', <z in layers 0 to 1>)
    """

    def __init__(
        self,
        before: Declarations,
        layers: Sequence[Declarations],
        after: Declarations,
        named: Callable[[int], str] = "layer {}".format,
    ) -> None:
        self._layers, self._once = list(layers), before | after
        order = _in_order(self._layers)
        self.names = frozenset((*before, *order, *after))
        for name in order:
            if name in self._once or len({layer[name].axes for layer in self._layers if name in layer}) > 1:
                raise SiteUnsuitable(
                    f"Modules of this model declare the site {name!r} in two ways; rename one of them."
                )
            if hasattr(Sites, name) or name in ("names", "unlike"):
                raise SiteUnsuitable(
                    f"A site cannot be called {name!r}, which net.sites.{name} means already; rename it."
                )
        self._table: dict[str, Site | Layers] = {name: _made(name, None, declared) for name, declared in before.items()}
        for name in order:
            self._table[name] = Layers(
                tuple(_made(name, i, at[name], named(i)) for i, at in enumerate(layers) if name in at)
            )
        self._table |= {name: _made(name, None, declared) for name, declared in after.items()}
        self._by_key = {(found.name, found.layer): found for found in self}
        # A text may name a site of another model, for which there is a better error than for a misspelt one.
        own = {name: (e if isinstance(e, Site) else e.sites[0]).whole_axes for name, e in self._table.items()}
        self._axes = AXES | own
        self.unlike: dict[str, str] = {}  # hooks of TransformerLens that hold other numbers here, and what theirs are

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._entry(name)

    def __repr__(self) -> str:
        once = [name for name, entry in self._table.items() if isinstance(entry, Site)]
        counts: dict[str, list[str]] = {}
        for entry in self._table.values():
            if isinstance(entry, Layers):
                counts.setdefault(str(entry).partition(" in ")[2], []).append(entry.name)
        lines = [f"in {layers}: {', '.join(names)}" for layers, names in counts.items()]
        return "\n".join([f"<Sites of {len(self._layers)} layers>", *lines, f"once: {', '.join(once)}"])

    def __getitem__(self, text: str) -> Site | Layers:
        """The site, or the layers, that a text names in any of the dialects of `site`."""
        if not isinstance(text, str):
            raise SiteUnknown(f"net.sites[...] takes the text of a site, such as 'resid_post[0]'; got {text!r}.")
        if text.strip().endswith(".all"):
            return self._all(text)
        if theirs := unlike_here(text, self.unlike):
            raise SiteUnknown(
                f"{shown(text)} is {theirs} in TransformerLens, which has no site in this model; what comes nearest is "
                f"{in_our_words(text, self._axes)}."
            )
        return _read(text, self._axes)

    def _entry(self, name: str) -> Site | Layers:
        if name not in self._table:
            theirs = IN_A_BLOCK.get(name) or IN_THE_MODEL.get(name)
            close = [theirs] if theirs else difflib.get_close_matches(name, self._table, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(self._table)}."
            raise SiteUnknown(f"This model has no site {name!r}; {hint}")
        return self._table[name]

    def __dir__(self) -> list[str]:
        return list(self._table)

    def __iter__(self) -> Iterator[Site]:
        for entry in self._table.values():
            yield from [entry] if isinstance(entry, Site) else entry.sites

    def resolve(self, what: Any) -> list[Site]:
        """The sites that `what` names: a Site, Layers, or their text. Raises ClocheError if this model has no such
        site."""
        if isinstance(what, str):
            return self.resolve(self[what])
        if isinstance(what, Layers):
            return [found for entry in what for found in self.resolve(entry)]
        if not isinstance(what, Site):
            raise SiteUnknown(f"Expected a site such as net.sites.resid_post[0], or its text; got {what!r}.")
        own = self._by_key.get((what.name, what.layer))
        if own is None:
            raise self._unknown(what)
        if what.head_index is None:
            return [own]
        count = self.declared(own).sizes.get("head") or 0
        if count and not 0 <= what.head_index < count:
            raise SiteUnknown(f"There is no {what}: {what.whole} has heads 0 to {count - 1}.")
        return [own.head(what.head_index)]

    def _unknown(self, what: Site) -> SiteUnknown:
        """The error for a site that is not one of this model's."""
        entry = self._entry(what.name)
        if isinstance(entry, Site):
            return SiteUnknown(f"The site {what.name} is not in a layer; write {what.name}.")
        if what.layer is None:
            return SiteUnknown(
                f"The site {what.name} is in every layer; say which: {what.name}[0], or {what.name}.all."
            )
        return SiteUnknown(f"There is no {what.whole}: this model has {entry}.")

    def declared(self, site: Site) -> DeclaredSite:
        """The declaration of a site by its module."""
        return self._once[site.name] if site.layer is None else self._layers[site.layer][site.name]

    def shape(self, site: Any) -> dict[str, int | None]:
        """The axes of a site (or of its head, if one is named) with their sizes; None if it depends on the prompt.

        >>> from cloche import GLU, LM, Attention, Block, Stack
        >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
        >>> net.sites.shape("z[1]")
        {'batch': None, 'position': None, 'head': 4, 'head_size': 8}
        """
        one = self.resolve(site)[0]
        sizes = self.declared(one).sizes
        return {axis: sizes[axis] for axis in one.axes}

    def _all(self, text: str) -> Layers:
        entry = self._entry(text.strip().removesuffix(".all").strip())
        if not isinstance(entry, Layers):
            raise SiteUnknown(f"{text!r} is not in layers: there is only one {entry}; write {entry}.")
        return entry


def _made(name: str, layer: int | None, declared: DeclaredSite, iteration: str = "") -> Site:
    return Site(name, layer, None, declared.axes, iteration)


def _in_order(layers: list[Declarations]) -> list[str]:
    """The names of all layers; one that only a later layer has keeps its place among the others."""
    order: list[str] = []
    for layer in layers:
        at = 0
        for name in layer:
            if name not in order:
                order.insert(at, name)
            at = order.index(name) + 1
    return order


_TEXT = re.compile(r"(\w+)(?:\[(\d+)\]|(\.all))?(?:\.head\((\d+)\))?")


def site(text: str) -> Any:
    """Read a site from its text, ours (`z[9].head(6)`), dotted (`z.9.head(6)`) or a hook of TransformerLens
    (`blocks.9.attn.hook_z`). `resid_post.all` names no count of layers, so it needs a model: use `net.sites`.

    >>> from cloche import site
    >>> site("resid_post[3]").axes
    ('batch', 'position', 'width')
    """
    return _read(text, AXES)


def _read(text: str, known: Mapping[str, tuple[str, ...]]) -> Site:
    """The site of a text; known: the axes of the sites that there are, by name."""
    given, text = text, in_our_words(text, known)
    match = _TEXT.fullmatch(text)
    if (not match or match[1] not in known) and (ours := nearest(text)):
        raise SiteUnknown(f"{shown(given)} is another library's name; what comes nearest to it here is {ours}.")
    if match and match[1] not in known:
        theirs = IN_A_BLOCK.get(match[1])
        if close := [theirs] if theirs in known else difflib.get_close_matches(match[1], known, n=1):
            raise SiteUnknown(f"There is no site {match[1]!r}; did you mean {close[0]!r}?")
    if re.search(r"\[\s*-\d+\s*\]", text):
        raise SiteUnknown(f"{shown(text)} counts from the last layer, which a text cannot: write the layer's number.")
    if not match or match[1] not in known or match[3]:
        raise SiteUnknown(f"{shown(text)} is not a site; write one like resid_post[3], z[9].head(6) or logits.")
    found = Site(match[1], None if match[2] is None else int(match[2]), None, known[match[1]])
    return found if match[4] is None else found.head(int(match[4]))
