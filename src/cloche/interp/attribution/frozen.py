"""A model as a linear map, with what makes it nonlinear held fixed, and the adjoint of that map for many cotangents at once."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from cloche.errors import ArgumentInvalid, SiteUnsuitable
from cloche.model import Context, Gates, Network, Plan, Result, Site, freeze
from cloche.model.sites import Adjoint, Keeping, check_ids, row_shape

Key = tuple[str, int | None]


@dataclass(frozen=True, eq=False)
class FrozenModel:
    """The linear model that a network is around one pass over ids [batch, position], if all that makes it nonlinear is held
    fixed: attention patterns, the scales of norms, (f(x) - f(0)) / x for each activation f, and the routing weights of
    experts. At that pass it gives the network's own values.

    `over` makes it. gates: of a gated MLP f(g) u, "half" gives g and u half of the product's gradient each (RelP, Jafari et
    al. 2025, 2508.21258), so that contributions sum to what they did; "fixed" holds f(g) fixed, and u has all of it.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import FrozenModel
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> S, ids = net.sites, torch.tensor([[1, 2, 3]])
    >>> frozen = FrozenModel.over(net, ids, save=[S.embed])
    >>> which = torch.zeros(2, 1, 3, 64)
    >>> which[0, 0, -1, 5] = which[1, 0, -1, 6] = 1  # the last logits of tokens 5 and 6
    >>> back = frozen.adjoint({S.logits: which}, [S.embed, S.z[0]])
    >>> back[S.z[0]].shape
    torch.Size([2, 1, 3, 4, 8])
    >>> sums = (back[S.embed] * frozen.saved[S.embed]).sum((1, 2, 3))  # there are no biases, so embeddings are all there is
    >>> torch.allclose(sums, frozen.logits[0, -1, 5:7], atol=1e-5)
    True
    """

    net: Network
    saved: Result  # the sites that `over` was asked to save, and final_norm
    iterations: list[Adjoint]
    to_stream: Any  # the adjoint of the final norm

    @classmethod
    @torch.no_grad()
    def over(cls, net: Network, ids: Any, save: Iterable[Any] = (), gates: Gates = "half") -> FrozenModel:
        """The linear model around the pass over `ids`, which is run once; `saved` holds the values of the sites `save`.

        Raises ModelUnsupported for a part that does not say what of it is held fixed (see `cloche.model.Module`).
        """
        if gates not in get_args(Gates):
            raise ArgumentInvalid(f"gates={gates!r} is not a rule for gated MLPs; it is half or fixed.")
        ids = check_ids(ids, net.spec.vocab, net.length, net.embed.weight.device)
        record = Keeping({"final_norm", *(site.name for what in save for site in net.sites.resolve(what))})
        context = Context.over(ids, record=record)
        x, iterations = freeze(net.body, net.run_layers(ids, context, stop=0), context, gates)
        normed, to_stream = freeze(net.final_norm, x)
        record("final_norm", None, normed)
        return cls(net, Result(None, record.kept, Plan(), net.sites), iterations, to_stream)

    @property
    def logits(self) -> Tensor:
        """[batch, position, vocab], before a soft cap."""
        return self._head[0]

    @functools.cached_property
    def _head(self) -> Any:
        with torch.no_grad():
            return freeze(self.net.unembed, self.saved["final_norm"])

    @torch.no_grad()
    def adjoint(self, cotangents: Mapping[Any, Tensor], sites: Iterable[Any]) -> dict[Site, Tensor]:
        """The cotangents at `sites`, each [cotangent, *the site's shape], of functions with these `cotangents` at other sites.

        cotangents: by site, each [cotangent, *the site's shape]; those of several sites are summed. At `logits` they are
        before a soft cap; at `final_norm` they are rows of the unembedding. All go through one backward pass of matrix
        products, which starts after the last iteration that is named.

        Raises SiteUnsuitable for a site that the linear model does not pass: q, k and the patterns are held fixed, and heads
        are named by z. Raises ArgumentInvalid for cotangents of another shape.
        """
        resolve = self.net.sites.resolve
        given = self._checked({resolve(site)[0]: value for site, value in cotangents.items()})
        wanted = [site.whole for what in sites for site in resolve(what)]
        record, names = _Cotangents(given), {site.name for site in (*given, *wanted)}
        record.names |= {(site.name, site.layer) for site in wanted}
        like = next(iter(given.values()))
        dy = like.new_zeros(*like.shape[:3], self.net.spec.width)
        top = max(-1 if site.layer is None else site.layer for site in (*given, *wanted)) + 1
        if names & {"final_norm", "logits"}:
            if "logits" in names:
                dy = self._head[1](record("logits", None, like.new_zeros(*like.shape[:3], self.net.spec.vocab)))
            dy, top = self.to_stream(record("final_norm", None, dy)), len(self.iterations)
        for backward in reversed(self.iterations[:top]):
            dy = backward(dy, record)
        record("embed", None, dy)
        for site in (*given, *wanted):
            if (site.name, site.layer) not in record.kept:
                raise SiteUnsuitable(
                    f"A linear model in which patterns and norms are held fixed has no gradient at {site}; name a site such as "
                    "resid_pre[0], z[0] or mlp_act[0]."
                )
        return {site: record.kept[site.name, site.layer] for site in wanted}

    def _checked(self, given: dict[Site, Tensor]) -> dict[Site, Tensor]:
        """The cotangents in single precision at least, all of one number and of their sites' shapes."""
        if not given:
            raise ArgumentInvalid("There are no cotangents; give those of at least one site.")
        count, shape = len(next(iter(given.values()))), self.saved["final_norm"].shape[:2]
        for site, value in given.items():
            wanted = [count, *shape, *row_shape(self.net.sites, site)]
            if list(value.shape) != wanted:
                raise ArgumentInvalid(f"Cotangents at {site} have shape {list(value.shape)}, but must be {wanted}.")
        weight = self.net.embed.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return {site: value.to(weight.device, dtype) for site, value in given.items()}


class _Cotangents:
    """The recorder of a backward pass: it adds cotangents at their sites, and keeps those of the sites `names`."""

    def __init__(self, given: dict[Site, Tensor]) -> None:
        self.given: dict[Key, Tensor] = {(site.name, site.layer): value for site, value in given.items()}
        self.names, self.kept = set(self.given), dict[Key, Tensor]()

    def wants(self, name: str, layer: int | None) -> bool:
        return (name, layer) in self.names

    def __call__(self, name: str, layer: int | None, value: Tensor) -> Tensor:
        if (name, layer) in self.names:
            value = self.kept[name, layer] = value + self.given[name, layer] if (name, layer) in self.given else value
        return value
