"""A site as a value: its name, layer and head, and the edits that can be made there."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cloche.errors import EditInvalid, SiteUnknown, SiteUnsuitable
from cloche.model.sites.edits import Edit
from cloche.words import EDITS, no_attribute

STREAM = ("batch", "position", "width")
HEADS = ("batch", "position", "head", "head_size")
PAIRS = ("batch", "head", "query", "key")
HIDDEN = ("batch", "position", "hidden")
ROUTED = ("batch", "position", "expert")
SCALE = ("batch", "position", "scale")  # one number, the divisor of a norm

# Axes of the sites that the package's own modules declare, in the order of the forward pass: what a text names without a
# model at hand. A model's own table (`net.sites`) comes from its modules, and holds a third party's sites as well.
AXES: dict[str, tuple[str, ...]] = {
    "embed": STREAM,
    "resid_pre": STREAM,
    "attn_scale": SCALE,
    "attn_in": STREAM,
    "q_pre": HEADS,
    "k_pre": HEADS,
    "q": HEADS,
    "k": HEADS,
    "v": HEADS,
    "scores": PAIRS,
    "pattern": PAIRS,
    "z": HEADS,
    "head_out": ("batch", "position", "head", "width"),
    "attn_out": STREAM,
    "resid_mid": STREAM,
    "mlp_scale": SCALE,
    "mlp_in": STREAM,
    "router": ROUTED,
    "mlp_pre": HIDDEN,
    "mlp_act": HIDDEN,
    "mlp_out": STREAM,
    "resid_post": STREAM,
    "final_scale": SCALE,
    "final_norm": STREAM,
    "logits": ("batch", "position", "vocab"),
}
VIEWS = {"head_out": "z"}  # our sites that are computed only to be saved, and what to edit instead
METHODS = (
    "replace",
    "add",
    "scale",
    "zero",
    "mean",
    "noise",
    "clamp",
    "project_out",
    "apply",
)  # methods that make an edit


@dataclass(frozen=True)
class Site:
    """One site in one layer, or in the whole model if `layer` is None; one head of it if `head_index` is set.

    layer: the iteration of the body, which in a stack is the layer. iteration: what the body calls it ("layer 3"), where the
    site comes from a model.

    >>> from cloche import site
    >>> head = site("z[9].head(6)")
    >>> head.layer, head.head_index, str(head.whole)
    (9, 6, 'z[9]')
    """

    name: str
    layer: int | None = None
    head_index: int | None = None
    whole_axes: tuple[str, ...] = dataclasses.field(
        default=(), compare=False, repr=False
    )  # all, whichever head is chosen
    iteration: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.whole_axes:
            object.__setattr__(self, "whole_axes", AXES.get(self.name, ()))

    def __str__(self) -> str:
        text = self.name if self.layer is None else f"{self.name}[{self.layer}]"
        return text if self.head_index is None else f"{text}.head({self.head_index})"

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of its tensor (without the head axis once a head is chosen)."""
        axes = self.whole_axes
        return axes if self.head_index is None else tuple(axis for axis in axes if axis != "head")

    @property
    def whole(self) -> Site:
        """The same site with all its heads."""
        return dataclasses.replace(self, head_index=None)

    def head(self, index: int) -> Site:
        """One head of q, k, v, z, scores or pattern."""
        if "head" not in self.whole_axes:
            raise SiteUnknown(
                f"The site {self} has no heads; only {', '.join(n for n in AXES if 'head' in AXES[n])} do."
            )
        try:
            return dataclasses.replace(self, head_index=operator.index(index))
        except TypeError:
            raise SiteUnknown(f"A head of {self} is named by its number; got {index!r}.") from None

    if not TYPE_CHECKING:  # or no misspelt attribute would be found before it runs

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            raise no_attribute("Site", name, ("head", "axes", *METHODS), EDITS)

    def replace(self, value: Any) -> Edit:
        """Replace by `value`: a tensor that broadcasts to the site, or a Result that saved the same site."""
        return Edit(self, "replace", value)

    def add(self, value: Tensor) -> Edit:
        """Add `value`, for example a steering vector [width]."""
        return Edit(self, "add", value)

    def scale(self, factor: float | Tensor) -> Edit:
        """Multiply by `factor`."""
        return Edit(self, "scale", factor)

    def zero(self) -> Edit:
        """Replace by zeros: zero ablation."""
        return Edit(self, "zero")

    def mean(self, value: Tensor | Any = None) -> Edit:
        """Replace by the mean over batch and positions (mean ablation): the site's own in this pass, that of another run whose
        Result saved it (of any prompts), or a given tensor."""
        self._each_token("mean")
        return Edit(self, "mean", value)

    def noise(self, std: float, seed: int = 0) -> Edit:
        """Add Gaussian noise of standard deviation `std`. It depends only on the seed, the site, the row and the
        position, so that caching and padding do not change it."""
        self._each_token("noise")
        if (
            isinstance(std, bool)
            or not isinstance(std, int | float)
            or not 0 < std < float("inf")
            or type(seed) is not int
        ):
            raise EditInvalid(f"{self}.noise takes a positive number and a whole seed; got {std!r} and {seed!r}.")
        return Edit(self, "noise", (float(std), seed))

    def clamp(self, direction: Tensor, value: float | Tensor) -> Edit:
        """Set the component along `direction` (over the last axis, in units of its unit vector) to `value`: a number, or a
        tensor that broadcasts to the site without its last axis."""
        self._each_token("clamp")
        return Edit(self, "clamp", (direction, value))

    def _each_token(self, method: str) -> None:
        if "key" in self.axes:
            raise SiteUnsuitable(
                f"{self} has a value for each pair of tokens, where .{method} has no meaning; use .replace."
            )

    def project_out(self, direction: Tensor) -> Edit:
        """Remove the component along `direction` (over the last axis)."""
        return Edit(self, "project_out", direction)

    def apply(self, function: Callable[[Tensor], Tensor]) -> Edit:
        """Replace by `function(value)`, which must keep the shape. It gets a copy, so it may work in place."""
        if not callable(function):
            raise EditInvalid(f"{self}.apply takes a function of the site's value; got {function!r}.")
        return Edit(self, "apply", function=function)
