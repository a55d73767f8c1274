"""What health measures of each layer in the pass it makes: rank and kurtosis of the stream, gain of the linear maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import geometric_mean

import torch
from torch import Tensor, nn

from cloche.model import Linear, Network

POSITIONS = 256  # most positions that a rank is taken from


def participation_ratio(x: Tensor) -> float | None:
    """[row, width] -> the number of directions that the rows vary in: (sum of eigenvalues of their covariance)^2 over the sum
    of squares, k if k of them have the same variance and the others none. n rows have at most n - 1; None if they are equal.

    >>> import torch
    >>> from cloche.train.monitors.layers import participation_ratio
    >>> round(participation_ratio(torch.cat([torch.eye(4), -torch.eye(4)]) @ torch.eye(4, 9)), 3)
    4.0
    """
    x = x.float() - x.float().mean(0)
    # the smaller of the two products, which have the same eigenvalues but for zeros
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    total = gram.square().sum()
    return (gram.trace().square() / total).item() if total > 0 else None


def moments(x: Tensor) -> tuple[float, float | None]:
    """Variance of all entries (unbiased), and their kurtosis: the fourth central moment over the square of the variance, 3 if
    Gaussian, about 1 / share if a share of the channels holds all variance, None if they are equal.

    >>> import torch
    >>> from cloche.train.monitors.layers import moments
    >>> moments(torch.tensor([-3.0, 3.0] * 5))
    (10.0, 1.0)
    """
    flat = x.float().flatten()
    square = (flat - flat.mean()).square_()
    total, size = square.sum(), len(flat)
    fourth = torch.dot(square, square)
    return (total / max(size - 1, 1)).item(), (fourth * size / total.square()).item() if total > 0 else None


def spread(x: Tensor) -> Tensor:
    """[row, position, width] -> at most `POSITIONS` of all rows, evenly spaced: [row, width]."""
    rows = x.reshape(-1, x.shape[-1])
    return rows[:: -(-len(rows) // POSITIONS)]


class Gains:
    """Gains of a network's linear maps in the passes inside `measured`: RMS of y over RMS of x for y = W x, as multiples of
    the nominal gain, the Frobenius norm of W over the root of its rows.

    1 if the inputs have no preferred direction, as at initialisation; above if they lie along what W amplifies, which
    makes a step of the weights change the outputs more than their norms say (2407.05872).

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train.monitors.layers import Gains
    >>> net = LM(vocab=20, width=24, body=Stack(2, Block(Attention(2), GLU()))).build(0)
    >>> gains = Gains(net)
    >>> with gains.measured():
    ...     _ = net.run(torch.randint(20, (2, 16)))
    >>> sizes = {p: p.norm().item() for p in net.parameters()}
    >>> [0.5 < gain < 2 for gain in gains.by_layer(sizes)]
    [True, True]
    """

    def __init__(self, net: Network) -> None:
        self.net = net
        self.maps = {module: name for name, module in net.body.named_modules() if isinstance(module, Linear)}
        self._found: dict[Linear, list[Tensor]] = defaultdict(list)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Inside the block every pass is measured. What else watches a map sees none of them."""
        self._found.clear()
        watches = {module: module.watch for module in self.maps}
        try:
            for module in self.maps:
                module.watch = lambda x, parts, module=module: self._add(module, x, parts)
            yield
        finally:
            for module, watch in watches.items():
                module.watch = watch

    def _add(self, module: Linear, x: Tensor, parts: Sequence[Tensor]) -> None:
        outside = torch.linalg.vector_norm(x, dtype=torch.float32)
        inside = [torch.linalg.vector_norm(part.detach(), dtype=torch.float32) for part in parts]
        self._found[module].append(torch.stack(inside).norm() * module.weight.shape[1] ** 0.5 / outside)

    def by_layer(self, sizes: Mapping[Tensor, float]) -> list[float | None]:
        """Geometric mean over the maps of each layer; None for one without maps. Where a block serves several iterations,
        each has that of its own pass. sizes: norms of the weights."""
        layers: list[float | None] = []
        served: dict[nn.Module, int] = defaultdict(int)
        for block in self.net.layers:
            inside = [(sizes[m.weight], self._found[m]) for m in block.modules() if m in self._found]
            k, served[block] = served[block], served[block] + 1
            found = [gains[k].item() / size if size else 0.0 for size, gains in inside if len(gains) > k]
            layers.append(geometric_mean(found) if found and min(found) > 0 else None)
        return layers
