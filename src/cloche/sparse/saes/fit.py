"""The step that trains an autoencoder of any kind and wiring, and all that is needed to go on with it later."""

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
from cloche.sparse.saes.kinds import Memory
from cloche.sparse.saes.module import SAE

Record = dict[str, float]
_GAIN = 0.02  # how fast the penalty's weight follows the number of active features, a step
_BETAS = 0.5, 0.95  # a feature that is seldom active must not be slowed by what its gradient was long ago
_SIGNAL = 0.7  # of an atom at its start; the rest is random, so that copies of a signal part
_ABOVE = 1.03  # times l0 are wanted while training: the calibration can silence features, seldom wake them


@dataclass(frozen=True)
class Training:
    """How an autoencoder is trained.

    `lr` None means 2 / sqrt(steps * width). Adam moves an atom of norm one by about lr * sqrt(width) a step, so a walk of all
    steps in random directions could take it anywhere on the sphere. Runs of 10^5 steps get the 1e-4 that published ones use,
    short ones learn faster. `dead_after` None means 10M signals or a 32nd of the run, whichever is smaller. `warmup`
    is in steps, at most a twentieth of the run; `aux_k` None means half the width (Gao et al. 2024, 2406.04093, as `clip` and
    `aux_weight` are). With `save_to`, the state goes to that file every `save_every` steps, and a training that finds it there
    goes on from it.
    """

    steps: int = 16_000
    batch: int = 512
    lr: float | None = None
    warmup: int = 1_000
    clip: float = 1.0
    aux_weight: float = 1 / 32
    aux_k: int | None = None
    dead_after: int | None = None
    save_to: Path | None = None
    save_every: int = 500

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch, self.save_every, self.aux_k or 1, self.dead_after or 1)
        if min(counts) < 1 or self.aux_k == 0 or self.dead_after == 0:
            raise SettingRange(f"{self} counts steps or signals below 1: raise what is too small.")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise SettingRange(
                f"A learning rate of {self.lr} trains nothing: give a number above 0, or None for its own."
            )

    def rate(self, width: int, done: int) -> float:
        """The learning rate after `done` steps: linear warm-up, then constant, then linear to zero over the last half."""
        top = self.lr if self.lr is not None else 2 / math.sqrt(self.steps * width)
        rise = (done + 1) / max(1, min(self.warmup, self.steps // 20))
        fall = (self.steps - done) / max(1, self.steps // 2)
        return top * min(1.0, rise, fall)

    @property
    def patience(self) -> int:
        """How many signals a feature may stay silent before it counts as dead."""
        return self.dead_after or max(self.batch, min(10_000_000, self.steps * self.batch // 32))


DEFAULT = Training()


class Fit:
    """The state of one training: optimiser, schedule, the penalty's weight, and how long each feature has been silent.

    `variance` is that of what is reconstructed, at the trained scale (`fit_input`). Where `torch.distributed` is initialised,
    all processes give `step` the same batches, share each and stay equal.
    """

    def __init__(self, sae: SAE, training: Training, variance: float) -> None:
        self.sae, self.training, self.variance = sae, training, variance
        self.ends = [*sae.kind.nested, sae.features]
        self.parameters = [p for p in sae.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1.0, betas=_BETAS, fused=True)  # `step` sets the rate
        self.silent = torch.zeros(
            sae.features, dtype=torch.int64, device=sae.decoder.device
        )  # signals since last active
        self.memory, self.ranks = Memory(), Ranks()
        self.weight = 1e-3 / sae.l0  # of the penalty
        self.done = self.signals = 0

    def step(self, x: Tensor, downstream: Callable[[Tensor], Tensor] | None = None) -> Record:
        """One update on raw training rows `x` [batch, columns]; returns what happened.

        `downstream` takes the raw reconstruction [batch, width] to a loss that stands in for the unexplained variance:
        end-to-end training, where what the model makes of the reconstruction counts (Braun et al. 2024, 2405.12241).
        """
        sae, ranks = self.sae, self.ranks
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.rate(sae.width, self.done)
        scaled, target = sae.parts(ranks.share(x))
        chosen, answer = sae.answer(scaled, self.memory, ranks.gather, ranks.world)
        base = sae.base(scaled)
        reconstructions = self._nested(base, chosen, answer.values)
        fvu = torch.stack([(target - r).square().sum(1).mean() for r in reconstructions]) / self.variance
        loss = fvu.mean()
        if downstream is not None:
            loss = torch.stack([downstream(r / sae.out_scale) for r in reconstructions]).mean()
        if answer.penalty is not None:
            loss = loss + self.weight * answer.penalty / len(scaled)
        if answer.rough is not None:  # trains the gate alone: the atoms are given
            rough = base.detach() + chosen.decode(answer.rough, sae.decoder.detach())
            loss = loss + (target - rough).square().sum(1).mean() / self.variance
        dead = (self.silent >= self.training.patience).nonzero().squeeze(1)
        if len(dead):
            loss = loss + self.training.aux_weight * self._aux(scaled, (target - reconstructions[-1]).detach(), dead)
        self._update(loss)
        counts = ranks.total(chosen.counts(answer.values.detach()))
        l0 = float(counts.sum()) / len(x)
        self._remember(x, counts, l0, answer.values.numel() / max(1, len(scaled)), answer.penalty is not None)
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
        """Tensors and plain values from which `restore` goes on exactly."""
        tensors = {f"sae.{name}": value for name, value in self.sae.state_dict().items()} | {"silent": self.silent}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{name}": value for name, value in moments.items()}
        plain = {"done": self.done, "signals": self.signals, "weight": self.weight, "variance": self.variance}
        return tensors, plain | {"memory": asdict(self.memory)}

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        prefix = "sae."
        self.sae.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        self.silent = tensors["silent"].to(self.silent.device)
        adam = self.optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, i, moment = name.split(".")
                adam["state"].setdefault(int(i), {})[moment] = tensor
        self.optimizer.load_state_dict(adam)
        self.memory = Memory(**plain["memory"])
        self.done, self.signals = plain["done"], plain["signals"]
        self.weight, self.variance = plain["weight"], plain["variance"]

    def _nested(self, base: Tensor, chosen: Chosen, values: Tensor) -> list[Tensor]:
        """The reconstructions by the leading features, the last by all."""
        reconstructions, start = [], 0
        for end in self.ends:
            base = base + chosen.decode(values, self.sae.decoder, start, end)
            reconstructions.append(base)
            start = end
        return reconstructions

    def _aux(self, scaled: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """What the dead features leave of the error, as a share of it."""
        aux_k = self.training.aux_k or max(1, self.sae.width // 2)
        left = self.sae.explain_error(scaled, error, dead, aux_k)
        return left / self.ranks.mean(error.square().mean()).clamp_min(1e-12)

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in self.parameters:
            if self.ranks.world > 1:
                if parameter.grad is None:  # nobody here had use for it, but others may
                    parameter.grad = torch.zeros_like(parameter)
                self.ranks.mean(parameter.grad)
        project_gradient(self.sae)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.training.clip)
        self.optimizer.step()
        with torch.no_grad():
            self.sae.decoder.div_(self.sae.decoder.norm(dim=1, keepdim=True).clamp_min(1e-30))  # a row may be zero

    def _remember(self, x: Tensor, counts: Tensor, l0: float, slots: float, penalised: bool) -> None:
        """What the next step must know of this one; moves the penalty's weight towards the wanted l0."""
        self.silent += len(x)
        self.silent[counts > 0] = 0
        self.memory.share = min(slots, l0) / self.sae.features
        self.done += 1
        self.signals += len(x)
        if penalised:
            excess = math.log(max(l0, 1e-3) / (_ABOVE * self.sae.l0))
            self.weight *= math.exp(_GAIN * max(-1.0, min(1.0, excess)))


def project_gradient(sae: SAE) -> None:
    """Drops the part of the decoder's gradient that would only change the norm of its (unit) rows."""
    gradient = sae.decoder.grad
    if gradient is None:
        return
    along = (gradient * sae.decoder.detach()).sum(1, keepdim=True)
    gradient.addcmul_(along, sae.decoder.detach(), value=-1.0)


@torch.no_grad()
def fit_input(sae: SAE, sample: Tensor) -> float:
    """Sets the scales (mean square one per coordinate of each site), the centres and the first atoms from raw training rows
    `sample` [n, columns]; returns the variance of what is reconstructed then."""
    reads = sae.encoder.shape[1]
    sae.scale.copy_(_unit_scale(sample[:, :reads], sae.wiring.reads))
    if sae.wiring.writes is not None:
        sae.write_scale.copy_(_unit_scale(sample[:, reads:], sae.wiring.writes))
    read, target = sae.parts(sample)
    variance = (target - target.mean(0)).square().sum(1).mean()
    if not variance > 1e-12 * target.shape[1]:
        raise NotSolved(
            "All activations are the same, so there is nothing to explain: harvest from more varied tokens."
        )
    sae.decoder_bias.copy_(geometric_median(target))
    if sae.wiring.writes is not None:
        sae.read_centre.copy_(geometric_median(read))
    _start(sae, read, target)
    return float(variance)


def _start(sae: SAE, read: Tensor, target: Tensor) -> None:
    """Turns the random atoms to signals of the sample, evenly taken: where signals lie, their causes are near."""
    rows = torch.arange(sae.features, device=target.device) * max(1, len(target) // sae.features) % len(target)
    for atoms, signals in ((sae.encoder, read[rows] - sae.centre), (sae.decoder, target[rows] - sae.decoder_bias)):
        atoms.copy_(F.normalize(_SIGNAL * F.normalize(signals, dim=1) + (1 - _SIGNAL) * atoms, dim=1))


def _unit_scale(columns: Tensor, widths: tuple[int, ...]) -> Tensor:
    """[] or [columns]: what brings each site to a mean square of one."""
    each = [1 / site.square().mean().sqrt().clamp_min(1e-30) for site in columns.split(widths, dim=1)]
    return each[0] if len(each) == 1 else torch.cat([s.expand(w) for s, w in zip(each, widths, strict=True)])


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
