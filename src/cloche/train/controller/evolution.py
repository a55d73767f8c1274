"""Evolution strategies: CMA-ES, which needs only the order of its candidates."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


class Evolution:
    """CMA-ES (Hansen, 1604.00772): a normal distribution whose mean, step size and covariance follow the better half.

    start: mean [n]. spread: standard deviation of each coordinate [n]. `ask` draws candidates [population, n]; `tell` takes
    their scores, of which only the order counts and the lowest is best.

    >>> import numpy as np
    >>> from cloche.train.controller import Evolution
    >>> search = Evolution(np.full(3, 5.0), np.ones(3), population=12, seed=0)
    >>> for _ in range(80):
    ...     candidates = search.ask()
    ...     search.tell(candidates, ((candidates - [1.0, 2.0, 3.0]) ** 2 * [1, 10, 100]).sum(1))
    >>> search.mean.round(3)
    array([1., 2., 3.])
    """

    def __init__(self, start: Vector, spread: Vector, population: int, seed: int) -> None:
        self.n, self.population = len(start), population
        self.mean, self.scale = np.array(start, float), np.array(spread, float)
        self.random, self.sigma, self.covariance = np.random.default_rng(seed), 1.0, np.eye(self.n)
        self.path, self.path_sigma, self.generation = np.zeros(self.n), np.zeros(self.n), 0
        parents = population // 2
        weights = math.log((population + 1) / 2) - np.log(np.arange(1, parents + 1))
        self.weights = weights / weights.sum()
        self._roots = np.eye(self.n), np.ones(self.n)

    def ask(self) -> Vector:
        """Candidates [population, n]."""
        axes, lengths = self._roots
        steps = self.random.standard_normal((self.population, self.n)) * lengths @ axes.T
        return self.mean + self.sigma * self.scale * steps

    def tell(self, candidates: Vector, scores: Vector) -> None:
        """Moves the distribution towards the candidates with the lowest scores."""
        n, mu = self.n, 1 / np.square(self.weights).sum()
        c_sigma, c_path = (mu + 2) / (n + mu + 5), (4 + mu / n) / (n + 4 + 2 * mu / n)
        c_one = 2 / ((n + 1.3) ** 2 + mu)
        c_mu = min(1 - c_one, 2 * (mu - 2 + 1 / mu) / ((n + 2) ** 2 + mu))
        damping = 1 + c_sigma + 2 * max(0.0, math.sqrt((mu - 1) / (n + 1)) - 1)
        length = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))  # of a standard normal vector, expected
        best = np.argsort(scores, kind="stable")[: len(self.weights)]
        steps = (candidates[best] - self.mean) / (self.sigma * self.scale)
        step = self.weights @ steps
        self.mean = self.mean + self.sigma * self.scale * step
        self.generation += 1
        axes, lengths = self._roots
        white = axes @ (axes.T @ step / lengths)
        self.path_sigma = (1 - c_sigma) * self.path_sigma + math.sqrt(c_sigma * (2 - c_sigma) * mu) * white
        norm = float(np.linalg.norm(self.path_sigma))
        moving = norm / math.sqrt(1 - (1 - c_sigma) ** (2 * self.generation)) < (1.4 + 2 / (n + 1)) * length
        self.path = (1 - c_path) * self.path + moving * math.sqrt(c_path * (2 - c_path) * mu) * step
        kept = 1 - c_one - c_mu + (not moving) * c_one * c_path * (2 - c_path)
        self.covariance = kept * self.covariance + c_one * np.outer(self.path, self.path)
        self.covariance += c_mu * (steps.T * self.weights) @ steps
        self.sigma *= math.exp(c_sigma / damping * (norm / length - 1))
        values, axes = np.linalg.eigh((self.covariance + self.covariance.T) / 2)
        self._roots = axes, np.sqrt(values.clip(1e-20))
