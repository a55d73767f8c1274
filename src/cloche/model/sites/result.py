"""The result of a pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cloche.errors import SiteNotSaved
from cloche.model.sites.plan import Key, Plan
from cloche.model.sites.vocabulary import Layers, Site, Sites
from cloche.words import no_attribute

SUMS_TO_ONE = 1e-3  # the rounding of a sum in fp16


class Result:
    """The logits and the saved sites of one `run`.

    `result[site]` is the tensor of a site (one head of it for `site.head(i)`), `result[layers]` stacks a site over layers:
    [layer, ...]. Nothing is copied until it is asked for.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> r = net.run([[1, 2, 3]], save=["resid_post[1]"])
    >>> r.logits.shape, r["resid_post[1]"].shape
    (torch.Size([1, 3, 64]), torch.Size([1, 3, 32]))
    """

    def __init__(
        self,
        logits: Tensor | None,
        kept: dict[Key, Tensor],
        plan: Plan,
        sites: Sites,
        pad: Tensor | None = None,
        off: dict[int | None, Tensor] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self._logits, self._kept, self._sites = logits, kept, sites
        self.plan, self.pad = plan, pad
        self._off, self._notes = off or {}, list(notes)

    @property
    def logits(self) -> Tensor:
        """[batch, position, vocab]"""
        if self._logits is None:
            raise SiteNotSaved(
                "This run stopped before the logits (logits=False); run it again without that to have them."
            )
        return self._logits

    @property
    def notes(self) -> list[str]:
        """Remarks about this run, one sentence each: a text beyond the model's context, edited patterns
        whose rows no longer sum to one, logits that are not numbers."""
        wrong = self._logits is not None and bool(self._logits.isnan().any())
        unsummed = [(layer, float(off)) for layer, off in self._off.items() if float(off) > SUMS_TO_ONE]
        return [
            *self._notes,
            *(["The logits hold NaN: see which edit or site first does."] if wrong else []),
            *(
                f"pattern[{layer}] was edited and its rows no longer sum to what a softmax gives (off by up to {off:.2g})."
                for layer, off in unsummed
            ),
        ]

    def __getitem__(self, what: Site | Layers | str) -> Tensor:
        found = self._sites.resolve(what)
        if isinstance(what, Layers) or (isinstance(what, str) and what.strip().endswith(".all")):
            return torch.stack([self._one(site) for site in found])
        return self._one(found[0])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise no_attribute("Result", name, ("logits", "notes", "pad", "plan"))

    def __repr__(self) -> str:
        """The saved sites with their shapes, and the notes."""
        kept = {str(Site(*key)): list(value.shape) for key, value in self._kept.items()}
        told = {} if self._logits is None else {"logits": list(self._logits.shape)}
        shapes = ", ".join(f"{name} {shape}" for name, shape in (told | kept).items()) or "nothing saved"
        return "\n".join([f"<Result: {shapes}>", *(f"Note: {note}" for note in self.notes)])

    def __contains__(self, what: Any) -> bool:
        return all((site.name, site.layer) in self._kept for site in self._sites.resolve(what))

    def _one(self, site: Site) -> Tensor:
        key = (site.name, site.layer)
        if key not in self._kept:
            raise SiteNotSaved(f"{site.whole} was not saved in this run; add it to save=[...].")
        value = self._kept[key]
        return value if site.head_index is None else value.select(site.whole_axes.index("head"), site.head_index)
