"""Families of small training tasks, many at once: quadratics, regression and classification with small networks."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cloche.part import Part, positive, within

Weights = list[Tensor]


@dataclass
class Tasks:
    """Tasks of one shape. Tensors have a leading axis [task]; weights in training have [candidate, task].

    weights: at the start. groups: for each group, the numbers of its weights. decays: whether a group's weights decay.
    data: what `Family.loss` needs.

    >>> from cloche.train.controller import Regression
    >>> tasks = Regression().draw(2, seed=0, steps=5)
    >>> tasks.groups, tasks.decays  # matrices, biases
    (((0, 2), (1, 3)), (True, False))
    """

    weights: Weights
    groups: tuple[tuple[int, ...], ...]
    decays: tuple[bool, ...]
    data: dict[str, Tensor] = field(default_factory=dict)
    activation: str = "tanh"


@dataclass(frozen=True)
class Family(Part, ABC):
    """Base of families of small tasks. A subclass defines how tasks are drawn, the loss of a step and the final score.

    >>> import torch
    >>> from cloche.train.controller import Quadratic
    >>> tasks = Quadratic(size=4).draw(3, seed=0, steps=10)
    >>> Quadratic(size=4).score([w[None] for w in tasks.weights], tasks).shape
    torch.Size([1, 3])
    """

    @abstractmethod
    def draw(self, count: int, seed: int, steps: int) -> Tasks:
        """`count` tasks for runs of `steps` steps."""

    @abstractmethod
    def loss(self, weights: Weights, tasks: Tasks, step: int) -> Tensor:
        """Training loss of a step [candidate, task], a function of the weights alone: all candidates see the same batch."""

    @abstractmethod
    def score(self, weights: Weights, tasks: Tasks) -> Tensor:
        """What counts at the end [candidate, task], the lower the better."""


def uniform(generator: torch.Generator, shape: Sequence[int], low: float, high: float) -> Tensor:
    """Numbers between `low` and `high`."""
    return low + (high - low) * torch.rand(tuple(shape), generator=generator)


@dataclass(frozen=True)
class Quadratic(Family):
    """(x - c) H (x - c) / 2 from x = 0: eigenvalues log-uniform between mu and L, in random directions; L is 0.1 to 10 and
    L / mu 3 to 300. The minimum c is random: if it were zero, weight decay would solve the task.

    noise: standard deviation of each gradient's coordinate, in units of L. The score is the loss without it.

    >>> from cloche.train.controller import Quadratic
    >>> values = Quadratic(size=8).draw(1, seed=0, steps=1).data["values"]
    >>> bool((0.1 / 300 <= values).all() and (values <= 10).all())
    True
    """

    size: int = 12
    noise: float = 0.0

    def __post_init__(self) -> None:
        positive(self, size=self.size)
        within(self, noise=(0, 1000), size=(2, 1000))

    def draw(self, count: int, seed: int, steps: int) -> Tasks:
        g = torch.Generator().manual_seed(seed)
        largest = 10 ** uniform(g, (count, 1), -1, 1)
        condition = 10 ** uniform(g, (count, 1), 0.5, 2.5)
        shares = torch.rand((count, self.size), generator=g)
        shares[:, 0], shares[:, 1] = 0, 1
        values = largest * condition**-shares
        axes = torch.linalg.qr(torch.randn((count, self.size, self.size), generator=g))[0]
        data = {"values": values, "matrix": (axes * values[:, None]) @ axes.mT}
        if self.noise:
            data["noise"] = self.noise * largest * torch.randn((steps, count, self.size), generator=g)
        data["minimum"] = torch.randn((count, self.size), generator=g)
        return Tasks([torch.zeros((count, self.size))], ((0,),), (True,), data)

    def loss(self, weights: Weights, tasks: Tasks, step: int) -> Tensor:
        value = self.score(weights, tasks)
        return value + (weights[0] * tasks.data["noise"][step]).sum(-1) if self.noise else value

    def score(self, weights: Weights, tasks: Tasks) -> Tensor:
        x = weights[0] - tasks.data["minimum"]
        return 0.5 * (x * (x[..., None, :] @ tasks.data["matrix"])[..., 0, :]).sum(-1)


def perceptron(weights: Weights, x: Tensor, activation: str) -> Tensor:
    """A network with matrices and biases in turn: [..., row, input] -> [..., row, output]."""
    for i in range(0, len(weights), 2):
        x = x @ weights[i] + weights[i + 1][..., None, :]
        if i + 2 < len(weights):
            x = x.tanh() if activation == "tanh" else x.relu()
    return x


def perceptron_weights(sizes: Sequence[int], count: int, generator: torch.Generator) -> Weights:
    """Weights of `perceptron` [task, ...], matrices with variance 1 / fan-in and biases zero."""
    weights: Weights = []
    for inputs, outputs in itertools.pairwise(sizes):
        weights.append(torch.randn((count, inputs, outputs), generator=generator) / inputs**0.5)
        weights.append(torch.zeros((count, outputs)))
    return weights


def matrices_and_biases(count: int) -> tuple[tuple[int, ...], ...]:
    """The groups of a perceptron of so many layers."""
    return tuple(range(0, 2 * count, 2)), tuple(range(1, 2 * count, 2))


def minibatches(generator: torch.Generator, steps: int, count: int, samples: int, batch: int) -> Tensor:
    """Rows of every step's batch: [step, task, row]."""
    return torch.randint(samples, (steps, count, batch), generator=generator)


def rows(data: Tensor, chosen: Tensor) -> Tensor:
    """The chosen rows of each task's data: [task, sample, ...], [task, row] -> [task, row, ...]."""
    return data[torch.arange(len(data))[:, None], chosen]


@dataclass(frozen=True)
class Regression(Family):
    """A one-hidden-layer network fits noisy samples of a random one; the score is the squared error on fresh samples,
    relative to the variance. Inputs and outputs have scales between 0.3 and 3.

    >>> from cloche.train.controller import Regression
    >>> [tuple(w.shape) for w in Regression(hidden=4).draw(2, seed=0, steps=5).weights]
    [(2, 6, 4), (2, 4), (2, 4, 1), (2, 1)]
    """

    hidden: int = 16
    inputs: int = 6
    samples: int = 64
    batch: int = 16
    noise: float = 0.1
    depth: int = 1

    def draw(self, count: int, seed: int, steps: int) -> Tasks:
        g = torch.Generator().manual_seed(seed)
        teacher = perceptron_weights([self.inputs, 8, 1], count, g)
        teacher[0] = 2 * teacher[0]
        scales = 10 ** uniform(g, (2, count, 1, 1), -0.5, 0.5)
        data = {}
        for name, number in (("train", self.samples), ("fresh", 128)):
            x = torch.randn((count, number, self.inputs), generator=g)
            y = perceptron(teacher, x, "tanh")
            y = y / y.std(1, keepdim=True)
            noise = self.noise * torch.randn(y.shape, generator=g) if name == "train" else 0.0
            data[f"{name}_x"], data[f"{name}_y"] = scales[0] * x, scales[1] * (y + noise)
        data["batches"], data["variance"] = (
            minibatches(g, steps, count, self.samples, self.batch),
            scales[1, :, 0, 0] ** 2,
        )
        weights = perceptron_weights([self.inputs, *[self.hidden] * self.depth, 1], count, g)
        return Tasks(weights, matrices_and_biases(self.depth + 1), (True, False), data, "tanh" if seed % 2 else "relu")

    def loss(self, weights: Weights, tasks: Tasks, step: int) -> Tensor:
        x, y = (rows(tasks.data[f"train_{name}"], tasks.data["batches"][step]) for name in "xy")
        return (perceptron(weights, x, tasks.activation) - y).square().mean((-2, -1))

    def score(self, weights: Weights, tasks: Tasks) -> Tensor:
        found = perceptron(weights, tasks.data["fresh_x"], tasks.activation)
        return (found - tasks.data["fresh_y"]).square().mean((-2, -1)) / tasks.data["variance"]


@dataclass(frozen=True)
class Classification(Family):
    """A one-hidden-layer network learns which of a few Gaussian clusters a point is from; a tenth of the labels are wrong.
    The score is the cross-entropy in nats on fresh points with right labels.

    >>> from cloche.train.controller import Classification
    >>> tasks = Classification(classes=3).draw(2, seed=0, steps=5)
    >>> Classification(classes=3).loss([w[None] for w in tasks.weights], tasks, step=0).shape
    torch.Size([1, 2])
    """

    hidden: int = 16
    inputs: int = 6
    classes: int = 4
    samples: int = 64
    batch: int = 16

    def draw(self, count: int, seed: int, steps: int) -> Tasks:
        g = torch.Generator().manual_seed(seed)
        centres = 1.2 * torch.randn((count, 2 * self.classes, self.inputs), generator=g)
        scale = 10 ** uniform(g, (count, 1, 1), -0.5, 0.5)
        data = {}
        for name, number in (("train", self.samples), ("fresh", 128)):
            cluster = torch.randint(2 * self.classes, (count, number), generator=g)
            x = rows(centres, cluster) + torch.randn((count, number, self.inputs), generator=g)
            wrong = torch.rand((count, number), generator=g) < (0.1 if name == "train" else 0.0)
            other = torch.randint(self.classes, (count, number), generator=g)
            data[f"{name}_x"], data[f"{name}_y"] = scale * x, torch.where(wrong, other, cluster % self.classes)
        data["batches"] = minibatches(g, steps, count, self.samples, self.batch)
        weights = perceptron_weights([self.inputs, self.hidden, self.classes], count, g)
        return Tasks(weights, matrices_and_biases(2), (True, False), data, "tanh" if seed % 2 else "relu")

    def loss(self, weights: Weights, tasks: Tasks, step: int) -> Tensor:
        x, y = (rows(tasks.data[f"train_{name}"], tasks.data["batches"][step]) for name in "xy")
        return cross_entropy(perceptron(weights, x, tasks.activation), y)

    def score(self, weights: Weights, tasks: Tasks) -> Tensor:
        return cross_entropy(perceptron(weights, tasks.data["fresh_x"], tasks.activation), tasks.data["fresh_y"])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats: logits [..., row, class], labels [task, row] -> [...]."""
    above = logits - logits.detach().amax(-1, keepdim=True)  # log_softmax is slow over so few classes
    right = above.gather(-1, labels.expand(logits.shape[:-1])[..., None])[..., 0]
    return (above.exp().sum(-1).log() - right).mean(-1)
