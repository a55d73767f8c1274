"""The Jacobian lens: the average effect of each layer's residual stream on that after the last layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cloche.errors import CorpusEmpty, InstrumentOption, WeightsInvalid
from cloche.interp.lenses.affine import JACOBIAN, Affine, JacobianFit, Lens, mapped_sites, stream_sites
from cloche.interp.subject import Subject, windows_of
from cloche.model import Network

ROWS = 1_024  # tokens whose graph is in memory at a time


@dataclass(frozen=True)
class JacobianConfig:
    """How a Jacobian lens is estimated. skip: positions left out at the start of each text, where attention sinks are; of a
    shorter text at most half. cotangents: per text; 0, or as many as the model's width, for all of them, which gives each
    text's J exactly. tokens and length: of the training text that `cloche look` reads, and of each piece of it.

    >>> from cloche.interp import JacobianConfig
    >>> JacobianConfig(cotangents=4).skip
    16
    """

    skip: int = 16
    cotangents: int = 64
    tokens: int = 8_192
    length: int = 128

    def __post_init__(self) -> None:
        if min(self.skip, self.cotangents, self.tokens - 2, self.length - 2) < 0:
            raise InstrumentOption(
                f"{self} needs a skip and cotangents of 0 or more, and at least 2 tokens in each text."
            )


DEFAULT = JacobianConfig()


def fit_jacobian(subject: Subject, windows: Iterable[Any], config: JacobianConfig = DEFAULT, seed: int = 0) -> Lens:
    """Estimates a Jacobian lens (Gurnee et al. 2026, "Verbalizable representations form a global workspace in language
    models"): J_l is the mean over texts and source positions p of the sum over p' >= p of dh_L[p'] / dh_l[p], h_L the
    residual stream after the last layer. The first `config.skip` positions of a text and its last are neither source nor
    p'.

    `windows`: batches of ids [batch, position], or texts. The derivatives are those of the model itself, nothing is frozen.
    A text costs one forward pass and a backward pass per cotangent. With fewer than `width`, the cotangents c of a text are
    rows of random orthogonal matrices, E[c c^T] = I, and its estimate is the mean of I + c (c^T J - c^T): for equal
    backward passes the error is that of fewer texts with all cotangents. `jacobian.error` has the standard error of J, from
    two halves of the texts. Memory: the graph of 1,024 tokens and two matrices [layer, width, width].

    A model without a causal mask has its sum over all p'. Raises ClocheError if there is no text of two tokens.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import fit_jacobian
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> lens = fit_jacobian(glass, [torch.randint(64, (8, 32))])
    >>> lens.maps["Jacobian lens"].weight.shape, lens.jacobian.cotangents
    (torch.Size([2, 32, 32]), 32)
    """
    net, sites = subject.net, mapped_sites(subject.net)
    halves = Halves(net, config, seed)
    for ids in windows_of(subject, windows):
        if ids.shape[1] > 1:
            for rows in ids.split(max(1, ROWS // ids.shape[1])):
                halves.add(rows)
    if not halves.texts:
        raise CorpusEmpty("A Jacobian lens needs a text of at least two tokens, and none was given; give some.")
    weight = halves.weight()
    if not bool(weight.isfinite().all()):
        raise WeightsInvalid(
            "A derivative of this model is NaN or infinite, so it has no Jacobian lens; check its weights."
        )
    fit = JacobianFit(halves.texts, halves.tokens, config.skip, halves.count, halves.error())
    maps = {JACOBIAN: Affine(weight.float().cpu(), torch.zeros(weight.shape[:2]))}
    return Lens(maps, sites, subject.checkpoint, halves.tokens, fit)


class Halves:
    """Sums of J - I over the even and over the odd texts."""

    def __init__(self, net: Network, config: JacobianConfig, seed: int) -> None:
        self.net, self.skip = net, config.skip
        weight, width = net.embed.weight, net.spec.width
        self.count = min(config.cotangents or width, width)
        shape = (2, len(stream_sites(net)) - 1, width, width)
        kind = torch.promote_types(weight.dtype, torch.float32)
        self.sums = torch.zeros(shape, dtype=kind, device=weight.device)
        self.texts = self.tokens = 0
        self.rows = [_rows(width, self.count < width, 2 * seed + half) for half in range(2)]

    def add(self, ids: Tensor) -> None:
        """Adds texts [batch, position] of at least two tokens."""
        half = torch.arange(self.texts, self.texts + len(ids)) % 2
        rows = [next(self.rows[h]) for h in half.tolist() for _ in range(self.count)]
        cotangents = torch.stack(rows).view(len(ids), self.count, -1).to(self.sums)
        scale = self.net.spec.width / self.count  # of rows c of an orthogonal matrix, so that the mean of c c^T is I
        for c, found in products(self.net, ids, cotangents, self.skip):
            for h in range(2):
                mine = half == h
                self.sums[h] += torch.einsum("bi,lbj->lij", c[mine], found[:, mine] - c[mine]) * scale
        self.texts += len(ids)
        self.tokens += ids.numel()

    def weight(self) -> Tensor:
        """J - I [layer, width, width]."""
        return self.sums.sum(0) / self.texts

    def error(self) -> tuple[float, ...]:
        """The standard error of J relative to its norm, per layer."""
        if self.texts < 2:
            return ()
        even, odd = self.sums[0] / ((self.texts + 1) // 2), self.sums[1] / (self.texts // 2)
        whole = self.weight() + torch.eye(self.net.spec.width).to(even)
        return tuple((torch.linalg.matrix_norm(even - odd) / 2 / torch.linalg.matrix_norm(whole)).tolist())


def products(net: Network, ids: Tensor, cotangents: Tensor, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each cotangent c of every text (cotangents [batch, count, width]): c [batch, width], and c^T J of the text's own J
    [layer, batch, width]."""
    sites = stream_sites(net)
    ids = ids.to(net.embed.weight.device)
    length = ids.shape[1]
    chosen = slice(min(skip, (length - 1) // 2), length - 1)
    with torch.no_grad():
        start = net.run(ids, save=sites[:1], logits=False)[sites[0]]
    with torch.enable_grad():  # from the embeddings, so that frozen weights have a graph too
        edit = sites[0].replace(start.detach().clone().requires_grad_())
        result = net.run(ids, save=sites, edits=[edit], logits=False, grad=True)
    streams = [result[site] for site in sites]
    last = streams.pop()
    for index in range(cotangents.shape[1]):
        c = cotangents[:, index]
        at_end = torch.zeros_like(last)
        at_end[:, chosen] = c[:, None].to(last.dtype)
        found = torch.autograd.grad(last, streams, at_end, retain_graph=index + 1 < cotangents.shape[1])
        yield c, torch.stack([each[:, chosen].to(c.dtype).mean(1) for each in found])


def _rows(width: int, random: bool, seed: int) -> Iterator[Tensor]:
    """Rows of orthogonal matrices one after the other: of the identity, or of random ones."""
    rng = torch.Generator().manual_seed(seed)
    while True:
        drawn = torch.randn(width, width, generator=rng, dtype=torch.float64) if random else torch.eye(width)
        yield from torch.linalg.qr(drawn)[0] if random else drawn
