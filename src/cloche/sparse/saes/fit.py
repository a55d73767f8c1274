"""The training step of an autoencoder of any kind and wiring, and the state needed to resume it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import NotSolved, SettingRange
from cloche.ranks import Ranks
from cloche.sparse.saes.gathered import Chosen
from cloche.sparse.saes.kinds import BatchStats
from cloche.sparse.saes.module import SAE

Record = dict[str, float]
_GAIN = 0.02  # how fast the penalty's weight follows the number of active features, per step
_BETAS = 0.5, 0.95  # old gradients must not slow a feature that is seldom active
_SIGNAL = 0.7  # share of a signal in an initial atom; the rest is random, so that copies of a signal diverge
_ABOVE = 1.03  # times l0 is the target in training: calibration can deactivate features, but seldom activate them


def _at_least_one(settings: object, **counts: int | None) -> None:
    """Raises on a count below 1; None is the default."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise SettingRange(
                f"{name} = {count} of {type(settings).__name__} is below 1: give a whole number of 1 or more."
            )


@dataclass(frozen=True)
class AuxLoss:
    """The auxiliary loss AuxK, which revives dead features (Gao et al. 2024, 2406.04093).

    `k` dead features per signal reconstruct the error; None means half the width. A feature is dead after `dead_after` signals
    in which it was inactive; None means 10M signals or a 32nd of the run, whichever is smaller.

    >>> from cloche.sparse.saes import AuxLoss, Training
    >>> Training(aux=AuxLoss(k=16, dead_after=100_000)).patience
    100000
    """

    weight: float = 1 / 32
    k: int | None = None
    dead_after: int | None = None

    def __post_init__(self) -> None:
        _at_least_one(self, k=self.k, dead_after=self.dead_after)


@dataclass(frozen=True)
class SaveState:
    """Saves the state of a training to the file `path` every `every` steps; a training that finds it there resumes from it.

    >>> from cloche.sparse import SyntheticFeatures, Training, train_sae
    >>> from cloche.sparse.saes import SaveState
    >>> activations, _ = SyntheticFeatures(width=8, features=12, active=2).sample(1_024)
    >>> training = Training(steps=20, batch=128, save=SaveState("training.state", every=10))
    >>> sae, history = train_sae(activations, 12, l0=2, training=training)
    >>> again, _ = train_sae(activations, 12, l0=2, training=training)  # finds all 20 steps done
    >>> bool((again.decoder == sae.decoder).all())
    True
    """

    path: str | Path
    every: int = 500

    def __post_init__(self) -> None:
        _at_least_one(self, every=self.every)


@dataclass(frozen=True)
class Training:
    """Settings of the training of an autoencoder.

    `lr` None means 2 / sqrt(steps * width). Adam moves a unit atom by about lr * sqrt(width) per step, so a random
    walk of all steps can reach anywhere on the sphere. Runs of 10^5 steps get the 1e-4 of published ones; short runs
    get a higher rate. `warmup` is in steps, at most a
    twentieth of the run; the default of `clip` is that of Gao et al. 2024, 2406.04093.

    >>> from cloche.sparse import Training
    >>> training = Training(steps=1_000, batch=256, lr=1e-3)
    >>> training.rate(width=64, done=0), training.rate(64, 400), training.rate(64, 750)  # warm-up, constant, decay
    (2e-05, 0.001, 0.0005)
    """

    steps: int = 16_000
    batch: int = 512
    lr: float | None = None
    warmup: int = 1_000
    clip: float = 1.0
    aux: AuxLoss = AuxLoss()
    save: SaveState | None = None

    def __post_init__(self) -> None:
        _at_least_one(self, steps=self.steps, batch=self.batch)
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise SettingRange(f"lr = {self.lr} is not a positive number: give one, or None for the default.")

    def rate(self, width: int, done: int) -> float:
        """The learning rate after `done` steps: linear warm-up, then constant, then linear to zero over the last half."""
        top = self.lr if self.lr is not None else 2 / math.sqrt(self.steps * width)
        rise = (done + 1) / max(1, min(self.warmup, self.steps // 20))
        fall = (self.steps - done) / max(1, self.steps // 2)
        return top * min(1.0, rise, fall)

    @property
    def patience(self) -> int:
        """Number of signals in which a feature may be inactive before it counts as dead."""
        return self.aux.dead_after or max(self.batch, min(10_000_000, self.steps * self.batch // 32))


DEFAULT = Training()


class Fit:
    """The state of one training: optimiser, schedule, the penalty's weight, and how long each feature has been
    inactive.

    `variance` is that of what is reconstructed, at the trained scale (`fit_input`). If `torch.distributed` is
    initialised, all processes pass the same batches to `step`, split each of them and stay equal.

    >>> from cloche.sparse import SAE, SyntheticFeatures, Training
    >>> from cloche.sparse.saes import Fit, fit_input
    >>> activations, _ = SyntheticFeatures(width=8, features=12, active=2).sample(1_024)
    >>> sae = SAE(8, 12, l0=2)
    >>> fit = Fit(sae, Training(steps=50, batch=128), fit_input(sae, activations))
    >>> first, *_, last = [fit.step(activations[:128]) for _ in range(50)]
    >>> last["fvu"] < first["fvu"], last["signals"]
    (True, 6400)
    """

    def __init__(self, sae: SAE, training: Training, variance: float) -> None:
        self.sae, self.training, self.variance = sae, training, variance
        self.ends = [*sae.kind.nested, sae.features]
        self.parameters = [p for p in sae.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1.0, betas=_BETAS, fused=True)  # `step` sets the rate
        self.inactive_for = torch.zeros(
            sae.features, dtype=torch.int64, device=sae.decoder.device
        )  # signals since last active
        self.stats, self.ranks = BatchStats(), Ranks()
        self.weight = 1e-3 / sae.l0  # of the penalty
        self.done = self.signals = 0

    def step(self, x: Tensor, downstream: Callable[[Tensor], Tensor] | None = None) -> Record:
        """Updates the weights on raw training rows `x` [batch, columns]; returns the record of the step.

        `downstream`, for end-to-end training, maps the raw reconstruction [batch, width] to a loss that replaces the
        unexplained variance (Braun et al. 2024, 2405.12241).
        """
        sae, ranks = self.sae, self.ranks
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.rate(sae.width, self.done)
        scaled, target = sae.parts(ranks.share(x))
        chosen, acts = sae.feature_acts(scaled, self.stats, ranks.gather, ranks.world)
        base = sae.base(scaled)
        reconstructions = self._nested(base, chosen, acts.values)
        fvu = torch.stack([(target - r).square().sum(1).mean() for r in reconstructions]) / self.variance
        loss = fvu.mean()
        if downstream is not None:
            loss = torch.stack([downstream(r / sae.out_scale) for r in reconstructions]).mean()
        if acts.penalty is not None:
            loss = loss + self.weight * acts.penalty / len(scaled)
        if acts.gate_acts is not None:  # trains only the gate: the atoms have no gradient
            gated = base.detach() + chosen.decode(acts.gate_acts, sae.decoder.detach())
            loss = loss + (target - gated).square().sum(1).mean() / self.variance
        dead = (self.inactive_for >= self.training.patience).nonzero().squeeze(1)
        if len(dead):
            loss = loss + self.training.aux.weight * self._aux(scaled, (target - reconstructions[-1]).detach(), dead)
        self._update(loss)
        counts = ranks.total(chosen.counts(acts.values.detach()))
        l0 = float(counts.sum()) / len(x)
        self._after_step(x, counts, l0, acts.values.numel() / max(1, len(scaled)), acts.penalty is not None)
        measured = ranks.mean(torch.stack([loss.detach(), fvu[-1].detach()]))
        return {
            "step": self.done,
            "signals": self.signals,
            "lr": self.optimizer.param_groups[0]["lr"],
            "dead_share": len(dead) / sae.features,
            "loss": float(measured[0]),
            "fvu": float(measured[1]),
            "l0": l0,
            "weight": self.weight,
        }

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values from which `restore` resumes exactly."""
        tensors = {f"sae.{name}": value for name, value in self.sae.state_dict().items()} | {
            "inactive_for": self.inactive_for
        }
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{name}": value for name, value in moments.items()}
        plain = {"done": self.done, "signals": self.signals, "weight": self.weight, "variance": self.variance}
        return tensors, plain | {"stats": asdict(self.stats)}

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        prefix = "sae."
        self.sae.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        self.inactive_for = tensors["inactive_for"].to(self.inactive_for.device)
        adam = self.optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, i, moment = name.split(".")
                adam["state"].setdefault(int(i), {})[moment] = tensor
        self.optimizer.load_state_dict(adam)
        self.stats = BatchStats(**plain["stats"])
        self.done, self.signals = plain["done"], plain["signals"]
        self.weight, self.variance = plain["weight"], plain["variance"]

    def _nested(self, base: Tensor, chosen: Chosen, values: Tensor) -> list[Tensor]:
        """Reconstructions from each number of leading features, the last from all."""
        reconstructions, start = [], 0
        for end in self.ends:
            base = base + chosen.decode(values, self.sae.decoder, start, end)
            reconstructions.append(base)
            start = end
        return reconstructions

    def _aux(self, scaled: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """Share of the error that the dead features leave unexplained."""
        aux_k = self.training.aux.k or max(1, self.sae.width // 2)
        left = self.sae.explain_error(scaled, error, dead, aux_k)
        return left / self.ranks.mean(error.square().mean()).clamp_min(1e-12)

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in self.parameters:
            if self.ranks.world > 1:
                if parameter.grad is None:  # unused in this process, but maybe not in others
                    parameter.grad = torch.zeros_like(parameter)
                self.ranks.mean(parameter.grad)
        project_gradient(self.sae)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.training.clip)
        self.optimizer.step()
        with torch.no_grad():
            self.sae.decoder.div_(self.sae.decoder.norm(dim=1, keepdim=True).clamp_min(1e-30))  # a row may be zero

    def _after_step(self, x: Tensor, counts: Tensor, l0: float, slots: float, penalised: bool) -> None:
        """Updates what the next step needs of this one; moves the penalty's weight towards the wanted l0."""
        self.inactive_for += len(x)
        self.inactive_for[counts > 0] = 0
        self.stats.share = min(slots, l0) / self.sae.features
        self.done += 1
        self.signals += len(x)
        if penalised:
            excess = math.log(max(l0, 1e-3) / (_ABOVE * self.sae.l0))
            self.weight *= math.exp(_GAIN * max(-1.0, min(1.0, excess)))


def project_gradient(sae: SAE) -> None:
    """Removes the component of the decoder's gradient that would only change the norm of its unit rows."""
    gradient = sae.decoder.grad
    if gradient is None:
        return
    along = (gradient * sae.decoder.detach()).sum(1, keepdim=True)
    gradient.addcmul_(along, sae.decoder.detach(), value=-1.0)


@torch.no_grad()
def fit_input(sae: SAE, sample: Tensor) -> float:
    """Sets the scales (mean square one per coordinate of each site), the centres and the initial atoms from raw
    training rows `sample` [n, columns]; returns the variance of the scaled target.

    >>> from cloche.sparse import SAE, SyntheticFeatures
    >>> from cloche.sparse.saes import fit_input
    >>> activations, _ = SyntheticFeatures(width=8, features=12, active=2).sample(1_024)
    >>> sae = SAE(8, 12, l0=2)
    >>> variance = fit_input(sae, 5 * activations)
    >>> read, target = sae.parts(5 * activations)
    >>> round(float(read.square().mean()), 3), round(variance / float(read.var(0, correction=0).sum()), 3)
    (1.0, 1.0)
    """
    reads = sae.encoder.shape[1]
    sae.scale.copy_(_unit_scale(sample[:, :reads], sae.wiring.reads))
    if sae.wiring.writes is not None:
        sae.write_scale.copy_(_unit_scale(sample[:, reads:], sae.wiring.writes))
    read, target = sae.parts(sample)
    variance = (target - target.mean(0)).square().sum(1).mean()
    if not variance > 1e-12 * target.shape[1]:
        raise NotSolved("All activations are equal, so there is nothing to explain: harvest from more varied tokens.")
    sae.decoder_bias.copy_(geometric_median(target))
    if sae.wiring.writes is not None:
        sae.read_centre.copy_(geometric_median(read))
    _start(sae, read, target)
    return float(variance)


def _start(sae: SAE, read: Tensor, target: Tensor) -> None:
    """Turns the random atoms towards evenly spaced signals of the sample, near which features are likely."""
    rows = torch.arange(sae.features, device=target.device) * max(1, len(target) // sae.features) % len(target)
    for atoms, signals in ((sae.encoder, read[rows] - sae.centre), (sae.decoder, target[rows] - sae.decoder_bias)):
        atoms.copy_(F.normalize(_SIGNAL * F.normalize(signals, dim=1) + (1 - _SIGNAL) * atoms, dim=1))


def _unit_scale(columns: Tensor, widths: tuple[int, ...]) -> Tensor:
    """[] or [columns]: factors that bring each site to a mean square of one."""
    each = [1 / site.square().mean().sqrt().clamp_min(1e-30) for site in columns.split(widths, dim=1)]
    return each[0] if len(each) == 1 else torch.cat([s.expand(w) for s, w in zip(each, widths, strict=True)])


def geometric_median(x: Tensor, steps: int = 50) -> Tensor:
    """[d] the point with the least summed distance to `x` [n, d], by Weiszfeld's iteration; robust to outliers.

    >>> import torch
    >>> from cloche.sparse import geometric_median
    >>> x = torch.cat([torch.zeros(99, 2), torch.full((1, 2), 1e6)])
    >>> x.mean(0).tolist(), geometric_median(x).norm() < 0.1
    ([10000.0, 10000.0], tensor(True))
    """
    point = x.mean(0)
    for _ in range(steps):
        weight = 1 / (x - point).norm(dim=1).clamp_min(1e-6)
        moved = (weight[:, None] * x).sum(0) / weight.sum()
        if torch.dist(moved, point) <= 1e-5 * (1e-12 + point.norm()):
            return moved
        point = moved
    return point
