"""Optimisers of a library by their names, such as pytorch_optimizer's Lion."""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from cloche.errors import ClocheError, PartInvalid, PartUnknown, shown
from cloche.missing import extra
from cloche.part import within
from cloche.part_text import NAME, nearest
from cloche.train.optimizers.adamw import decayed
from cloche.train.optimizers.optimizer import Optimizer

# Modules that are imported when training begins, though only a recipe names them: torch's, and the one that the extra
# installs, which are as trusted as this package. Any other must have been imported by a person: --import.
KNOWN = ("torch.optim", "pytorch_optimizer")
TRIAL_STEPS = 6
OWN = ("params", "lr", "weight_decay")

_tried: set[tuple[str, str, float]] = set()  # what has passed its trial in this process, or is in it


@dataclass(frozen=True)
class Library(Optimizer):
    """An optimiser class of a library: torch.optim's, pytorch_optimizer's (`pip install 'cloche[optimizers]'`), or one of a
    module that was imported with --import.

    name: the module and the class. settings: its other arguments as they are written in a call. Weight decay applies to
    matrices only; whether it is decoupled is up to the class. Before training, a trial on a few small matrices checks that the
    class steps without a closure, that its state can be saved, and that a resumed run continues bit for bit; a class that
    fails is refused, and so is a setting that its signature does not name, which many classes would silently ignore.

    >>> import torch
    >>> from cloche.train import Library, Stepper
    >>> part = Library("torch.optim:Adamax", "betas=(0.8, 0.9)", lr=0.01)
    >>> Stepper(torch.nn.Linear(4, 2), part).set_rate(0.5)
    {'rest': 0.005, 'matrix': 0.005}
    >>> print(part)
    Library(lr=0.01, name='torch.optim:Adamax', settings='betas=(0.8, 0.9)')
    """

    usual_update_ratio: ClassVar[float] = 0.03
    carries_groups: ClassVar[bool] = True

    name: str
    settings: str = ""
    lr: float = field(default=1e-3, kw_only=True)
    weight_decay: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, lr=(0, 1000), weight_decay=(0, 1000))
        match = NAME.fullmatch(self.name) if isinstance(self.name, str) else None
        if match is None or match[1] is None:
            raise PartInvalid(
                f"Library(name={shown(self.name)}) must name a module and a class, such as 'pytorch_optimizer:Lion'."
            )
        self._options()

    @property
    def label(self) -> str:
        return f"Library({self.name})"

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        cls, options = self._class(), self._options()
        self._check(cls, options)
        trial = (self.name, self.settings, self.weight_decay)
        if trial not in _tried:
            _tried.add(trial)
            try:
                self._try()
            except ClocheError:
                _tried.discard(trial)
                raise
        return [cls(decayed(net, self.lr, self.weight_decay), lr=self.lr, **options)]

    def _options(self) -> dict[str, Any]:
        """`settings` by name; nothing in them is executed."""
        try:
            call = ast.parse(f"_({self.settings})", mode="eval").body
            if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
                raise ValueError
            return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            raise PartInvalid(
                f"Library(settings={shown(self.settings)}) must be names and values as in a call, such as "
                "'betas=(0.9, 0.99), nesterov=True'."
            ) from None

    def _class(self) -> Any:
        module, _, name = self.name.partition(":")
        if module in KNOWN:
            held = extra(module, "optimizers", f"Library({self.name!r}) needs pytorch_optimizer")
        elif module in sys.modules:
            held = sys.modules[module]
        else:
            raise PartUnknown(
                f"Library names {self.name}, and the module {module} is not imported; if you trust it, add --import {module} "
                f"(in Python: import {module}), or name a class of {' or '.join(KNOWN)}."
            )
        cls = getattr(held, name, None)
        if not _is_optimizer(cls):
            known = [key for key, value in vars(held).items() if _is_optimizer(value)]
            raise PartUnknown(f"Library names {self.name}, which is no torch optimiser{nearest(name, known)}")
        return cls

    def _check(self, cls: Any, options: dict[str, Any]) -> None:
        """Raises PartInvalid for settings that the class does not have."""
        known = set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs", "args"}
        for name in [*options, *(["weight_decay"] if self.weight_decay else [])]:
            if name not in known:
                raise PartInvalid(f"Library: {self.name} has no setting {name!r}{nearest(name, known - set(OWN))}")
            if name in OWN and name in options:
                raise PartInvalid(f"Library: give {name} as a field of its own, not in settings.")

    def _try(self) -> None:
        """Raises PartInvalid unless it trains, and continues bit for bit when it is resumed."""
        try:
            with torch.random.fork_rng(devices=[]):
                straight, broken = self._trained(), self._trained(TRIAL_STEPS // 2)
        except ClocheError:
            raise
        except Exception as error:  # of somebody else's code, which may raise anything
            what = " ".join(str(error).split())[:200].rstrip(".")
            raise PartInvalid(
                f"Library: {self.name} cannot be used here: in a trial it raised {type(error).__name__} ({what})."
            ) from error
        if not all(torch.equal(a, b) for a, b in zip(straight, broken, strict=True)):
            raise PartInvalid(
                f"Library: {self.name} cannot be resumed exactly: it keeps something outside its state and its groups, so a "
                "trial that was interrupted and resumed ended with other weights; use another class."
            )

    def _trained(self, restored_after: int = 0) -> list[torch.Tensor]:
        """Weights after a few steps on random gradients, in a new optimiser from `restored_after` on."""
        from cloche.train.optimizers.stepper import Stepper  # which imports the base

        generator = torch.Generator().manual_seed(0)
        net = nn.ModuleDict({name: nn.Linear(4, rows) for name, rows in (("first", 3), ("second", 6))})
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        part = type(self)(self.name, self.settings, lr=self.lr, weight_decay=self.weight_decay)
        stepper = Stepper(net, part)
        for step in range(TRIAL_STEPS):
            if step == restored_after > 0:
                saved = {name: value.clone() for name, value in stepper.state().items()}
                stepper = Stepper(net, part)
                stepper.restore(saved)
            for p in net.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            torch.manual_seed(step)
            stepper.step()
        return [p.detach() for p in net.parameters()]


def _is_optimizer(cls: Any) -> bool:
    return inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
