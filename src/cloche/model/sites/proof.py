"""Proves that every site holds what its name says: each part defines its sites a second time, from its fields and
weights.

A part's `prove(x, proof)` is its definition, written independently of the module it builds and sharing no code with
the forward pass. It offers each site's value to the proof, which compares it with the recorded value and returns the
recorded one, so that each identity is tested alone and the first failure names the wrong site:

    norm(resid_pre) = attn_in; rotated q_pre = q; q.k with scale, cap and mask = scores; softmax(scores) = pattern;
    pattern.v = z; heads + bias, through the post-norm = attn_out; resid_pre + attn_out = resid_mid; act(mlp_pre) = mlp_act;
    down(mlp_act) = mlp_out; resid_mid + mlp_out = resid_post; unembed(final_norm) = logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from cloche.errors import PartInvalid, SitesWrong
from cloche.model.sites.checks import shape_here
from cloche.model.sites.site_value import AXES, VIEWS, Site

if TYPE_CHECKING:
    from cloche.model.network import Network

TOLERANCE = {
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 2e-2,
}  # relative, by the dtype of the weights
ROWS, LENGTH = 2, 7  # texts of the random input, and their tokens
# Sites that the pass computes only when they are saved.
APART = ("attn_scale", "mlp_scale", "final_scale", "q_pre", "k_pre", "scores", "pattern", "head_out")
AT_ONCE = 1 << 23  # numbers of a matrix held in float32 at a time (32 MB)

Key = tuple[str, int | None]


class Proof:
    """What one pass over random ids recorded, and the weights of the part that is being proved.

    positions: [1, position] of the tokens. width: of the residual stream. proved: the sites that were compared.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model.sites import prove_sites
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0)
    >>> "pattern[0]" in prove_sites(net)
    True
    """

    def __init__(self, net: Network, seen: Mapping[Key, Tensor], positions: Tensor) -> None:
        self._net, self._seen, self._declared = net, seen, net.declarations()
        self.positions, self.width = positions, net.spec.width
        self.proved: set[Key] = set()
        self._prefix, self._layer, self._recorded = "", None, True

    def _copy(self, **changes: Any) -> Proof:
        copy = object.__new__(Proof)
        copy.__dict__ |= self.__dict__ | changes
        return copy

    def at(self, layer: int) -> Proof:
        """The same in one layer."""
        return self._copy(_layer=layer)

    def unrecorded(self) -> Proof:
        """A proof for parts where the pass records nothing, such as inside an expert."""
        return self._copy(_recorded=False)

    def inside(self, name: str) -> Proof:
        """A proof for the part whose weights are under `name`; "" for the same part."""
        return self._copy(_prefix=self._prefix + (name and f"{name}."))

    def through(self, part: Any, x: Tensor | None, name: str, *sites: str | None) -> Tensor | None:
        """The output of `part` for x by its own `prove(x, proof, *sites)`; its weights are under `name`.

        If x is unknown or the part proves nothing, the value recorded at the first of `sites`, if any.
        """
        if x is None or not _proves(part):
            return self(sites[0], None) if sites else None
        found: Tensor | None = part.prove(x, self.inside(name), *sites)
        return found

    def blocks(self) -> None:
        """Prove the block of each iteration separately, for a body that does not define how the stream passes between
        them."""
        names = {module: name for name, module in self._net.named_modules()}
        for i, module in enumerate(self._net.layers):
            part: Any = getattr(module, "part", None)
            if module in names and _proves(part):
                part.prove(None, self._copy(_layer=i, _prefix=f"{names[module]}."))

    @overload
    def __call__(self, site: str | None, expected: Tensor, size: Tensor | None = None) -> Tensor: ...
    @overload
    def __call__(self, site: str | None, expected: Tensor | None, size: Tensor | None = None) -> Tensor | None: ...
    def __call__(self, site: str | None, expected: Tensor | None, size: Tensor | None = None) -> Tensor | None:
        """Compare the value recorded at a site with `expected`; returns the recorded value in float64.

        expected: by the part's definition, from the sites before it; None if unknown. size: [..., 1], the scale at
        which `expected` was rounded, if larger than itself; a row of infinite size is skipped. Returns `expected` if
        nothing was recorded.
        """
        if site is None or not self._recorded or (site, self._layer) not in self._seen:
            return expected
        key = (site, self._layer)
        recorded = self._seen[key]
        if expected is not None:
            self.proved.add(key)
            off = _off(recorded, expected, size)
            allowed = TOLERANCE.get(self._net.embed.weight.dtype, TOLERANCE[torch.float32])
            if not off <= allowed:
                self._fail(site, off, allowed, list(recorded.shape), list(expected.shape))
        return recorded.double()

    def _fail(self, site: str, off: float, allowed: float, recorded: list[int], expected: list[int]) -> None:
        where = site if self._layer is None else f"{site}[{self._layer}]"
        how = (
            f"has the shape {recorded} and should have {expected}"
            if recorded != expected
            else f"is off by {off:.2g} of its size ({allowed:.0e} is rounding)"
        )
        raise SitesWrong(
            f"{where} is not what the model's own parts and weights make of the sites before it: it {how}; the module that "
            "records it is wrong. check_sites=False loads the model all the same."
        )

    def sum(self, site: str, x: Tensor | None, *updates: Tensor | None) -> Tensor | None:
        """The residual stream at a site where updates were added to it."""
        terms = [x, *updates]
        if any(term is None for term in terms):
            return self(site, None)
        known = [term for term in terms if term is not None]
        return self(site, torch.stack(known).sum(0), _size(torch.cat(known, -1)))

    def weight(self, name: str) -> Tensor | None:
        """A parameter of the part, as stored; None if there is none of that name."""
        try:
            return self._net.get_parameter(self._prefix + name)
        except AttributeError:
            return None

    def _matrix(self) -> Tensor:
        weight = self.weight("weight")
        if weight is None:
            raise PartInvalid(
                f"A part's prove() reads the matrix {self._prefix}weight, which its module does not have; name one that it has."
            )
        return weight

    def vector(self, name: str) -> Tensor:
        """A parameter of the part in float64; zero if there is none of that name."""
        weight = self.weight(name)
        return self.positions.new_zeros(()).double() if weight is None else weight.double()

    def linear(self, name: str, x: Tensor, block: str | None = None) -> Tensor:
        """x W^T + b of a Linear of the part, or of those of its rows that are declared as `block`; the product in float32."""
        own = self.inside(name)
        weight, bias = own._matrix(), own.weight("bias")
        start, end = 0, len(weight)
        if block is not None:
            blocks = self._declared[f"{own._prefix}weight"].blocks
            start = sum(blocks[before] for before in list(blocks)[: list(blocks).index(block)])
            end = start + blocks[block]
        rows = max(1, AT_ONCE // weight.shape[1])
        pieces = [
            torch.einsum("...i,oi->...o", x.float(), weight[first : min(first + rows, end)].float())
            for first in range(start, end, rows)
        ]
        out = torch.cat(pieces, -1).double()
        return out if bias is None else out + bias[start:end].double()

    def columns(self, name: str, x: Tensor, start: int) -> Tensor:
        """x W^T for the columns of a Linear of the part from `start` on, without its bias; the product in float32."""
        weight = self.inside(name)._matrix()
        return torch.einsum("...i,oi->...o", x.float(), weight[:, start : start + x.shape[-1]].float()).double()


def _proves(part: Any) -> bool:
    """Whether its `prove` belongs to its `build`: a subclass that overrides one must override the other."""
    for owner in type(part).__mro__:
        if "prove" in vars(owner):
            return True
        if "build" in vars(owner) or "table" in vars(owner):
            return False
    return False


def _size(x: Tensor) -> Tensor:
    """The norm of each row [..., 1], ignoring NaN."""
    return torch.where(x.isfinite(), x, 0.0).double().norm(dim=-1, keepdim=True)


def _off(recorded: Tensor, expected: Tensor, size: Tensor | None) -> float:
    """The largest relative error of a row, over the last axis. A row smaller than the median row counts as large as
    that, because its numbers may be differences of larger ones; one smaller than the dtype's normal numbers counts as
    large as those, because below them nothing is precise."""
    if recorded.shape != expected.shape:
        return float("inf")
    value, expected = recorded.double(), expected.to(recorded.dtype).double()
    off = value - expected
    if not bool(off.isfinite().all()):
        off = torch.where(_alike(recorded, expected), 0.0, off)
    off, large = off.norm(dim=-1, keepdim=True), _size(expected)
    smallest = 4 * torch.finfo(recorded.dtype).tiny * max(1, expected.shape[-1]) ** 0.5
    large = torch.maximum(large, large.median()).clamp_min(smallest)
    if size is not None:
        large = torch.maximum(large, size)
    return float(torch.where((off == 0) | large.isinf(), 0.0, off / large).nan_to_num(torch.inf, torch.inf).max())


def _alike(recorded: Tensor, expected: Tensor) -> Tensor:
    """Where two numbers, which may not be finite, agree."""
    # Numbers whose square overflows the dtype may have overflowed on the way, which is not the site's fault.
    reach = torch.finfo(recorded.dtype).max ** 0.5 / 1000
    return (recorded == expected) | ~(recorded.isfinite() | (expected.abs() < reach))


def _check_declared(net: Network, site: Site, recorded: Tensor, ids: Tensor) -> None:
    """Raise if a site does not have the shape its module declares, or if one named like ours has other axes or
    another view."""
    declared, shape = net.sites.declared(site), list(recorded.shape)
    wanted = shape_here(site, ids, net.sites)
    if shape != wanted:
        raise SitesWrong(
            f"{site} is declared with sizes {dict(declared.sizes)}, {wanted} here, and its module offers {shape}; correct the "
            "declaration."
        )
    ours = AXES.get(site.name, declared.axes), VIEWS.get(site.name)
    if (declared.axes, declared.view_of) != ours and site.name in AXES:
        raise SitesWrong(
            f"{site} is declared as [{', '.join(declared.axes)}]{_view(declared.view_of)}, and every site of that name is "
            f"[{', '.join(ours[0])}]{_view(ours[1])}; correct the declaration, or rename the site."
        )


def _view(of: str | None) -> str:
    return "" if of is None else f" as a view of {of}"


@torch.no_grad()
def prove_sites(net: Network) -> list[str]:
    """Compares every site of a network with its definition on a short random input; returns the sites compared.

    Runs twice, because a pass takes another path when a pattern or a norm's divisor is saved. Sites of parts without
    `prove` are not compared, nor experts that receive no token. Memory holds one short pass. Raises SitesWrong, naming the
    first site that is wrong, its layer and the error.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model.sites.proof import prove_sites
    >>> len(prove_sites(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)))
    44
    """
    length = min(LENGTH, net.length or LENGTH)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(net.spec.vocab, (ROWS, length), generator=generator).to(net.embed.weight.device)
    every = list(net.sites)
    proved = _proved(net, ids, every)
    _proved(net, ids[:1], [site for site in every if site.name not in APART])
    return [str(site) for site in every if (site.name, site.layer) in proved]


def _proved(net: Network, ids: Tensor, sites: list[Site]) -> set[Key]:
    """Compare what a pass records at these sites; those that were compared."""
    result = net.run(ids, save=sites)
    for site in sites:
        _check_declared(net, site, result[site], ids)
    seen = {(site.name, site.layer): result[site] for site in sites}
    proof = Proof(net, seen, torch.arange(ids.shape[1], device=ids.device)[None])
    net.spec.prove(ids, proof)
    return proof.proved
