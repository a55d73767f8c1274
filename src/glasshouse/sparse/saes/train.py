"""Training an autoencoder of any kind to a wanted number of active features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from glasshouse.errors import GlasshouseError
from glasshouse.sparse.learn import (
    Record,
    Training,
    batches_and_sample,
    dead_after,
    fit_input,
    project_gradient,
    rate_at,
)
from glasshouse.sparse.sae import Provenance
from glasshouse.sparse.saes.kinds import Answer, BatchTopK, Kind
from glasshouse.sparse.saes.module import SAE

BATCHTOPK, DEFAULT = BatchTopK(), Training()
_GAIN = 0.02  # how fast the penalty's weight follows the number of active features, a step
_KEPT = 32_768  # of the last signals seen, which the threshold is calibrated on
_ABOVE = 1.03  # times l0 are wanted while training: the calibration can silence features, seldom wake them


def learn_sae(
    activations: Tensor | Iterable[Tensor],
    features: int,
    l0: float,
    kind: Kind = BATCHTOPK,
    training: Training = DEFAULT,
    *,
    nested: tuple[int, ...] = (),
    seed: int = 0,
    trained_on: Provenance | None = None,
) -> tuple[SAE, list[Record]]:
    """Fits an SAE of `kind` to `activations` ([n, d], or a stream of such pieces, as for `train_sae`), `l0` features active.

    Where the kind penalises activity, the penalty's weight follows the measured l0 until it is the wanted one; a threshold
    calibrated on the last signals settles the rest. `nested` are numbers of leading features that must reconstruct alone
    (Matryoshka, Bussmann et al. 2025, 2503.17547). Returns the autoencoder and about fifty records: step, signals, loss, fvu,
    l0, weight (of the penalty), dead_share, lr.
    """
    if any(not 0 < prefix < features for prefix in nested) or list(nested) != sorted(set(nested)):
        raise GlasshouseError(
            f"nested={nested} must rise, each between 1 and {features - 1:,}: how many leading features reconstruct alone."
        )
    batches, sample = batches_and_sample(activations, training, seed)
    sae = SAE(sample.shape[1], features, l0, kind, seed=seed).to(sample.device)
    fit = _Fit(sae, training, fit_input(sae, sample), nested)
    every = max(1, training.steps // 50)
    history, kept = [], [sample]
    for batch in islice(batches, training.steps):
        record = fit.step(batch.float())
        kept = [*kept[-max(1, _KEPT // len(batch)) :], batch.float()]
        if fit.done % every == 0 or fit.done in (1, training.steps):
            history.append(record)
    if fit.done < training.steps:
        warnings.warn(
            f"The stream of activations ended after {fit.done:,} of {training.steps:,} steps, before the learning rate fell: "
            "harvest more, or ask for fewer steps.",
            stacklevel=2,
        )
    reached = sae.calibrate(torch.cat(kept)[-_KEPT:])
    if abs(reached / l0 - 1) > 0.02:
        warnings.warn(
            f"The {kind.name} has {reached:.3g} features active where {l0:g} were asked for: train for more steps.",
            stacklevel=2,
        )
    sae.trained_on = replace(trained_on or Provenance(), tokens=fit.signals)
    return sae, history


class _Fit:
    """The state of one training."""

    def __init__(self, sae: SAE, training: Training, variance: float, nested: tuple[int, ...]) -> None:
        self.sae, self.training, self.variance = sae, training, variance
        self.ends = [*nested, sae.features]
        self.optimizer = torch.optim.Adam([p for p in sae.parameters() if p.requires_grad], lr=1.0, fused=True)
        self.silent = torch.zeros(sae.features, dtype=torch.int64, device=sae.decoder.device)
        self.weight = 1e-3 / sae.l0  # of the penalty
        self.done = self.signals = 0

    def step(self, x: Tensor) -> Record:
        """One update on raw activations `x` [batch, d]."""
        sae, scaled = self.sae, x * self.sae.scale
        rate = rate_at(self.training, sae.features, self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        answer = sae.answer(scaled)
        fvu, error = self._unexplained(scaled, answer.values)
        loss = fvu.mean()
        if answer.penalty is not None:
            loss = loss + self.weight * answer.penalty
        if answer.rough is not None:  # trains the gate alone: the atoms are given
            rough = answer.rough @ sae.decoder.detach() + sae.decoder_bias.detach()
            loss = loss + (scaled - rough).square().sum(1).mean() / self.variance
        dead = (self.silent >= dead_after(self.training)).nonzero().squeeze(1)
        if len(dead):
            aux_k = self.training.aux_k or max(1, sae.width // 2)
            loss = loss + self.training.aux_weight * sae.reconstruct_error(scaled, error, dead, aux_k)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        project_gradient(sae)
        torch.nn.utils.clip_grad_norm_(sae.parameters(), self.training.clip)
        self.optimizer.step()
        with torch.no_grad():
            sae.decoder.div_(sae.decoder.norm(dim=1, keepdim=True))
        active = answer.values.detach() > 0
        l0 = float(active.sum(1).float().mean())
        self._follow(answer, l0)
        self.silent += len(x)
        self.silent[active.any(0)] = 0
        self.done += 1
        self.signals += len(x)
        return {
            "step": self.done,
            "signals": self.signals,
            "lr": rate,
            "dead_share": len(dead) / sae.features,
            "loss": float(loss.detach()),
            "fvu": float(fvu[-1].detach()),
            "l0": l0,
            "weight": self.weight,
        }

    def _unexplained(self, scaled: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Fractions of variance unexplained [nested + 1] by the leading features, and the error of all, detached."""
        reconstruction, start, fvu = self.sae.decoder_bias.expand_as(scaled), 0, []
        for end in self.ends:
            reconstruction = torch.addmm(reconstruction, values[:, start:end], self.sae.decoder[start:end])
            fvu.append((scaled - reconstruction).square().sum(1).mean() / self.variance)
            start = end
        return torch.stack(fvu), (scaled - reconstruction).detach()

    def _follow(self, answer: Answer, l0: float) -> None:
        """Moves the penalty's weight towards the wanted number of active features."""
        if answer.penalty is not None:
            excess = math.log(max(l0, 1e-3) / (_ABOVE * self.sae.l0))
            self.weight *= math.exp(_GAIN * max(-1.0, min(1.0, excess)))
