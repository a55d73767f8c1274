"""From logits to a token: greedy, temperature, top-k, top-p."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glasshouse.errors import GlasshouseError


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. temperature 0 takes the likeliest; top_k, then top_p (Holtzman et al. 2019, 1904.09751)
    narrow the choice; `seed` fixes the draw."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise GlasshouseError(f"temperature={self.temperature} must be zero (greedy) or a positive number.")
        if self.top_k is not None and self.top_k < 1:
            raise GlasshouseError(f"top_k={self.top_k} must keep at least one token.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise GlasshouseError(f"top_p={self.top_p} must lie in (0, 1].")

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Log-probabilities [..., vocab] the draw is made from, in fp32; -inf where top-k or top-p cut."""
        scaled = logits.float() / (self.temperature or 1.0)
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            least = scaled.topk(self.top_k).values[..., -1:]
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = scaled.sort(descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # mass of the likelier tokens
            cut = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= self.top_p)
            scaled = scaled.masked_fill(cut, -torch.inf)
        return scaled.log_softmax(-1)

    def pick(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """Token ids [batch] for logits [batch, vocab]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        return torch.multinomial(self.log_probabilities(logits).exp(), 1, generator=generator)[:, 0]
