"""The p-value of a largest effect: how often it is as large where the same is read for answers that are not the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.interp.patching.cells import Contrast
from cloche.interp.subject import Subject

DRAWS = 99  # of a null: the least p-value is 1 / 100
ENOUGH = 4  # different answers, below which shuffles of them are too few


def p_value(own: float, drawn: Tensor) -> float:
    """Share of draws of the null that are no smaller, the value itself counted as one of them."""
    return (1 + int((drawn >= own).sum())) / (1 + len(drawn))


def random_pairs(subject: Subject, seed: int) -> Tensor:
    """DRAWS pairs of two different tokens, [draw, 2]; none from rows of the embedding that belong to no token."""
    known = min(subject.net.spec.vocab, getattr(subject.tokenizer, "vocab", subject.net.spec.vocab))
    draw = torch.Generator().manual_seed(seed)
    first = torch.randint(known, (DRAWS,), generator=draw)
    second = (first + torch.randint(1, known, (DRAWS,), generator=draw)) % known
    return torch.stack([first, second], 1)


@dataclass(frozen=True)
class Answers:
    """Pairs of tokens (answer, against) to read effects for. The first are those of each prompt; `draws` [draw, prompt] are
    indices of others, which have nothing to do with the prompt."""

    pairs: list[tuple[int, int]]
    draws: Tensor

    @classmethod
    def of(cls, subject: Subject, found: Sequence[Contrast], seed: int) -> Answers:
        """The answers of prompts, shuffled between them; with fewer than 4 different ones, pairs of random tokens."""
        own, prompts = [(each.answer, each.against) for each in found], len(found)
        if len(set(own)) >= ENOUGH:
            draw = torch.Generator().manual_seed(seed)
            return cls(own, torch.stack([torch.randperm(prompts, generator=draw) for _ in range(DRAWS)]))
        others = [(first, second) for first, second in random_pairs(subject, seed).tolist()]
        return cls(own + others, prompts + torch.arange(DRAWS)[:, None].expand(-1, prompts))

    def own(self, values: Tensor) -> Tensor:
        """Of values [prompt, answer, ...] those of each prompt's own answer, [prompt, ...]."""
        return values[torch.arange(len(values)), torch.arange(len(values))]

    def p(self, values: Tensor) -> dict[str, float]:
        """{"p": share of the draws whose largest mean over prompts is no smaller} of values [prompt, answer, cell]; without
        the figure if the answer is nothing to the metric."""
        if torch.equal(values, values[:, :1].expand_as(values)):
            return {}
        drawn = torch.stack([values[i, self.draws[:, i]] for i in range(len(values))]).mean(0)  # [draw, cell]
        return {"p": p_value(float(self.own(values).mean(0).max()), drawn.amax(1))}
