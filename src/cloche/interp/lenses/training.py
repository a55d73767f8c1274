"""Training a tuned lens: least squares in closed form, then a few natural-gradient steps on the divergence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from cloche.errors import ArgumentRange, CorpusEmpty
from cloche.interp.lenses.affine import Affine, Lens, mapped_sites
from cloche.interp.lenses.divergence import mean_divergences, slopes, streams
from cloche.interp.subject import Subject, windows_of
from cloche.model import Network

HELD_BACK = 8  # one window in so many is not trained on, it decides between maps:
MOST_HELD = 2_048  # until there are so many tokens of them
CHECKED = 8  # steps after which the divergence on them is measured
RENEWED = 8  # steps after which the Fisher information is estimated again
SLOWER = 0.3  # of the learning rate, where a map became worse
FEWER = 4  # the map without W, which has few parameters, learns from one row in so many
RIDGE = 1e-4  # of the covariance as a preconditioner, relative to the mean variance


@dataclass(frozen=True)
class LensConfig:
    """How a lens is trained: `steps` natural-gradient steps on `batch` tokens each, with a learning rate that falls linearly
    from `rate` to 0. ridge: penalty of the least squares, relative to the mean variance of the stream. damping: added to
    the Fisher information, relative to its mean diagonal. shuffled: a control, in which each position's target is that of
    another position drawn at random. tokens: of the training text that `cloche look` reads.

    >>> from cloche.interp import LensConfig
    >>> LensConfig(steps=0).batch
    1024
    """

    steps: int = 32
    batch: int = 1024
    rate: float = 0.5
    ridge: float = 1e-5
    damping: float = 1e-2
    shuffled: bool = False
    tokens: int = 65_536

    def __post_init__(self) -> None:
        if min(self.steps, self.batch - 1, self.tokens - 2) < 0:
            raise ArgumentRange(f"{self} needs steps of 0 or more, and a batch and tokens above 0.")
        if not (0 < self.rate <= 1 and self.ridge > 0 and self.damping > 0):
            raise ArgumentRange(f"{self} needs a rate above 0 and at most 1, and a ridge and damping above 0.")


DEFAULT = LensConfig()


def train_lens(subject: Subject, windows: Iterable[Any], config: LensConfig = DEFAULT, seed: int = 0) -> Lens:
    """Trains a tuned lens on `windows` (batches of ids [batch, position], or texts): KL(model || lens), in nats, at all
    positions, with the final norm and the unembedding frozen.

    W and b start at the ridge regression of h_L - h_l on h_l, from means and covariances collected in one pass; every step
    then follows the gradient of a batch, preconditioned with the covariance of h_l and the Fisher information of the lens's
    predictions. A few windows, one in eight until they have 2,048 tokens, are not trained on: they decide per layer which map
    is kept, so that a map is never worse there than the simpler ones. Memory: a batch of streams [layer, token, width], a
    few matrices [layer, width, width], and the logits of a chunk.

    The paper (Belrose et al. 2023, 2303.08112) starts at W = 0 and takes 250 steps of 2^18 tokens. Raises ClocheError for
    fewer than two windows, and a model without layers.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import LensConfig, train_lens
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> lens = train_lens(glass, [torch.randint(64, (16, 32))], LensConfig(steps=2))
    >>> lens.sites, lens.maps["tuned lens"].weight.shape
    (('embed', 'resid_post[0]'), torch.Size([2, 32, 32]))
    """
    net, sites = subject.net, mapped_sites(subject.net)
    train, check = _divided([row for ids in windows_of(subject, windows) for row in ids], config.batch)
    order = _order(config.shuffled, seed)
    moments = _moments(net, train, order)
    ridge, shift = moments.ridge(config.ridge), Affine(None, moments.shift)
    start = {"zero": Affine(None, torch.zeros_like(shift.bias)), "shift": shift, "ridge map": ridge}
    at_start = mean_divergences(net, check, start, order)
    bias = _Steps.of(start, at_start, ("zero", "shift"), moments.none())
    tuned = _Steps.of(start, at_start, ("zero", "shift", "ridge map"), moments)
    rng = torch.Generator().manual_seed(seed)
    for step, ids in enumerate(islice(cycle(train), config.steps)):
        h = streams(net, ids)
        last, rate = order(h[-1]), config.rate * (1 - step / config.steps)
        bias.step(net, h[:, ::FEWER], last[::FEWER], rate, config.damping, rng)
        tuned.step(net, h, last, rate, config.damping, rng)
        if step % CHECKED == CHECKED - 1 or step == config.steps - 1:
            now = mean_divergences(net, check, {"bias": bias.map, "tuned": tuned.map}, order)
            bias.keep(now["bias"])
            tuned.keep(now["tuned"])
    best = tuned.best.where(bias.score < tuned.score, bias.best)
    maps = {"bias only": bias.best, "ridge map": ridge, "tuned lens": best}
    cpu = torch.device("cpu")
    return Lens({k: m.to(cpu) for k, m in maps.items()}, sites, subject.checkpoint, sum(i.numel() for i in train))


def _divided(rows: list[Tensor], batch: int) -> tuple[list[Tensor], list[Tensor]]:
    """Windows in batches of about `batch` tokens: those to train on and those held back."""
    rows = [row for row in rows if len(row)]
    if len(rows) < 2:
        raise CorpusEmpty(
            f"A lens needs at least two windows of text to train on, and {len(rows)} were given; give more."
        )
    most = max(1, MOST_HELD // max(map(len, rows)))
    back = range(1, len(rows), max(HELD_BACK, len(rows) // most))
    kept = [row for i, row in enumerate(rows) if i not in back]
    return _batched(kept, batch), _batched([rows[i] for i in back], batch)


def _batched(rows: list[Tensor], tokens: int) -> list[Tensor]:
    """Rows of equal length stacked, of about `tokens` tokens each."""
    by_length: dict[int, list[Tensor]] = {}
    for row in rows:
        by_length.setdefault(len(row), []).append(row)
    return [
        torch.stack(same[i : i + max(1, tokens // length)])
        for length, same in by_length.items()
        for i in range(0, len(same), max(1, tokens // length))
    ]


def _order(shuffled: bool, seed: int) -> Callable[[Tensor], Tensor]:
    """The targets [row, width] as they are, or for the control in random order."""
    rng = torch.Generator().manual_seed(seed)
    return (
        (lambda rows: rows[torch.randperm(len(rows), generator=rng).to(rows.device)]) if shuffled else lambda rows: rows
    )


@dataclass(eq=False)
class _Moments:
    """Of h_l and of h_L - h_l, per layer: mean [layer, width], shift [layer, width] (the mean of h_L - h_l), covariance of
    h_l, and cross, that of h_L - h_l with h_l [layer, width, width]; the matrices in float64."""

    mean: Tensor
    shift: Tensor
    covariance: Tensor
    cross: Tensor

    def ridge(self, penalty: float) -> Affine:
        """The ridge regression of h_L - h_l on h_l."""
        weight = torch.linalg.solve(damped(self.covariance, penalty), self.cross.mT).mT.float()
        return Affine(weight, self.shift - torch.einsum("lij,lj->li", weight, self.mean))

    def none(self) -> _Moments:
        """For a map with W = 0."""
        return _Moments(self.mean, self.shift, self.covariance[:, :0, :0], self.cross[:, :, :0])


def damped(matrices: Tensor, share: float) -> Tensor:
    """Matrices [layer, n, n] with `share` of the mean of their diagonal added to it."""
    diagonal = matrices.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return matrices + torch.diag_embed(share * mean.expand_as(diagonal))


@torch.no_grad()
def _moments(net: Network, batches: list[Tensor], order: Callable[[Tensor], Tensor]) -> _Moments:
    """The moments over all batches, in one pass. Rows are centred at the first batch's mean, which keeps digits."""
    origin: Tensor | None = None
    sums: list[Tensor] = []
    count = 0
    for ids in batches:
        h = streams(net, ids)
        target = order(h[-1])
        if origin is None:
            origin = h[:-1].mean(1, keepdim=True)
        x, y = (h[:-1] - origin).double(), (target - h[:-1]).double()
        new = [x.sum(1), y.sum(1), x.mT @ x, y.mT @ x]
        sums = [a.add_(b) for a, b in zip(sums, new, strict=True)] if sums else new
        count += x.shape[1]
    assert origin is not None
    x, y, xx, yx = (each / count for each in sums)
    covariance, cross = xx - x[:, :, None] * x[:, None], yx - y[:, :, None] * x[:, None]
    return _Moments((origin[:, 0] + x).float(), y.float(), covariance, cross)


class _Steps:
    """Natural-gradient steps on one affine map: its weights, the best of them so far per layer, and the preconditioners."""

    def __init__(self, start: Affine, score: Tensor, moments: _Moments) -> None:
        self.map = self.best = start
        self.score = score
        self.mean = moments.mean
        width = moments.covariance.shape[-1]
        self.inverse = torch.linalg.inv(damped(moments.covariance, RIDGE)).float() if width else None
        self.rate = torch.ones_like(score)
        self.fisher: Tensor | None = None
        self.taken = 0

    @classmethod
    def of(
        cls, start: dict[str, Affine], scores: dict[str, Tensor], names: tuple[str, ...], moments: _Moments
    ) -> _Steps:
        """From the best of several maps at each layer."""
        found, score = start[names[0]], scores[names[0]]
        for name in names[1:]:
            found, score = found.where(scores[name] < score, start[name]), torch.minimum(score, scores[name])
        return cls(found, score, moments)

    def step(self, net: Network, h: Tensor, last: Tensor, rate: float, damping: float, rng: torch.Generator) -> None:
        x, mapped = h[:-1], self.map(h[:-1])
        if self.taken % RENEWED == 0:
            drawn = slopes(net, last, mapped, rng)
            fisher = (drawn.mT @ drawn / x.shape[1]).double()
            self.fisher = torch.linalg.inv(damped(fisher, damping)).float()
        self.taken += 1
        assert self.fisher is not None
        slope = slopes(net, last, mapped) @ self.fisher / x.shape[1]  # symmetric
        slope *= (rate * self.rate).to(slope)[:, None, None]
        weight, bias = self.map.weight, self.map.bias - slope.sum(1)
        if self.inverse is not None:
            change = slope.mT @ (x - self.mean[:, None]) @ self.inverse
            weight = -change if weight is None else weight - change
            bias = bias + torch.einsum("lij,lj->li", change, self.mean)
        self.map = Affine(weight, bias)

    def keep(self, score: Tensor) -> None:
        """Keeps the map where its divergence is the least so far; elsewhere goes on from the best at a lower rate."""
        better = score < self.score
        self.best, self.score = self.best.where(better, self.map), torch.minimum(score, self.score)
        self.map, self.rate = self.best, torch.where(better, self.rate, self.rate * SLOWER)
