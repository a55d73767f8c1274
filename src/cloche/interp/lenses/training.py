"""Training a tuned lens: least squares in closed form, then a few steps of Adam on the divergence, in whitened coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
CHECKED = 16  # steps after which the divergence on them is measured
TOKENS = 1_024  # whose streams are computed at a time
FEWER = 4  # the map without W, which has few parameters, learns from one row in so many,
FASTER = 5  # at so many times the rate
MOST_BYTES = 1 << 30  # of streams in memory
WHITENED = 1e-3  # of the mean variance, added to every direction's
MOMENTUM, SECOND = 0.8, 0.99  # Adam's


@dataclass(frozen=True)
class LensConfig:
    """How a lens is trained: `steps` of Adam on `batch` tokens each, with a learning rate that falls linearly from `rate`,
    relative to the spread of the last layer's stream, to 0. ridge: penalty of the least squares, relative to the mean
    variance of the stream. shuffled: a control, in which each position's target is that of another position drawn at random.
    tokens: of the training text that `cloche look` reads.

    >>> from cloche.interp import LensConfig
    >>> LensConfig(steps=0).batch
    512
    """

    steps: int = 96
    batch: int = 512
    rate: float = 0.02
    ridge: float = 1e-5
    shuffled: bool = False
    tokens: int = 49_152

    def __post_init__(self) -> None:
        if min(self.steps, self.batch - 1, self.tokens - 2) < 0:
            raise ArgumentRange(f"{self} needs steps of 0 or more, and a batch and tokens above 0.")
        if not (0 < self.rate <= 1 and self.ridge > 0):
            raise ArgumentRange(f"{self} needs a rate above 0 and at most 1, and a ridge above 0.")


DEFAULT = LensConfig()


def train_lens(subject: Subject, windows: Iterable[Any], config: LensConfig = DEFAULT, seed: int = 0) -> Lens:
    """Trains a tuned lens on `windows` (batches of ids [batch, position], or texts): KL(model || lens), in nats, at all
    positions, with the final norm and the unembedding frozen.

    W and b start at the ridge regression of h_L - h_l on h_l, from means and covariances collected in one pass, in which
    rows of the streams are kept at random; Adam (1412.6980) then takes steps on them, in coordinates in which h_l has mean
    0 and covariance I. A few windows, one in eight until they have 2,048 tokens, are not trained on: they decide per layer
    which map is kept, so that a map is never worse there than the simpler ones. Memory: the rows for all steps, at most 1
    GiB, a few matrices [layer, width, width], and the logits of a chunk.

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
    train, check = _divided([row for ids in windows_of(subject, windows) for row in ids], TOKENS)
    rng = torch.Generator().manual_seed(seed)
    order = _order(config.shuffled, rng)
    moments, rows = _read(net, train, order, config.steps * config.batch, rng)
    held = torch.cat([streams(net, ids) for ids in check], 1)
    h, last = held[:-1], order(held[-1])
    ridge, shift = moments.ridge(config.ridge), Affine(None, moments.shift)
    start = {"zero": Affine(None, torch.zeros_like(shift.bias)), "shift": shift, "ridge map": ridge}
    at_start = mean_divergences(net, h, last, start)
    bias = _Steps.of(start, at_start, ("zero", "shift"), moments.none())
    tuned = _Steps.of(start, at_start, ("zero", "shift", "ridge map"), moments)
    for step, batch in enumerate(_batches(rows, config, rng)):
        rate = config.rate * (1 - step / config.steps)
        bias.step(net, batch[:, ::FEWER], FASTER * rate)
        tuned.step(net, batch, rate)
        if step % CHECKED == CHECKED - 1 or step == config.steps - 1:
            now = mean_divergences(net, h, last, {"bias": bias.map, "tuned": tuned.map})
            bias.keep(now["bias"])
            tuned.keep(now["tuned"])
    best = tuned.best.where(bias.score < tuned.score, bias.best)
    maps = {"bias only": bias.best, "ridge map": ridge, "tuned lens": best}
    cpu = torch.device("cpu")
    return Lens({k: m.to(cpu) for k, m in maps.items()}, sites, subject.checkpoint, sum(i.numel() for i in train))


def _batches(rows: Tensor, config: LensConfig, rng: torch.Generator) -> Iterator[Tensor]:
    """Batches of rows [site, row, width] for all steps, in random order, again and again."""
    count = rows.shape[1]
    order, size = torch.randperm(count, generator=rng), min(config.batch, count)
    for step in range(config.steps):
        places = torch.arange(step * size, (step + 1) * size) % count
        yield rows[:, order[places].to(rows.device)]


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


def _order(shuffled: bool, rng: torch.Generator) -> Callable[[Tensor], Tensor]:
    """The targets [row, width] as they are, or for the control in random order."""
    return (
        (lambda rows: rows[torch.randperm(len(rows), generator=rng).to(rows.device)]) if shuffled else lambda rows: rows
    )


@dataclass(eq=False)
class _Moments:
    """Of h_l and of h_L - h_l, per layer: mean [layer, width], shift [layer, width] (the mean of h_L - h_l), covariance of
    h_l, and cross, that of h_L - h_l with h_l [layer, width, width], the matrices in float64; and spread, the root mean
    square of h_L - its mean."""

    mean: Tensor
    shift: Tensor
    covariance: Tensor
    cross: Tensor
    spread: float

    def ridge(self, penalty: float) -> Affine:
        """The ridge regression of h_L - h_l on h_l."""
        weight = torch.linalg.solve(damped(self.covariance, penalty), self.cross.mT).mT.float()
        return Affine(weight, self.shift - torch.einsum("lij,lj->li", weight, self.mean))

    def none(self) -> _Moments:
        """For a map with W = 0."""
        return _Moments(self.mean, self.shift, self.covariance[:, :0, :0], self.cross[:, :, :0], self.spread)


def damped(matrices: Tensor, share: float) -> Tensor:
    """Matrices [layer, n, n] with `share` of the mean of their diagonal added to it."""
    diagonal = matrices.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return matrices + torch.diag_embed(share * mean.expand_as(diagonal))


@torch.no_grad()
def _read(
    net: Network, batches: list[Tensor], order: Callable[[Tensor], Tensor], wanted: int, rng: torch.Generator
) -> tuple[_Moments, Tensor]:
    """One pass over all batches: the moments, and about as many rows of the streams [site, row, width] as are wanted, at
    random, with their targets last. Rows are centred at the first batch's mean, which keeps digits.
    """
    total = sum(ids.numel() for ids in batches)
    origin: Tensor | None = None
    sums: list[Tensor] = []
    rows: list[Tensor] = []
    square = 0.0
    for ids in batches:
        h = streams(net, ids)
        target = order(h[-1])
        if origin is None:
            origin = h.mean(1, keepdim=True)
        x, y = h[:-1] - origin[:-1], target - h[:-1]
        new = [x.sum(1).double(), y.sum(1).double(), (x.mT @ x).double(), (y.mT @ x).double()]
        sums = [a.add_(b) for a, b in zip(sums, new, strict=True)] if sums else new
        square += float((target - origin[-1]).square().sum())
        most = min(wanted, MOST_BYTES // (4 * len(h) * h.shape[2]))
        kept = torch.randperm(h.shape[1], generator=rng)[: math.ceil(most * h.shape[1] / total)].to(h.device)
        rows.append(torch.cat([h[:-1, kept], target[None, kept]]))
    assert origin is not None
    x, y, xx, yx = (each / total for each in sums)
    covariance, cross = xx - x[:, :, None] * x[:, None], yx - y[:, :, None] * x[:, None]
    spread = (square / total / net.spec.width) ** 0.5
    return _Moments((origin[:-1, 0] + x).float(), y.float(), covariance, cross, spread), torch.cat(rows, 1)


class _Steps:
    """Adam on one affine map: its weights, the best of them so far per layer, and the averages of gradients, which are those
    with respect to the map of whitened h_l."""

    def __init__(self, start: Affine, score: Tensor, moments: _Moments) -> None:
        self.map = self.best = start
        self.score, self.mean, self.spread = score, moments.mean, moments.spread
        values, vectors = torch.linalg.eigh(damped(moments.covariance, WHITENED))
        self.whitening = (vectors * values.clamp(min=torch.finfo(torch.float32).tiny).rsqrt()[:, None]).float()
        self.first = self.second = torch.zeros(())
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

    def step(self, net: Network, rows: Tensor, rate: float) -> None:
        """One step on rows [site, row, width], the last of which are the targets."""
        x, weight = rows[:-1], self.map.weight
        slope = slopes(net, rows[-1], self.map(x)) / x.shape[1]
        width = self.whitening.shape[-1]
        gradient = slope.sum(1)[..., None]
        if width:
            gradient = torch.cat([slope.mT @ (x - self.mean[:, None]) @ self.whitening, gradient], -1)
        self.taken += 1
        self.first = MOMENTUM * self.first + (1 - MOMENTUM) * gradient
        self.second = SECOND * self.second + (1 - SECOND) * gradient.square()
        first, second = self.first / (1 - MOMENTUM**self.taken), self.second / (1 - SECOND**self.taken)
        change = rate * self.spread * first / (second.sqrt() + torch.finfo(torch.float32).tiny)
        bias = self.map.bias - change[..., -1]
        if width:
            change = change[..., :-1] @ self.whitening.mT
            weight = -change if weight is None else weight - change
            bias = bias + torch.einsum("lij,lj->li", change, self.mean)
        self.map = Affine(weight, bias)

    def keep(self, score: Tensor) -> None:
        """Keeps the map where its divergence is the least so far."""
        better = score < self.score
        self.best, self.score = self.best.where(better, self.map), torch.minimum(score, self.score)
