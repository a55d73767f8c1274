"""From logits to a token: greedy, temperature, top-k, top-p, min-p."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import ArgumentInvalid, ArgumentRange, NotFinite, shown
from cloche.part import Part


@dataclass(frozen=True)
class Sampling(Part):
    """How the next token is drawn. temperature 0 takes the likeliest; top_k, then top_p (Holtzman et al. 2019, 1904.09751),
    then min_p (at least so much of the likeliest token's probability: Nguyen et al. 2024, 2407.01082) narrow the choice;
    `exclude`: ids that are never drawn; `seed` fixes the draw.

    >>> from cloche.decode import Sampling
    >>> Sampling(temperature=0.8, top_p=0.95, seed=1).temperature
    0.8
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0
    exclude: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        whole = all(type(n) is int for n in (self.top_k or 1, self.seed))
        if not whole or any(
            isinstance(n, bool) or not isinstance(n, int | float)
            for n in (self.temperature, self.top_p or 1, self.min_p or 1)
        ):
            raise ArgumentRange(f"{self}: temperature, top_p and min_p are numbers, top_k and seed whole numbers.")
        if not 0 <= self.temperature < float("inf"):
            raise ArgumentRange(f"temperature={self.temperature} must be zero (greedy) or a positive number.")
        if self.top_k is not None and self.top_k < 1:
            raise ArgumentRange(f"top_k={self.top_k} must keep at least one token.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ArgumentRange(f"top_p={self.top_p} must lie in (0, 1].")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ArgumentRange(f"min_p={self.min_p} must lie in [0, 1].")
        try:
            excluded = tuple(sorted({operator.index(i) for i in self.exclude}))
        except TypeError:
            raise ArgumentInvalid(f"exclude= takes a list of token ids; got {shown(self.exclude)}.") from None
        if excluded and excluded[0] < 0:
            raise ArgumentInvalid(f"exclude= takes token ids from 0 on; got {excluded[0]}.")
        object.__setattr__(self, "exclude", excluded)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """The log-probabilities [..., vocab] to draw from, in fp32; -inf where top-k, top-p or min-p cut."""
        logits = self._without_excluded(logits.float())
        scaled = (logits - logits.amax(-1, keepdim=True)) / (self.temperature or 1.0)  # no overflow at low temperatures
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            likeliest = scaled.topk(self.top_k).indices  # by index, so that ties do not keep more
            cut = torch.ones_like(scaled, dtype=torch.bool).scatter(-1, likeliest, False)
            scaled = scaled.masked_fill(cut, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = scaled.sort(descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # mass of the likelier tokens
            cut = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= self.top_p)
            scaled = scaled.masked_fill(cut, -torch.inf)
        if self.min_p:
            scaled = scaled.masked_fill(scaled < math.log(self.min_p), -torch.inf)  # the likeliest token is at 0
        return scaled.log_softmax(-1)

    def pick(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """Token ids [batch] for logits [batch, vocab]. Raises ClocheError if a row of logits has no finite maximum."""
        if not bool(logits.amax(-1).isfinite().all()):
            raise NotFinite(
                "The logits are not finite, so no token can be drawn; the weights have diverged, or an edit is too strong."
            )
        if self.temperature == 0:
            return self._without_excluded(logits).argmax(-1)
        return torch.multinomial(self.log_probabilities(logits).exp(), 1, generator=generator)[:, 0]

    def excluded_mass(self, logits: Tensor) -> Tensor:
        """The probability [batch] that the model itself gives to the excluded ids, under logits [batch, vocab]."""
        logits = logits.float()
        return (logits[:, list(self.exclude)].logsumexp(-1) - logits.logsumexp(-1)).exp()

    def _without_excluded(self, logits: Tensor) -> Tensor:
        if not self.exclude:
            return logits
        return logits.index_fill(-1, torch.tensor(self.exclude, device=logits.device), -torch.inf)
