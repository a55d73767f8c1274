"""What a remedy is: one change of a run that may keep it from breaking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from cloche.part import Part
from cloche.train import Optimizer, Stepper, Trainer


@dataclass(frozen=True)
class Remedy(Part):
    """Base of remedies: one change with which the steps of a run are trained again, from the same checkpoint, on the same
    batches and with the same random state.

    A subclass defines `apply(trainer)`, which changes a trainer that was put back to a checkpoint and returns what there is
    to say of it ("" if nothing), and may define `applies(trainer)`, without which it is always tried. `phrase` completes "it
    diverges ...". from_start: whether it only makes sense from step 0.

    >>> from dataclasses import dataclass
    >>> from cloche.diagnose import Remedy
    >>> @dataclass(frozen=True)
    ... class Clipped(Remedy):
    ...     norm: float = 0.1
    ...     phrase = "with gradients clipped"
    ...     def apply(self, trainer):
    ...         trainer.optimizer.clip = self.norm
    ...         return ""
    >>> Clipped().phrase
    'with gradients clipped'
    """

    from_start: ClassVar[bool] = False

    @property
    def phrase(self) -> str:
        """How a sentence names the change: "at half the rate"."""
        return f"with {self}"

    def applies(self, trainer: Trainer) -> bool:
        """Whether there is something to change in this run."""
        return True

    def apply(self, trainer: Trainer) -> str:
        """Changes a trainer that stands at a checkpoint."""
        raise TypeError(f"{type(self).__name__} must define apply(trainer)")


def rebuild_optimizer(trainer: Trainer, part: Optimizer | None = None) -> None:
    """Builds the optimiser again, or another one, for a network that may have new parameters. It goes on with the state that
    it had; that of new parameters begins."""
    old = trainer.optimizer
    trainer.optimizer = trainer.steps_log.optimizer = Stepper(
        trainer.net, part or old.part, trainer.setup.dtype, old.factors
    )
    trainer.optimizer.restore(old.state())
    for built in trainer.optimizer.parts:
        held = [p for group in built.param_groups for p in group["params"]]
        if {key for p in held for key in built.state.get(p, ())} == {"momentum_buffer"}:
            for p in held:  # torch's fused SGD takes momentum of all parameters or of none
                built.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
