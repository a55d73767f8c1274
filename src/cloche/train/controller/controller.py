"""The controller: a small network that sees how training goes and turns three knobs of each parameter group."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cloche.errors import FileDamaged, FileMissing, FileUnreadable
from cloche.files import refuse_existing, sha256_of, write_atomically
from cloche.part import part_from_line
from cloche.train.controller.rules import UpdateRule

SEEN = ("trend", "norm", "cosine", "mean_cosine", "progress", "rate")
KNOBS = ("rate", "momentum", "decay")
HIDDEN = 8
SIZE = len(SEEN) * HIDDEN + HIDDEN + HIDDEN * len(KNOBS) + len(KNOBS)  # weights of the network
AVERAGE = 0.9  # of the running averages of what is seen
FASTEST = (0.25, 0.1, 0.1)  # largest log-step of each knob
SLOWEST, FARTHEST = math.log(0.005), 6.0  # of log(1 - momentum); of the rate's logarithm, either way
NO_DECAY = 1e-6  # is taken from the decay that its logarithm says, so that the least decay is zero
DECAYS = (math.log(NO_DECAY), 0.0)  # of the decay's logarithm
FORMAT = "cloche controller 1"

# Slots of a group's state: counts and running averages, the logarithms of the knobs, and their sums for `variation`.
COUNT, LOSS, DROP, SQUARE, NORM, COSINE = range(6)
LOGS, SUMS, SQUARES, SLOTS = slice(6, 9), slice(9, 12), slice(12, 15), 15


class Knobs(NamedTuple):
    """The settings of each group: a factor on the learning rate, the momentum, and the weight decay."""

    factor: Tensor
    momentum: Tensor
    decay: Tensor


class Seen(NamedTuple):
    """What is seen of a step, per group [..., group]: the loss, the gradient's norm and its cosine with the one before."""

    loss: Tensor
    norm: Tensor
    cosine: Tensor


def new_state(shape: tuple[int, ...]) -> Tensor:
    """State of groups that have taken no step: [*shape, slot]."""
    return torch.zeros((*shape, SLOTS))


def observe(state: Tensor, seen: Seen, progress: float) -> tuple[Tensor, Tensor]:
    """The state [..., group, slot] after a step, and what the network sees of it [..., group, feature].

    The trend is the running mean of the changes of the loss over the root of their mean square: between -1 and 1, without
    units. The gradient's norm is the logarithm of its ratio to its running (geometric) mean.
    """
    fresh = state[..., COUNT] == 0
    loss = seen.loss.expand_as(seen.norm)
    norm = seen.norm.clamp(1e-30, 1e30).log()
    change = torch.where(fresh, 0.0, loss - state[..., LOSS])
    drop = torch.lerp(change, state[..., DROP], AVERAGE)
    square = torch.lerp(change.square(), state[..., SQUARE], AVERAGE)
    relative = torch.where(fresh, 0.0, norm - state[..., NORM])
    cosine = torch.lerp(seen.cosine, state[..., COSINE], AVERAGE)
    mean_norm = torch.where(fresh, norm, torch.lerp(norm, state[..., NORM], AVERAGE))
    told = [drop / (square.sqrt() + 1e-30), relative.clamp(-4, 4), seen.cosine, cosine]
    told += [torch.full_like(norm, 2 * progress - 1), state[..., LOGS.start] / 3]
    averages = [state[..., COUNT] + 1, loss, drop, square, mean_norm, cosine]
    return torch.cat([torch.stack(averages, -1), state[..., LOGS.start :]], -1), torch.stack(told, -1)


def log_steps(weights: Tensor, features: Tensor) -> Tensor:
    """The network: weights [..., SIZE] and features [..., group, feature] -> log-steps of the knobs [..., group, knob]."""
    sizes = (len(SEEN) * HIDDEN, HIDDEN, HIDDEN * len(KNOBS), len(KNOBS))
    first, bias, second, last = weights.split(sizes, -1)
    first, second = first.unflatten(-1, (len(SEEN), HIDDEN)), second.unflatten(-1, (HIDDEN, len(KNOBS)))
    hidden = (features @ first + bias[..., None, :]).tanh()
    return (hidden @ second + last[..., None, :]).tanh() * torch.tensor(FASTEST)


def turn(state: Tensor, steps: Tensor, start: Tensor) -> tuple[Tensor, Knobs]:
    """The state after log-steps of the knobs, and the knobs. start: logarithms [..., 2] of 1 - momentum and decay at step 0."""
    return set_logs(state, state[..., LOGS] + steps, start)


def set_logs(state: Tensor, logs: Tensor, start: Tensor) -> tuple[Tensor, Knobs]:
    """The state with these logarithms of the knobs, relative to their start and clipped, and the knobs."""
    rate = logs[..., 0].clamp(-FARTHEST, FARTHEST)
    slack = (start[..., 0] + logs[..., 1]).clamp(SLOWEST, 0.0)
    decay = (start[..., 1] + logs[..., 2]).clamp(*DECAYS)
    logs = torch.stack([rate, slack - start[..., 0], decay - start[..., 1]], -1)
    values = torch.stack([rate, slack, decay], -1).exp() - torch.tensor([0.0, 0.0, NO_DECAY])
    sums, squares = state[..., SUMS] + values, state[..., SQUARES] + values.square()
    state = torch.cat([state[..., : LOGS.start], logs, sums, squares], -1)
    return state, Knobs(values[..., 0], 1 - values[..., 1], values[..., 2])


def variation(state: Tensor) -> Tensor:
    """How much each knob varied so far [..., knob]: standard deviation over mean of the rate's factor, of 1 - momentum,
    and of the weight decay, where a decay below 0.01 counts as 0.01."""
    count = state[..., COUNT, None].clamp(min=1)
    mean = state[..., SUMS] / count
    spread = (state[..., SQUARES] / count - mean.square()).clamp(min=0).sqrt()
    return spread / mean.clamp(min=torch.tensor([1e-30, 1e-30, 0.01]))


@dataclass(frozen=True)
class Controller:
    """A controller's weights and what it was trained for. `save` writes it as safetensors.

    weights: [83]. rule: the update rule that it steers. lr, momentum, weight_decay: where it starts.

    >>> import torch
    >>> from cloche.train.controller import Controller, HeavyBall
    >>> Controller(torch.zeros(83), HeavyBall(), lr=0.1).save("controller.safetensors")
    >>> Controller.load("controller.safetensors").lr
    0.1
    """

    weights: Tensor
    rule: UpdateRule
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-3

    def start(self) -> Tensor:
        """The logarithms [2] of 1 - momentum and weight decay at the first step."""
        return torch.tensor([math.log(1 - self.momentum), math.log(self.weight_decay + NO_DECAY)])

    def save(self, path: Path | str, replace: bool = False) -> None:
        """Writes a file that `load` reads."""
        path = Path(path)
        if not replace:
            refuse_existing(path, "name another file.")
        told = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        facts = {"format": FORMAT, "rule": self.rule.to_line(), "start": json.dumps(told)}
        write_atomically(path, save({"weights": self.weights.float().contiguous()}, facts))

    @classmethod
    def load(cls, path: Path | str, sha256: str = "") -> Controller:
        """Reads a controller. Raises ClocheError if there is none at `path`, if its sha256 is not the given one, or if it is
        damaged."""
        path = Path(path)
        if not path.is_file():
            raise FileMissing(f"There is no controller at {path}; name a .safetensors file that Controller.save wrote.")
        try:
            if sha256 and (found := sha256_of(path)) != sha256:
                raise FileDamaged(f"{path} has the sha256 {found}, not {sha256}; restore it, or give its own sha256.")
            with safe_open(path, framework="pt") as file:
                facts, weights = file.metadata() or {}, file.get_tensor("weights").float()
            start = json.loads(facts["start"])
            rule = part_from_line(facts["rule"], UpdateRule, f"{path}: rule")
            made = cls(weights, rule, float(start["lr"]), float(start["momentum"]), float(start["weight_decay"]))
        except OSError as error:
            raise FileUnreadable(f"{path} cannot be read ({error.strerror}); make it readable.") from error
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, str(error)) from error
        if facts.get("format") != FORMAT or weights.shape != (SIZE,) or not torch.isfinite(weights).all():
            raise _damaged(path, f"its weights must be {SIZE} finite numbers, in the format {FORMAT!r}")
        if not (made.lr > 0 and 0 <= made.momentum < 1 and 0 <= made.weight_decay <= 1):
            raise _damaged(path, "its starting knobs are out of range")
        return made


def _damaged(path: Path, why: str) -> FileDamaged:
    return FileDamaged(
        f"{path} is not a controller ({' '.join(why.split())[:200]}); name a file that Controller.save wrote."
    )
