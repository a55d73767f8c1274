"""Where a dictionary's rows come from and where its reconstructions go: sites of one model or several, as one line of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cloche.errors import DictionaryMismatch, SiteUnsuitable
from cloche.model import Edit, Network, Site
from cloche.model.sites import in_our_words, row_shape
from cloche.sparse import SAE, Wiring

FIRST = 1  # positions left out at the start of a window: without context, their activations are unlike all others
Others = Mapping[str, Network]  # other models that a route names, by name


@dataclass(frozen=True)
class Place:
    """A site of the main model, or of another model given by name: "resid_post[2]", "step-000100/resid_post[2]".

    >>> from cloche.interp import Place
    >>> str(Place("resid_post[2]", model="step-000100"))
    'step-000100/resid_post[2]'
    """

    site: str
    model: str = ""

    def __str__(self) -> str:
        return f"{self.model}/{self.site}" if self.model else self.site


@dataclass(frozen=True)
class Route:
    """The places that are read and, if they differ, the places that are written.

    As text: "resid_post[2]" (an autoencoder), "mlp_in[2] -> mlp_out[2]" (a transcoder), "resid_post[1] + resid_post[2]" and
    "resid_post[2] + step-000100/resid_post[2]" (crosscoders, across layers and across checkpoints).

    >>> from cloche.interp import Route
    >>> route = Route.parse("mlp_in[2] -> mlp_out[2]")
    >>> [place.site for place in route.reads], str(route)
    (['mlp_in[2]'], 'mlp_in[2] -> mlp_out[2]')
    """

    reads: tuple[Place, ...]
    writes: tuple[Place, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> Route:
        """Raises ClocheError for text that is not a route; whether the sites exist is checked by `through`."""
        read, arrow, written = text.partition("->")
        reads = _places(read, text)
        return cls(reads, _places(written, text) if arrow else None)

    def __str__(self) -> str:
        read = " + ".join(map(str, self.reads))
        return read if self.writes is None else f"{read} -> {' + '.join(map(str, self.writes))}"

    @property
    def places(self) -> tuple[Place, ...]:
        """In the order of a row's columns."""
        return self.reads + (self.writes or ())

    def through(self, net: Network, others: Others | None = None) -> Reader:
        """A reader of the route in `net` and the `others` it names."""
        return Reader(self, net, others or {})


class Reader:
    """A route through loaded models: reads rows, and puts reconstructions back. `route` has the sites under this project's
    names.

    All heads of a site such as z[1] count as one vector. Raises ClocheError for a model that is not among the others, a
    site that its model lacks, or one that holds no vector at a position.
    """

    def __init__(self, route: Route, net: Network, others: Others) -> None:
        self.net, self.others = net, others
        self.sites = [self._site(place) for place in route.places]
        named = tuple(Place(str(site), place.model) for site, place in zip(self.sites, route.places, strict=True))
        reads = len(route.reads)
        self.route = Route(named[:reads], named[reads:] if route.writes else None)

    def wiring(self, skip: bool = False) -> Wiring:
        """Widths of what is read and written."""
        places = zip(self.sites, self.route.places, strict=True)
        widths = tuple(math.prod(row_shape(self._net(place).sites, site)) for site, place in places)
        reads = len(self.route.reads)
        return Wiring(widths[:reads], widths[reads:] if self.route.writes else None, skip)

    def check(self, sae: SAE) -> None:
        """Raises if a dictionary's widths differ from those of these places."""
        wanted, found = self.wiring(sae.wiring.skip), sae.wiring
        if wanted != found:
            raise DictionaryMismatch(
                f"The dictionary of {self.route} has width {_widths(found)}, but {self.route} has width {_widths(wanted)} "
                "here: use it with the model and the sites it was trained on."
            )

    def rows(self, ids: Tensor) -> Tensor:
        """[batch, position, columns] of token ids [batch, position], in fp32; layers after the last site are not run."""
        found: dict[int, Tensor] = {}
        for model in dict.fromkeys(place.model for place in self.route.places):
            mine = [i for i, place in enumerate(self.route.places) if place.model == model]
            net = self._net(self.route.places[mine[0]])
            result = net.run(ids.to(net.embed.weight.device), save=[self.sites[i] for i in mine], logits=False)
            found |= {i: result[self.sites[i]].flatten(2).float().to(ids.device) for i in mine}
        return torch.cat([found[i] for i in range(len(self.sites))], -1) if len(found) > 1 else found[0]

    @property
    def own(self) -> list[Site]:
        """The sites of the main model."""
        return [site for site, place in zip(self.sites, self.route.places, strict=True) if not place.model]

    def written(self) -> list[tuple[int, Site]]:
        """(index among the places written, site) of each place written in the main model."""
        places = self.route.writes or self.route.reads
        sites = self.sites[-len(places) :]
        own = [(i, sites[i]) for i, place in enumerate(places) if not place.model]
        if not own:
            raise DictionaryMismatch(
                f"{self.route} writes nothing into this model: use the model that the route writes to."
            )
        return own

    def put(self, made: Tensor) -> list[Edit]:
        """Edits that replace the activations by `made` [n, width written], one row for every position but the first."""
        wiring = self.wiring()
        blocks = made.split(wiring.writes or wiring.reads, dim=-1)
        return [site.apply(partial(_put, blocks[i])) for i, site in self.written()]

    def _net(self, place: Place) -> Network:
        if not place.model:
            return self.net
        if place.model not in self.others:
            known = ", ".join(self.others) or "none"
            raise DictionaryMismatch(
                f"{place} is a site of the model {place.model!r}, which was not given (given: {known}): pass it in `others`."
            )
        return self.others[place.model]

    def _site(self, place: Place) -> Site:
        site = self._net(place).sites.resolve(place.site)[0]
        if site.axes[:2] != ("batch", "position"):
            raise SiteUnsuitable(
                f"{site} has axes {', '.join(site.axes)}; a dictionary needs one vector per position: choose a site such as "
                "resid_post[1] or z[1]."
            )
        return site


def as_route(where: Site | Route | str) -> Route:
    """A route from a site, from text, or as it is."""
    return where if isinstance(where, Route) else Route.parse(str(where))


def reader_of(sae: SAE, net: Network, others: Others | None = None) -> Reader:
    """A reader of the sites that a dictionary was trained on. Raises if it does not record them, or has other widths."""
    if sae.trained_on.site is None:
        raise DictionaryMismatch(
            "This dictionary does not record the site it was trained on; train it with trained_on=Provenance(site=...)."
        )
    reader = Route.parse(sae.trained_on.site).through(net, others)
    reader.check(sae)
    return reader


def rows_without_first(rows: Tensor) -> Tensor:
    """[n, columns] of [batch, position, columns]: every position but the first of each window."""
    return rows[:, FIRST:].flatten(0, 1)


def _places(text: str, whole: str) -> tuple[Place, ...]:
    parts: Sequence[str] = [part.strip() for part in text.split("+")]
    if not all(parts) or "->" in text:
        raise DictionaryMismatch(
            f"{whole!r} is not a route: write a site, sites joined by +, or SITES READ -> SITES WRITTEN."
        )
    split = [part.rpartition("/") for part in parts]
    return tuple(Place(in_our_words(site), model) for model, _, site in split)


def _widths(wiring: Wiring) -> str:
    read = " + ".join(map(str, wiring.reads))
    return read if wiring.writes is None else f"{read} -> {' + '.join(map(str, wiring.writes))}"


def _put(block: Tensor, value: Tensor) -> Tensor:
    """`value` with all positions but the first replaced by `block`, so that gradients reach the block."""
    kept = value[:, FIRST:]
    return torch.cat([value[:, :FIRST], block.view_as(kept).to(value.dtype)], 1)
