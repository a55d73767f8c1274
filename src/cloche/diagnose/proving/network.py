"""Remedies of the network: norms, branches, attention scores, initial weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from cloche.diagnose.proving.remedy import Remedy, rebuild_optimizer
from cloche.model import Network, RMSNorm
from cloche.train import TokenBatch, Trainer

LARGER = 1.5  # times what is nominal: too large
BRANCHES = ("mix", "map")


class _Place(NamedTuple):
    """Where a norm could be and is not."""

    parent: nn.Module
    name: str

    @property
    def module(self) -> nn.Module:
        return getattr(self.parent, self.name)


@dataclass(frozen=True)
class WithNorm(Remedy):
    """An RMSNorm wherever a branch or the head reads a stream that nothing normalises. Its gain is the root mean square of
    what it normalises, so that the network's function is nearly the same at the checkpoint; how far the logits moved is said.

    >>> from cloche.diagnose import WithNorm
    >>> WithNorm().phrase
    'with the missing norms'
    """

    @property
    def phrase(self) -> str:
        return "with the missing norms"

    def applies(self, trainer: Trainer) -> bool:
        return bool(_without_norm(trainer.net))

    def apply(self, trainer: Trainer) -> str:
        net, places = trainer.net, _without_norm(trainer.net)
        ids = coming(trainer)[:, :-1]
        with _kept([place.module for place in places]) as inputs, torch.no_grad(), trainer.autocast():
            before = net(ids)
        for place in places:
            (read,) = inputs[place.module]
            norm = RMSNorm().build(read.shape[-1], rms(read)).to(read.device)
            nn.init.constant_(norm.weight, rms(read))  # type: ignore[arg-type]
            setattr(place.parent, place.name, norm)
        rebuild_optimizer(trainer)
        with torch.no_grad(), trainer.autocast():
            moved = rms(net(ids) - before) / (before.float().std().item() or 1.0)
        return f"putting {len(places)} norms in moved the logits by {moved:.1%} of their spread"


@dataclass(frozen=True)
class NominalInitialisation(Remedy):
    """From step 0, with the weights that the seed gives under `FanIn`, where those of the recipe are larger.

    >>> from cloche.diagnose import NominalInitialisation
    >>> NominalInitialisation().phrase
    'from nominal initial weights'
    """

    from_start: ClassVar[bool] = True

    @property
    def phrase(self) -> str:
        return "from nominal initial weights"

    def applies(self, trainer: Trainer) -> bool:
        if trainer.step > 0 or trainer.run.info.get("parent"):
            return False
        nominal = dict(self._nominal(trainer).named_parameters())
        return any(rms(p) > LARGER * rms(nominal[name]) > 0 for name, p in trainer.net.named_parameters())

    def apply(self, trainer: Trainer) -> str:
        trainer.net.load_state_dict(self._nominal(trainer).state_dict())
        return ""

    def _nominal(self, trainer: Trainer) -> Network:
        return trainer.recipe.model.build(trainer.recipe.run.seed)


@dataclass(frozen=True)
class SmallerBranches(Remedy):
    """The output of every residual branch divided by what it is too large by: the ratio of its size at initialisation to that
    at which all branches together add as much as the embeddings.

    >>> from cloche.diagnose import SmallerBranches
    >>> SmallerBranches().phrase
    'with residual branches of nominal size'
    """

    @property
    def phrase(self) -> str:
        return "with residual branches of nominal size"

    def applies(self, trainer: Trainer) -> bool:
        return max(_branch_sizes(trainer), default=0.0) > LARGER

    def apply(self, trainer: Trainer) -> str:
        factor = 1 / max(_branch_sizes(trainer))

        def scaled(module: nn.Module, given: Any, out: Any) -> Any:
            return (factor * out[0], *out[1:]) if isinstance(out, tuple) else factor * out

        for module in _branches(trainer.net):
            module.register_forward_hook(scaled)
        return f"branches are {factor:.2g} times as large"


@dataclass(frozen=True)
class SmallerScores(Remedy):
    """Attention scores q k^T scaled by the root of the head's size, where they are scaled by more.

    >>> from cloche.diagnose import SmallerScores
    >>> SmallerScores().phrase
    'with attention scores of nominal scale'
    """

    @property
    def phrase(self) -> str:
        return "with attention scores of nominal scale"

    def applies(self, trainer: Trainer) -> bool:
        return any(self._scaled(trainer.net))

    def apply(self, trainer: Trainer) -> str:
        for mix in self._scaled(trainer.net):
            mix.scale = None
        return ""

    def _scaled(self, net: Network) -> list[Any]:
        mixers = [block.mix for block in net.layers]
        return [mix for mix in mixers if (getattr(mix, "scale", None) or 0.0) > LARGER * mix.size**-0.5]


def coming(trainer: Trainer) -> TokenBatch:
    """The next batch of a trainer, whose cursor does not move."""
    state = trainer.source.state()
    batch = TokenBatch.of(trainer.source.next())
    trainer.source.restore(state)
    return batch


def rms(x: Tensor) -> float:
    """The root mean square of all values."""
    return x.detach().float().square().mean().sqrt().item()


def _without_norm(net: Network) -> list[_Place]:
    """Where a branch without a norm of its output, or the head, reads the stream itself."""
    blocks = {id(block): block for block in net.layers}.values()
    places = [
        _Place(block, f"{name}_norm")
        for block in blocks
        for name in BRANCHES
        if hasattr(block, f"{name}_norm") and getattr(block, f"{name}_post", None) is None
    ]
    return [place for place in [*places, _Place(net, "final_norm")] if _is_identity(place.module, net.spec.width)]


def _is_identity(module: nn.Module, width: int) -> bool:
    if next(module.parameters(), None) is not None:
        return False
    x = torch.linspace(-2, 3, width)[None, None]
    return torch.equal(module(x), x)


@contextmanager
def _kept(modules: list[nn.Module]) -> Iterator[dict[nn.Module, tuple[Tensor, ...]]]:
    """The inputs of modules in the passes inside the block."""
    found: dict[nn.Module, tuple[Tensor, ...]] = {}

    def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        found[module] = given

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _branches(net: Network) -> list[nn.Module]:
    """What the output of each branch comes from: its last norm, or its mixer or map."""
    blocks = {id(block): block for block in net.layers}.values()
    found = []
    for block in blocks:
        for name in BRANCHES:
            post, module = getattr(block, f"{name}_post", None), getattr(block, name, None)
            found += [each for each in [post or module] if each is not None]
    return found


def _branch_sizes(trainer: Trainer) -> list[float]:
    """The root mean square of each branch's output at initialisation, in multiples of what is nominal."""
    recipe = trainer.recipe
    if trainer.run.info.get("parent"):
        return []
    net = recipe.model.build(recipe.run.seed, recipe.initialisation).to(trainer.setup.device)
    nominal, found = net.spec.stream_std * (len(BRANCHES) * len(net.layers)) ** -0.5, list[float]()

    def keep(module: nn.Module, given: Any, out: Any) -> None:
        found.append(rms(out[0] if isinstance(out, tuple) else out) / nominal)

    for module in _branches(net):
        module.register_forward_hook(keep)
    with torch.no_grad():
        net(coming(trainer)[:, :-1])
    return found
