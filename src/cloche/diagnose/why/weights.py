"""What the checkpoints of a run say of its weights: how large they were at first, how far each part moved, and in how many
bits they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.model import Network
from cloche.train import parts_of

SAMPLED = 100_000  # entries of a tensor whose bits are looked at
MOVED = 1e-4  # of how far the part that moved most did, relative to its weights: below it a part is frozen


@dataclass(frozen=True)
class Weights:
    """scale: root mean square of the matrices at step 0 over their nominal (fan-in) one, the median of all; branches: the
    median of those that write to the stream, over `scale`. bits: of mantissa that the last weights use, at most 24. still: the
    share of the parts that never moved. grown: by what the norm of the matrices was multiplied between the checkpoints.
    """

    scale: float | None = None
    branches: float | None = None
    bits: int | None = None
    still: float | None = None
    grown: float | None = None


def weights_of(first: Network | None, last: Network | None) -> Weights:
    """first: the network at step 0, None where there is no checkpoint of it. last: at the last good checkpoint."""
    scale = branches = None
    if first is not None:
        ratios = scales(first)
        inner = [ratio for name, ratio in ratios.items() if not _writes(first, name)]
        outer = [ratio for name, ratio in ratios.items() if _writes(first, name)]
        scale = float(np.median(inner or outer)) if ratios else None
        branches = float(np.median(outer)) / scale if outer and scale else None
    bits = None if last is None else bits_of({n: p for n, p in last.state_dict().items() if p.ndim > 1})
    if first is None or last is None or first is last:
        return Weights(scale, branches, bits)
    moved = list(movements(first, last).values())
    still = sum(by <= MOVED * max(moved) for by in moved) / len(moved) if moved else None
    before, after = norm(first), norm(last)
    return Weights(scale, branches, bits, still, after / before if before else None)


def scales(net: Network) -> dict[str, float]:
    """Of each matrix the root mean square over the nominal deviation of its declaration."""
    found = {}
    for name, declared in net.declarations().items():
        weight = net.get_parameter(name)
        if declared.std and declared.group == "matrix" and weight.ndim > 1:
            found[name] = float(weight.detach().float().square().mean().sqrt()) / declared.std
    return found


def _writes(net: Network, name: str) -> bool:
    return net.declarations()[name].shard == "columns"


def movements(first: Network, last: Network) -> dict[str, float]:
    """Of each part with matrices the norm of what they changed by over their own. That all entries were multiplied by one
    number, as weight decay does without a gradient, counts as no change."""
    before, after = first.state_dict(), last.state_dict()
    name_of: dict[Tensor, str] = {p: name for name, p in first.named_parameters()}
    found: dict[str, float] = {}
    for part, own in parts_of(first).items():
        names = [name_of[p] for p in own if p.ndim > 1 and p.shape == after[name_of[p]].shape]
        pairs = [(before[name].double(), after[name].double()) for name in names]
        if not pairs:
            continue
        changed = sum((_residue(old, new) for old, new in pairs), 0.0)
        found[part] = (changed / max(1e-30, sum(float(old.square().sum()) for old, _ in pairs))) ** 0.5
    return found


def _residue(old: Tensor, new: Tensor) -> float:
    """The squared norm of what of `new` is no multiple of `old`."""
    size = float(old.square().sum())
    factor = float((old * new).sum()) / size if size else 0.0
    return float((new - factor * old).square().sum())


def norms(net: Network) -> dict[str, float]:
    """Of all weights of each part."""
    return {part: sum(map(_square, own)) ** 0.5 for part, own in parts_of(net).items()}


def _square(p: Tensor) -> float:
    return float(p.detach().double().square().sum())


def norm(net: Network) -> float:
    """Of all matrices."""
    return sum(_square(p) for _, p in net.groups()["matrix"]) ** 0.5


def bits_of(weights: Mapping[str, Tensor]) -> int | None:
    """The bits of mantissa, the hidden one included, that most of the matrices use: 24 for those of float32."""
    found = []
    for value in weights.values():
        x = value.detach().float().reshape(-1)[:SAMPLED]
        mantissa = (x[x != 0].contiguous().view(torch.int32) & 0x7FFFFF).numpy()
        if len(mantissa) < 32:
            continue
        used = [bool(np.count_nonzero(mantissa & ((1 << k) - 1)) > 0.01 * len(mantissa)) for k in range(1, 24)]
        found.append(24 - (used.index(True) if True in used else 23))
    return int(np.median(found)) if found else None
