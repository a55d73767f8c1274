"""Permutations of one network's units that bring its weights closest to another's (Git Re-Basin, 2209.04836)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cloche.errors import InstrumentOption
from cloche.interp.landscape.symmetries import Axis, Units, permutable
from cloche.model import Network
from cloche.sparse.truth import assign

ROUNDS = 30  # of all assignments; the stream's depend on the layers' and they on it
LEAST_GAIN = 1e-9  # of the weights' squared size: a smaller one is rounding

Weights = Mapping[str, Tensor]


def match_weights(net: Network, other: Network) -> tuple[Network, dict[str, Tensor]]:
    """A network that computes what `other` does, with its units in the order that brings its weights closest to `net`'s.

    Weight matching (Ainsworth et al. 2023, 2209.04836, section 3.2): the neurons of each MLP (gated ones and experts too) and
    the heads of each attention layer are assigned one to one, query heads within the groups that share keys, so that the
    summed product of weights is largest; entries of the residual stream too where every part allows it exactly. Layers and
    stream are assigned in turn until nothing improves, which is a local optimum: for the stream, not always the best. The
    dimensions inside a head keep their order.

    Returns the network and, by the name of the units, `order` [unit]: the unit of `other` that is now in each place. Raises
    InstrumentOption if the networks are of different trees, or have no units that may change places.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import match_weights
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU(hidden=16)))).build(seed=0)
    >>> matched, orders = match_weights(net, net)
    >>> all(order.tolist() == sorted(order.tolist()) for order in orders.values())
    True
    >>> list(orders)[:2]
    ['residual stream', 'heads of layer 0']
    """
    require_same_tree(net, other)
    units = permutable(net)
    if not units:
        raise InstrumentOption(
            f"{type(net.spec.body).__name__} has no neurons or heads that are known to change places exactly; give match=false "
            "to compare the weights as they are."
        )
    mine, theirs = ({name: weight.detach() for name, weight in each.named_parameters()} for each in (net, other))
    orders = {each.name: torch.arange(each.size) for each in units}
    for _ in range(ROUNDS):
        improved = [_improved(each, mine, theirs, orders) for each in units]
        if not any(improved):
            break
    matched = copy.deepcopy(other)
    with torch.no_grad():
        for name, weight in matched.named_parameters():
            weight.copy_(theirs[name])
    return matched, orders


def require_same_tree(net: Network, other: Network) -> None:
    """Raises InstrumentOption unless the parameters of two networks have the same names and shapes, in equal parts."""
    shapes = [{name: weight.shape for name, weight in each.named_parameters()} for each in (net, other)]
    if net.spec.resolved() != other.spec.resolved() or shapes[0] != shapes[1]:
        raise InstrumentOption(
            "other= is of another tree than this model, so no line joins their weights; compare checkpoints or runs of one "
            "recipe's model, or use model-diff."
        )


def _improved(units: Units, mine: Weights, theirs: dict[str, Tensor], orders: dict[str, Tensor]) -> bool:
    """Reorders the units in `theirs` if that brings its weights closer to `mine`."""
    gain = _products(units.axes, units.size, mine, theirs)
    if units.groups:
        shared = _products(units.shared, units.groups, mine, theirs)
        order, better = _assigned_groups(gain, shared)
    else:
        order, better = _assigned(gain)
    size = sum(float(mine[axis.parameter].double().square().sum()) for axis in (*units.axes, *units.shared))
    if better <= LEAST_GAIN * size:
        return False
    units.reorder(theirs, order)
    orders[units.name] = orders[units.name][order]
    return True


def _products(axes: Sequence[Axis], size: int, mine: Weights, theirs: Weights) -> np.ndarray:
    """[unit, unit]: the inner product of each of my units with each of theirs, over all axes."""
    total = torch.zeros(size, size, dtype=torch.float64)
    for axis in axes:
        a, b = (axis.units(weights[axis.parameter].cpu().double(), size) for weights in (mine, theirs))
        total += a @ b.T
    return total.numpy()


def _assigned(gain: np.ndarray) -> tuple[Tensor, float]:
    """The order of the largest gain, and by how much it is larger than that of the present one."""
    order = assign(gain)
    return torch.from_numpy(order), float(gain[np.arange(len(order)), order].sum() - gain.trace())


def _assigned_groups(gain: np.ndarray, shared: np.ndarray) -> tuple[Tensor, float]:
    """As `_assigned`, for units that change places inside their groups and with them: exact, by an assignment inside every
    pair of groups."""
    groups, width = len(shared), len(gain) // len(shared)
    blocks = gain.reshape(groups, width, groups, width)
    inside = np.array([[assign(blocks[i, :, j]) for j in range(groups)] for i in range(groups)])  # [group, group, unit]
    gains = shared + np.array(
        [[blocks[i, np.arange(width), j, inside[i, j]].sum() for j in range(groups)] for i in range(groups)]
    )
    chosen = assign(gains)
    order = np.concatenate([chosen[i] * width + inside[i, chosen[i]] for i in range(groups)])
    better = gains[np.arange(groups), chosen].sum() - gain.trace() - shared.trace()
    return torch.from_numpy(order), float(better)
