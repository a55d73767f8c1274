"""Training a TopK autoencoder from a stream of activations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

import torch
from torch import Tensor

from glasshouse.errors import GlasshouseError
from glasshouse.sparse.sae import Autoencoder, Provenance, TopKSAE
from glasshouse.sparse.stream import check_activations, epochs, rebatch

Record = dict[str, float]
_SAMPLE = 8192  # signals that set the scale, the centre and the variance


@dataclass(frozen=True)
class Training:
    """How a TopK autoencoder is trained. The defaults follow Gao et al. 2024 (2406.04093), fitted to short runs.

    `lr` None means 2e-4 / sqrt(features / 2^14), their fitted law. `dead_after` None means 10M signals or an eighth of the
    run, whichever is smaller. `warmup` is in steps, at most a twentieth of the run; `aux_k` None means half the width.
    """

    steps: int = 2_000
    batch: int = 4_096
    lr: float | None = None
    warmup: int = 1_000
    clip: float = 1.0
    aux_weight: float = 1 / 32
    aux_k: int | None = None
    dead_after: int | None = None


def train_sae(
    activations: Tensor | Iterable[Tensor],
    features: int,
    k: int,
    training: Training = Training(),
    *,
    seed: int = 0,
    trained_on: Provenance | None = None,
) -> tuple[TopKSAE, list[Record]]:
    """Fits a TopKSAE to `activations` and returns it with its history.

    `activations` is a tensor [n, d], passed over in shuffled epochs, or an iterable of [n_i, d] pieces, each read once, in
    order, already shuffled (it ends the training early, with a warning, where it holds too little). The history holds, about
    fifty times a run: step, signals, loss, fvu (fraction of variance unexplained, on the batch), l0, dead_share, aux, lr.
    The same activations, options and seed on one machine give the same bytes.
    """
    history: list[Record] = []
    course = training_course(activations, features, k, training, seed=seed, trained_on=trained_on)
    while True:
        try:
            history.append(next(course))
        except StopIteration as end:
            return end.value, history


def training_course(
    activations: Tensor | Iterable[Tensor],
    features: int,
    k: int,
    training: Training = Training(),
    *,
    seed: int = 0,
    trained_on: Provenance | None = None,
) -> Generator[Record, None, TopKSAE]:
    """`train_sae` for those who watch: yields each record of the history as it is made, and returns the autoencoder."""
    batches, sample = batches_and_sample(activations, training, seed)
    sae = TopKSAE(sample.shape[1], features, k, seed=seed).to(sample.device)
    fit = Fit(sae, training, fit_input(sae, sample))
    every = max(1, training.steps // 50)
    for batch in islice(batches, training.steps):
        wanted = (fit.done + 1) % every == 0 or fit.done + 1 in (1, training.steps)
        record = fit.step(batch.float(), wanted)
        if wanted:
            yield record
    if fit.done < training.steps:
        warnings.warn(
            f"The stream of activations ended after {fit.done:,} of {training.steps:,} steps, before the learning rate fell: "
            "harvest more, or ask for fewer steps.",
            stacklevel=3,
        )
    sae.trained_on = replace(trained_on or Provenance(), tokens=fit.signals)
    return sae


def batches_and_sample(
    activations: Tensor | Iterable[Tensor], training: Training, seed: int
) -> tuple[Iterator[Tensor], Tensor]:
    """The batches to train on, and a sample [n, d] of the first of them (which come in the batches too)."""
    if isinstance(activations, Tensor):
        check_activations(activations, None)
        if len(activations) == 0:
            raise GlasshouseError("There are no activations to train a dictionary on: harvest some first.")
        pieces: Iterator[Tensor] = epochs(activations, min(training.batch, len(activations)), seed)
    else:
        pieces = rebatch(activations, training.batch)
    first = list(islice(pieces, max(1, _SAMPLE // training.batch)))
    if not first:
        raise GlasshouseError(
            f"The stream of activations ended before one batch of {training.batch:,}: harvest more, "
            "or train on smaller batches."
        )
    return chain(first, pieces), torch.cat(first)[:_SAMPLE].float()


class Fit:
    """The state of one training: optimiser, schedule, and how long each feature has been silent."""

    def __init__(self, sae: TopKSAE, training: Training, variance: float) -> None:
        self.sae, self.training, self.variance = sae, training, variance
        self.aux_k = training.aux_k or max(1, sae.width // 2)
        self.dead_after = dead_after(training)
        self.optimizer = torch.optim.Adam(sae.parameters(), lr=1.0, fused=True)  # `step` sets the rate
        self.silent = torch.zeros(
            sae.features, dtype=torch.int64, device=sae.decoder.device
        )  # signals since each feature was last used
        self.done = self.signals = 0

    def step(self, x: Tensor, record: bool) -> Record:
        """One update on raw activations `x` [batch, d]; what happened, where a record is wanted."""
        sae = self.sae
        scaled = x * sae.scale
        rate = rate_at(self.training, sae.features, self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        reconstruction, code = sae.reconstruct(scaled)
        error = scaled - reconstruction
        fvu = error.square().sum(1).mean() / self.variance
        dead = (self.silent >= self.dead_after).nonzero().squeeze(1)
        aux = sae.reconstruct_error(scaled, error.detach(), dead, self.aux_k) if len(dead) else None
        loss = fvu if aux is None else fvu + self.training.aux_weight * aux
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        project_gradient(sae)
        torch.nn.utils.clip_grad_norm_(sae.parameters(), self.training.clip)
        self.optimizer.step()
        with torch.no_grad():
            sae.decoder.div_(sae.decoder.norm(dim=1, keepdim=True))
        self.silent += len(x)
        self.silent[code.counts() > 0] = 0
        self.done += 1
        self.signals += len(x)
        if not record:
            return {}
        return {
            "step": self.done,
            "signals": self.signals,
            "lr": rate,
            "dead_share": len(dead) / sae.features,
            "loss": float(loss.detach()),
            "fvu": float(fvu.detach()),
            "l0": float(code.active.float().mean()),
            "aux": 0.0 if aux is None else float(aux.detach()),
        }


def rate_at(training: Training, features: int, done: int) -> float:
    """The learning rate after `done` steps: linear warm-up, then constant, then linear to zero over the last fifth."""
    top = training.lr if training.lr is not None else 2e-4 / math.sqrt(features / 2**14)
    rise = (done + 1) / max(1, min(training.warmup, training.steps // 20))
    fall = (training.steps - done) / max(1, training.steps // 5)
    return top * min(1.0, rise, fall)


def dead_after(training: Training) -> int:
    """How many signals a feature may stay silent before it counts as dead."""
    return training.dead_after or max(training.batch, min(10_000_000, training.steps * training.batch // 8))


def project_gradient(sae: Autoencoder) -> None:
    """Drops the part of the decoder's gradient that would only change the norm of its (unit) rows."""
    gradient = sae.decoder.grad
    if gradient is None:
        return
    along = (gradient * sae.decoder.detach()).sum(1, keepdim=True)
    gradient.addcmul_(along, sae.decoder.detach(), value=-1.0)


@torch.no_grad()
def fit_input(sae: Autoencoder, sample: Tensor) -> float:
    """Sets the scale (mean square one per coordinate) and the centre from `sample` [n, d]; returns the variance then."""
    rms = sample.square().mean().sqrt()
    variance = (sample - sample.mean(0)).square().sum(1).mean() / rms.square()
    if not variance > 1e-12:
        raise GlasshouseError(
            "All activations are the same, so there is nothing to explain: harvest from more varied tokens."
        )
    sae.scale.copy_(1 / rms)
    sae.decoder_bias.copy_(geometric_median(sample / rms))
    return float(variance)


def geometric_median(x: Tensor, steps: int = 50) -> Tensor:
    """[d] the point with the least summed distance to `x` [n, d], by Weiszfeld's iteration: outliers do not pull it."""
    point = x.mean(0)
    for _ in range(steps):
        weight = 1 / (x - point).norm(dim=1).clamp_min(1e-6)
        moved = (weight[:, None] * x).sum(0) / weight.sum()
        if torch.dist(moved, point) <= 1e-5 * (1e-12 + point.norm()):
            return moved
        point = moved
    return point
