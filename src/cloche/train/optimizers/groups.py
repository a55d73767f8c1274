"""Groups of parameters: as a network declares them, and with settings of their own."""

from __future__ import annotations

import difflib
import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch

from cloche.errors import PartInvalid
from cloche.part import Part, within

if TYPE_CHECKING:
    from torch import Tensor, nn

NEAREST = 3  # parameter names in an error
BELOW_ONE = 1 - 2**-24


@dataclass(frozen=True)
class Group(Part):
    """Settings of their own for the parameters that `match` names; None keeps the optimiser's.

    match: a declared group ("matrix", "embedding" or "vector"), or a glob pattern (`*`, `?`, `[0-3]`; case counts) of one or
    more whole dotted parts of a parameter's name: "embed" matches embed.weight and not unembed.weight, "layers.0" all of the
    first layer, "*.bias" every bias. lr: the peak rate in place of the optimiser's, 0 to leave the weights as they are; or
    scale: the optimiser's rate times this. The schedule multiplies both, and
    so does an initialisation whose rates depend on the width (`MuP`). momentum, beta1, beta2: where the optimiser has
    them. Each is logged as lr_<match>.

    >>> import torch
    >>> from cloche.errors import ClocheError
    >>> from cloche.train import AdamW, Group, Stepper
    >>> net = torch.nn.ModuleDict({"embed": torch.nn.Linear(4, 2), "out": torch.nn.Linear(2, 4)})
    >>> part = AdamW(lr=0.001, groups=(Group("embed", lr=0.01, weight_decay=0.0), Group("*.bias", scale=2.0)))
    >>> try:
    ...     Stepper(net, part)
    ... except ClocheError as error:
    ...     print(error)
    [optimizer.groups] Group(match='embed') and Group(match='*.bias') both match embed.bias; ...change one of the patterns.
    >>> Stepper(net, AdamW(lr=0.001, groups=(Group("embed", lr=0.01), Group("out.bias", scale=2.0)))).set_rate(0.5)
    {'matrix': 0.0005, 'embed_rest': 0.005, 'out_bias': 0.001, 'embed_matrix': 0.005}
    """

    match: str
    lr: float | None = None
    scale: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None

    def __post_init__(self) -> None:
        within(self, lr=(0, 1000), scale=(0, 1000), weight_decay=(0, 1000))
        within(self, momentum=(0, BELOW_ONE), beta1=(0, BELOW_ONE), beta2=(0, BELOW_ONE))
        if not self.settings():
            raise PartInvalid(f"Group(match={self.match!r}) changes nothing; give it lr, scale or weight_decay.")
        if self.lr is not None and self.scale is not None:
            raise PartInvalid(f"Group(match={self.match!r}) has both lr and scale; leave one of them out.")

    def settings(self) -> dict[str, float]:
        """What it sets."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "match"}
        return {name: value for name, value in values.items() if value is not None}

    def matches(self, name: str, kind: str) -> bool:
        """Whether a parameter of this name and declared group belongs to it."""
        return self.match == kind or any(fnmatchcase(run, self.match) for run in _runs(name))

    def applied(self, group: dict[str, Any]) -> set[str]:
        """Changes a torch optimiser's group; returns the settings that it has."""
        found = set()
        for name, value in self.settings().items():
            if name == "scale":
                group["lr"] *= value
            elif name in group:
                group[name] = value
            elif name in ("beta1", "beta2") and "betas" in group:
                betas = list(group["betas"])
                betas[name == "beta2"] = value
                group["betas"] = tuple(betas)
            else:
                continue
            found.add(name)
        return found


def _runs(name: str) -> list[str]:
    """Every run of whole dotted parts of a name."""
    parts = name.split(".")
    return [".".join(parts[i:j]) for i, j in itertools.combinations(range(len(parts) + 1), 2)]


def grouped(net: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Parameters by group, "matrix", "embedding" or "vector": as a Network declares them, else by number of
    dimensions."""
    if hasattr(net, "groups"):
        return net.groups()  # type: ignore[operator]
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {"matrix": [], "embedding": [], "vector": []}
    for name, parameter in net.named_parameters():
        groups["matrix" if parameter.ndim == 2 else "vector"].append((name, parameter))
    return groups


def row_counts(net: nn.Module, named: Sequence[tuple[str, nn.Parameter]]) -> dict[Tensor, list[int]]:
    """Rows of the matrices that share a parameter, as a Network declares them: q, k and v, gate and up."""
    declared = net.declarations() if hasattr(net, "declarations") else {}  # type: ignore[operator]
    counts = {p: list(declared[name].blocks.values()) for name, p in named if name in declared}
    return {p: rows for p, rows in counts.items() if rows}


def checked_rows(optimizer: torch.optim.Optimizer, blocks: Mapping[Tensor, Sequence[int]]) -> dict[Tensor, list[int]]:
    """Row counts of the matrices in each of an optimiser's parameters. Raises ValueError for what is no stack of them."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    rows = {p: list(blocks.get(p, p.shape[:1])) for p in held}
    for p, counts in rows.items():
        if p.ndim != 2 or sum(counts) != len(p):
            raise ValueError(f"a parameter of shape {tuple(p.shape)} is not a stack of matrices of {counts} rows")
    return rows


def assigned(groups: Sequence[Group], net: nn.Module) -> dict[Tensor, Group]:
    """The group of each parameter that is in one. Raises PartInvalid for a group without parameters, and for a parameter
    that two groups match."""
    owner: dict[Tensor, tuple[str, Group]] = {}
    named = [(name, p, kind) for kind, held in grouped(net).items() for name, p in held] if groups else []
    for group in groups:
        inside = [(name, p) for name, p, kind in named if group.matches(name, kind)]
        if not inside:
            near = _nearest(group.match, [name for name, _, _ in named])
            raise PartInvalid(
                f"[optimizer.groups] Group(match={group.match!r}) matches no parameter; the nearest are {', '.join(near)}: "
                "write whole dotted parts of a name, * for the rest, or a declared group (matrix, embedding, vector)."
            )
        for name, p in inside:
            if p in owner:
                raise PartInvalid(
                    f"[optimizer.groups] Group(match={owner[p][1].match!r}) and Group(match={group.match!r}) both match "
                    f"{name}; "
                    "a parameter takes its settings from one group, so change one of the patterns."
                )
            owner[p] = name, group
    return {p: group for p, (_, group) in owner.items()}


def _nearest(match: str, names: list[str]) -> list[str]:
    """The parameter names with a part most similar to a pattern; of those that differ in numbers only, the first."""
    alike: dict[str, str] = {}
    for name in names:
        alike.setdefault(re.sub(r"\d+", "0", name), name)

    def similarity(name: str) -> float:
        return max(difflib.SequenceMatcher(None, match[:100], run).ratio() for run in _runs(name))

    return sorted(alike.values(), key=similarity, reverse=True)[:NEAREST]


def split(built: list[torch.optim.Optimizer], groups: Sequence[Group], net: nn.Module, label: str) -> None:
    """Splits the torch optimisers' groups so that each `Group` has its settings. Raises PartInvalid for a setting that no
    part of the optimiser `label` has there."""
    owner = assigned(groups, net)
    found: dict[Group, set[str]] = defaultdict(set)
    apart: dict[Group, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    taken: set[str] = set()
    for part in built if groups else ():
        kept, made = [], []
        for whole in part.param_groups:
            inside: dict[Group, list[Tensor]] = defaultdict(list)
            for p in whole["params"]:
                if p in owner:
                    inside[owner[p]].append(p)
            whole.pop("param_names", None)
            for group, params in inside.items():
                copy = {**whole, "params": params}
                found[group] |= group.applied(copy)
                apart[group].append((str(whole["name"]), copy))
                made.append(copy)
            whole["params"] = [p for p in whole["params"] if p not in owner]
            kept += [whole] if whole["params"] else []
        part.param_groups[:] = kept + made
        taken |= {str(group["name"]) for group in kept}
    for group in groups:
        if missing := sorted(group.settings().keys() - found[group]):
            raise PartInvalid(
                f"[optimizer.groups] Group(match={group.match!r}) sets {' and '.join(missing)}, which {label} does not have "
                "for these parameters; leave it out."
            )
    _name(apart, taken)


def _name(apart: dict[Group, list[tuple[str, dict[str, Any]]]], taken: set[str]) -> None:
    """Names each new group for its pattern, and for the group that it is a part of where there are several."""
    for group, copies in apart.items():
        short = re.sub(r"\W+", "_", group.match).strip("_") or "group"
        for before, copy in copies:
            wanted = short if len(copies) == 1 else f"{short}_{before}"
            free = (f"{wanted}{f'_{n}' if n else ''}" for n in itertools.chain([0], itertools.count(2)))
            copy["name"] = next(name for name in free if name not in taken)
            taken.add(copy["name"])


def scale_rates(built: list[torch.optim.Optimizer], factors: Mapping[Tensor, float]) -> None:
    """Multiplies the rate of each parameter by its factor, 1 if it has none; a group with several factors is split, and
    named for them. A decoupled decay is divided by it, so that rate times decay is what it was (2405.13698); one in the
    gradient is part of the loss, and stays."""
    for part in built if factors else ():
        made = []
        for whole in part.param_groups:
            inside: dict[float, list[Tensor]] = defaultdict(list)
            for p in whole["params"]:
                inside[factors.get(p, 1.0)].append(p)
            whole.pop("param_names", None)
            for factor, params in inside.items():
                name = str(whole["name"]) + (f"_x{factor:.3g}" if len(inside) > 1 and factor != 1 else "")
                scaled = {**whole, "params": params, "lr": whole["lr"] * factor, "name": name}
                if "weight_decay" in scaled and not coupled_decay(part, scaled):
                    scaled["weight_decay"] /= factor
                made.append(scaled)
        part.param_groups[:] = made


def coupled_decay(part: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    """Whether an optimiser of torch's, or one that says so in its group, adds its decay to the gradient, as L2 in the loss
    does."""
    if group.get("weight_decouple") is False:
        return True
    coupled = torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta
    return isinstance(part, coupled) and not group.get("decoupled_weight_decay", False)
