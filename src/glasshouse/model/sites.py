"""The one vocabulary of places in a model: `resid_post[3]`, `z[9].head(6)`, `logits`.

A site is a value. The same object comes from attributes (`net.sites.z[9].head(6)`) and from text (`site("z[9].head(6)")`).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from glasshouse.errors import GlasshouseError
from glasshouse.model.edits import Edit

STREAM = ("batch", "position", "width")
HEADS = ("batch", "position", "head", "head_size")
PAIRS = ("batch", "head", "query", "key")
HIDDEN = ("batch", "position", "hidden")

# Axes of every site, in the order of the forward pass.
AXES: dict[str, tuple[str, ...]] = {
    "embed": STREAM,
    "resid_pre": STREAM,
    "attn_in": STREAM,
    "q": HEADS,
    "k": HEADS,
    "v": HEADS,
    "scores": PAIRS,
    "pattern": PAIRS,
    "z": HEADS,
    "attn_out": STREAM,
    "resid_mid": STREAM,
    "mlp_in": STREAM,
    "mlp_pre": HIDDEN,
    "mlp_act": HIDDEN,
    "mlp_out": STREAM,
    "resid_post": STREAM,
    "final_norm": STREAM,
    "logits": ("batch", "position", "vocab"),
}
WHOLE = ("embed", "final_norm", "logits")  # once a model, not once a layer


@dataclass(frozen=True)
class Site:
    """One place in one layer, or in the whole model where `layer` is None; one head of it where `head_index` is set."""

    name: str
    layer: int | None = None
    head_index: int | None = None

    def __str__(self) -> str:
        text = self.name if self.layer is None else f"{self.name}[{self.layer}]"
        return text if self.head_index is None else f"{text}.head({self.head_index})"

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of its tensor (without the head axis once a head is chosen)."""
        axes = AXES[self.name]
        return axes if self.head_index is None else tuple(axis for axis in axes if axis != "head")

    @property
    def whole(self) -> Site:
        """The same site with all its heads."""
        return dataclasses.replace(self, head_index=None)

    def head(self, index: int) -> Site:
        """One head of q, k, v, z, scores or pattern."""
        if "head" not in AXES[self.name]:
            raise GlasshouseError(
                f"The site {self} has no heads; only {', '.join(n for n in AXES if 'head' in AXES[n])} do."
            )
        return dataclasses.replace(self, head_index=index)

    def replace(self, value: Any) -> Edit:
        """Put `value` there: a tensor that broadcasts to the site, or a Result that saved the same site."""
        return Edit(self, "replace", value)

    def add(self, value: Tensor) -> Edit:
        """Add `value`, for example a steering vector [width]."""
        return Edit(self, "add", value)

    def scale(self, factor: float | Tensor) -> Edit:
        """Multiply by `factor`."""
        return Edit(self, "scale", factor)

    def zero(self) -> Edit:
        """Put zeros there: zero ablation."""
        return Edit(self, "zero")

    def project_out(self, direction: Tensor) -> Edit:
        """Remove the component along `direction` (over the last axis)."""
        return Edit(self, "project_out", direction)

    def apply(self, function: Callable[[Tensor], Tensor]) -> Edit:
        """Put `function(value)` there; it must keep the shape."""
        return Edit(self, "apply", function=function)


@dataclass(frozen=True)
class Layers:
    """A site in each of several layers. Saving it gives one tensor with a leading layer axis."""

    sites: tuple[Site, ...]

    @property
    def all(self) -> Layers:
        return self

    def __getitem__(self, layer: int | slice) -> Any:
        if isinstance(layer, slice):
            return Layers(self.sites[layer])
        try:
            return self.sites[layer]
        except IndexError:
            name, count = self.sites[0].name, len(self.sites)
            raise GlasshouseError(f"There is no {name}[{layer}]: this model has layers 0 to {count - 1}.") from None

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)


class Sites:
    """The sites of one model, as attributes; built from the sites its own modules declare.

    layers: for each layer the names its block offers. heads: number of heads by site name.
    """

    def __init__(self, layers: list[tuple[str, ...]], heads: Mapping[str, int]) -> None:
        self._heads = dict(heads)
        self._table: dict[str, Site | Layers] = {}
        for name in AXES:
            if name in WHOLE:
                self._table[name] = Site(name)
            elif offered := tuple(Site(name, i) for i, names in enumerate(layers) if name in names):
                self._table[name] = Layers(offered)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._table:
            close = difflib.get_close_matches(name, self._table, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(self._table)}."
            raise GlasshouseError(f"This model has no site {name!r}; {hint}")
        return self._table[name]

    def __dir__(self) -> list[str]:
        return list(self._table)

    def __iter__(self) -> Iterator[Site]:
        for entry in self._table.values():
            yield from [entry] if isinstance(entry, Site) else entry.sites

    def resolve(self, what: Any) -> list[Site]:
        """The sites that `what` names: a Site, Layers, or their text. Raises GlasshouseError where this model has none such."""
        if isinstance(what, str):
            what = getattr(self, what[:-4].strip()) if what.strip().endswith(".all") else site(what)
        if isinstance(what, Layers):
            return [found for entry in what for found in self.resolve(entry)]
        if not isinstance(what, Site):
            raise GlasshouseError(f"Expected a site such as net.sites.resid_post[0], or its text; got {what!r}.")
        entry = getattr(self, what.name)
        if isinstance(entry, Layers) and what.layer is None:
            raise GlasshouseError(
                f"The site {what.name} is in every layer; say which: {what.name}[0], or {what.name}.all."
            )
        if isinstance(entry, Site) and what.layer is not None:
            raise GlasshouseError(f"The site {what.name} is not in a layer; write {what.name}.")
        if isinstance(entry, Layers) and what.whole not in entry.sites:
            layers = [s.layer for s in entry]
            raise GlasshouseError(
                f"This model has no {what.whole}: {what.name} is in layers {layers[0]} to {layers[-1]}."
            )
        if what.head_index is not None and not 0 <= what.head_index < self._heads[what.name]:
            count = self._heads[what.name]
            raise GlasshouseError(f"There is no {what}: {what.name} has heads 0 to {count - 1}.")
        return [what]


_TEXT = re.compile(r"(\w+)(?:\[(\d+)\]|(\.all))?(?:\.head\((\d+)\))?")


def site(text: str) -> Any:
    """Read a site from its text. `resid_post.all` names no count of layers, so it needs a model: use `net.sites`."""
    match = _TEXT.fullmatch(text.strip())
    if not match or match[1] not in AXES or match[3]:
        raise GlasshouseError(f"{text!r} is no site; write one like resid_post[3], z[9].head(6) or logits.")
    found = Site(match[1], None if match[2] is None else int(match[2]))
    return found if match[4] is None else found.head(int(match[4]))
