"""A built optimiser: learning rates that scale together, and state as named tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cloche.errors import PartInvalid, ResumeRefused, shown
from cloche.model import Kept
from cloche.train.optimizers.average import AVERAGE, COUNT, RunningAverage
from cloche.train.optimizers.groups import coupled_decay, scale_rates, split
from cloche.train.optimizers.optimizer import Moves, Observes, Optimizer, Reports

Norms = tuple[list[Tensor], Tensor]  # tensors, and the norm of something of each: [tensor]
NUMBERS = {"bool": bool, "int": int, "float": float}


class Stepper:
    """An `Optimizer` built for a network, as a loop uses it.

    State is saved by parameter name ("blocks.0.mix.qkv.weight/exp_avg"), never by position or as a pickle.

    >>> import torch
    >>> from cloche.train import AdamW, Stepper
    >>> net = torch.nn.Linear(4, 2)
    >>> optimizer = Stepper(net, AdamW(lr=0.01))
    >>> optimizer.set_rate(0.5)
    {'rest': 0.005, 'matrix': 0.005}
    >>> net(torch.ones(1, 4)).sum().backward()
    >>> optimizer.step()
    >>> sorted(optimizer.state())[:3]
    ['bias/exp_avg', 'bias/exp_avg_sq', 'bias/step']
    """

    def __init__(
        self,
        net: nn.Module,
        part: Optimizer,
        dtype: torch.dtype = torch.float32,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        """dtype: of fast matrix products. rates: factors of the peak rates of single parameters, by name (see
        `Initialisation.rates`); their decoupled decay stays as fast as it was."""
        self.part, self.name, self.clip, self.dtype = part, part.label, part.clip, dtype
        self.factors = dict(rates or {})
        self._build(net)

    def _build(self, net: nn.Module) -> None:
        part = self.part
        self.names: dict[Tensor, str] = {p: name for name, p in net.named_parameters()}
        self.parts = part.build(net, self.dtype)
        if not isinstance(self.parts, list) or not all(isinstance(each, torch.optim.Optimizer) for each in self.parts):
            raise PartInvalid(f"{self.name}.build must return a list of torch optimisers, not {shown(self.parts)}.")
        for number, group in enumerate(self._all_groups()):
            group.setdefault("name", str(number))
        self._require_each_once()
        split(self.parts, part.groups, net, self.name)
        scale_rates(self.parts, {p: self.factors[name] for p, name in self.names.items() if name in self.factors})
        self.groups = self._all_groups()
        self._built = [dict(group) for group in self.groups]
        self.peaks = [float(group["lr"]) for group in self.groups]
        self.gradient_norms: Norms = ([], torch.zeros(0))  # of parameters, before the last clipping
        self.update_norms: Norms | None = None  # of parameters in the last update; None if it is not known
        self._moved: dict[Tensor, Tensor] = {}  # sums of squares in the last update
        self.clipped = 1.0  # by what the last gradient was multiplied
        self.average = None if part.average is None else RunningAverage(part.average, self.names)

    def _all_groups(self) -> list[dict[str, Any]]:
        return [group for built in self.parts for group in built.param_groups]

    def _require_each_once(self) -> None:
        held = Counter(id(p) for group in self._all_groups() for p in group["params"])
        odd = [name for p, name in self.names.items() if held.pop(id(p), 0) != 1]
        if odd or held:
            what = odd[0] if odd else "a tensor that is not a parameter of the network"
            raise PartInvalid(
                f"{self.name}.build must put each parameter into exactly one group, and it does not for {what}."
            )

    def set_rate(self, share: float) -> dict[str, float]:
        """Sets every group's learning rate to `share` of its peak; returns the rates by group name."""
        for group, peak in zip(self.groups, self.peaks, strict=True):
            group["lr"] = peak * share
        return {str(group["name"]): float(group["lr"]) for group in self.groups}

    def shrink(self) -> dict[str, float]:
        """By what decoupled weight decay multiplies the weights of each group that has one at its present rate, 1 - lr x
        decay, as "shrink_<group>".

        >>> import torch
        >>> from cloche.train import AdamW, Stepper
        >>> Stepper(torch.nn.Linear(4, 2), AdamW(lr=0.001, weight_decay=0.1)).shrink()
        {'shrink_matrix': 0.9999}
        """
        return {
            f"shrink_{group['name']}": 1 - group["lr"] * group["weight_decay"]
            for part in self.parts
            for group in part.param_groups
            if group.get("weight_decay") and not coupled_decay(part, group)
        }

    def clip_gradient(self) -> float:
        """Scales a gradient whose norm is above `clip` down to that norm; returns the norm that it had. One that is not
        finite is left as it is."""
        found = {p: p.grad for p in self.names if p.grad is not None}
        gradients = list(found.values())
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(0)
        self.gradient_norms = list(found), norms
        norm: float = torch.linalg.vector_norm(norms).item()
        self.clipped = self.clip / norm if self.clip < norm < math.inf else 1.0
        if self.clipped < 1:
            torch._foreach_mul_(gradients, self.clipped)
        return norm

    def step(self, loss: float | None = None, progress: float = 0.0) -> None:
        """One update. loss: that of the gradients, and progress: the share of the run that is done, for optimisers that look
        at them."""
        for part in self.parts:
            if loss is not None and isinstance(part, Observes):
                part.observe(loss, progress, self.clipped)
            part.step()
        if self.tells:
            told = [part.moved() for part in self.parts if isinstance(part, Moves)]
            self._moved = moved = {p: value for each in told for p, value in each.items()}
            self.update_norms = list(moved), torch.stack(list(moved.values())).sqrt() if moved else torch.zeros(0)
        if self.average is not None:
            self.average.update()

    def moved(self) -> dict[Tensor, Tensor] | None:
        """Sum of squares of each parameter's last update, without those that were left as they are ({} before the first); None
        if one of the torch optimisers has no method `moved()` that says so of its own.

        >>> import torch
        >>> from cloche.train import SGD, Stepper
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = Stepper(net, SGD(lr=0.1))
        >>> net(torch.full((1, 1), 3.0)).sum().backward()
        >>> optimizer.step()
        >>> [round(value.item(), 4) for value in optimizer.moved().values()]
        [0.09]
        """
        return self._moved if self.tells else None

    @property
    def tells(self) -> bool:
        """Whether `moved` knows how far the weights moved."""
        return all(isinstance(part, Moves) for part in self.parts)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside the block the network has the average of its weights, if the optimiser keeps one."""
        return nullcontext() if self.average is None else self.average.in_place()

    def rates(self) -> dict[str, float]:
        """Learning rates by group name, as they were used in the last step."""
        return {str(group["name"]): float(group["lr"]) * float(group.get("factor", 1.0)) for group in self.groups}

    def figures(self) -> dict[str, float]:
        """What the optimisers report of the last step, for the log "metrics"."""
        found: dict[str, float] = {}
        for part in self.parts:
            found |= part.figures() if isinstance(part, Reports) else {}
        return found

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """All state tensors, by "parameter name/state name". Numbers, and lists of tensors and numbers, are tensors here:
        "weight/step#int", "weight/Q#0"; where the part `carries_groups`, its groups' are "weight/group.step#int"."""
        found: dict[str, Tensor] = {}
        for p, key, value in (
            (p, *item) for part in self.parts for p, state in part.state.items() for item in state.items()
        ):
            if key in (AVERAGE, COUNT):
                raise PartInvalid(f"{self.name} names its state {key!r}, as the average of the weights is; rename it.")
            if (tensors := packed(str(key), value)) is None:
                raise PartInvalid(
                    f"{self.name} keeps {key!r} of {self.names[p]} as a {type(value).__name__}, and only tensors and numbers "
                    "can be saved; keep it as a tensor."
                )
            found |= {f"{self.names[p]}/{name}": tensor for name, tensor in tensors.items()}
        for group, before in zip(self.groups, self._built, strict=True) if self.part.carries_groups else ():
            for key in group.keys() - {"params", "name", "lr"}:
                value = group[key]
                is_new = isinstance(value, Tensor) or value != before.get(key)
                tensors = (packed(f"group.{key}", value) or {}) if is_new else {}
                found |= {f"{self.names[p]}/{name}": t.clone() for p in group["params"] for name, t in tensors.items()}
        return found if self.average is None else found | self.average.state()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores `state()`. Raises ClocheError if the tensors belong to another network's parameters."""
        if not tensors:  # saved before the first step
            return
        by_name: dict[str, dict[str, Any]] = {}
        for full, value in tensors.items():
            name, _, key = full.rpartition("/")
            if key not in (AVERAGE, COUNT):
                by_name.setdefault(name, {})[key] = value
        mine = set(self.names.values())
        if strange := sorted(set(by_name) - mine):
            raise ResumeRefused(
                f"the optimiser's saved state and this model disagree on {strange[0]!r}; resume with the checkpoint's recipe"
            )
        for part in self.parts:
            for p, group in ((p, held) for held in part.param_groups for p in held["params"]):
                state = unpacked({key: value.to(p.device) for key, value in by_name.get(self.names[p], {}).items()})
                of_group = {key: state.pop(key) for key in list(state) if key.startswith("group.")}
                group.update({key.removeprefix("group."): value for key, value in of_group.items()})
                if state:
                    part.state[p] = state
        if self.average is not None:
            self.average.restore(tensors)

    def resized(self, net: nn.Module, kept: Mapping[str, Kept]) -> list[str]:
        """Goes on after parameters of the network became shorter, which `keep_neurons` says by name.

        State of a parameter's shape loses the same rows or columns. A parameter with state of another shape, such as a
        preconditioner, which may be of one of the matrices stacked in it, begins with new state; returns the names of those.
        """
        state, begun = self.state(), set[str]()
        for full, value in list(state.items()):
            name = full.rpartition("/")[0]
            if name in kept and value.ndim:
                axis, size, indices = kept[name]
                shape = [*net.get_parameter(name).shape]
                shape[axis] = size
                # of a square one nothing says which axis of its state is which
                if full.endswith(f"/{AVERAGE}") or ([*value.shape] == shape and shape.count(size) == 1):
                    state[full] = value.index_select(axis, indices)
                else:
                    begun.add(name)
        kept_whole = (AVERAGE, COUNT)
        state = {
            full: value
            for full, value in state.items()
            if full.rpartition("/")[0] not in begun or full.rpartition("/")[2] in kept_whole
        }
        self._build(net)
        self.restore(state)
        return sorted(begun)


def packed(key: str, value: object) -> dict[str, Tensor] | None:
    """A tensor, a number, or a list of them as tensors by name; None for what is neither."""
    if isinstance(value, Tensor):
        return {key: value.detach().contiguous()}
    if isinstance(value, bool | int | float):
        dtype = torch.float64 if isinstance(value, float) else torch.int64
        return {f"{key}#{type(value).__name__}": torch.tensor(value, dtype=dtype)}
    if not isinstance(value, list | tuple):
        return None
    items = [packed(f"{key}#{i}", item) for i, item in enumerate(value) if not isinstance(item, list | tuple)]
    if len(items) < max(1, len(value)) or None in items:
        return None
    return {name: tensor for item in items if item is not None for name, tensor in item.items()}


def unpacked(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What `packed` made tensors of, by its key."""
    found: dict[str, Any] = {}
    numbered = {name: int(name.split("#")[1]) for name in tensors if name.partition("#")[2][:1].isdigit()}
    for name in sorted(tensors, key=lambda name: (name.split("#")[0], numbered.get(name, 0))):
        key, *marks = name.split("#")
        value: Any = tensors[name]
        if marks and marks[-1] in NUMBERS:
            value = NUMBERS[marks[-1]](value.item())
        if name in numbered:
            found.setdefault(key, []).append(value)
        else:
            found[key] = value
    return found
