"""Nulls, in which nothing should be found, and p-values of largest effects: how often a null has one as large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.interp.patching.cells import Contrast
from cloche.interp.subject import Subject
from cloche.model import LM, Network

DRAWS = 99  # of a null: the least p-value is 1 / 100
ENOUGH = 4  # different answers, below which there are too few orders of them


def p_value(own: float, drawn: Tensor) -> float:
    """Share of draws of the null that are no smaller, the value itself counted as one of them."""
    return (1 + int((drawn >= own).sum())) / (1 + len(drawn))


def untrained(spec: LM, device: torch.device, seed: int) -> Network:
    """A randomly initialised network of the same parts; with another seed than a model that was built with `seed`."""
    return spec.build(seed=seed + 1).to(device).eval()


def random_pairs(subject: Subject, seed: int) -> Tensor:
    """DRAWS pairs of two different tokens, [draw, 2]; none from rows of the embedding that belong to no token."""
    known = known_tokens(subject)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(known, (DRAWS,), generator=generator)
    second = (first + torch.randint(1, known, (DRAWS,), generator=generator)) % known
    return torch.stack([first, second], 1)


def known_tokens(subject: Subject) -> int:
    """Tokens there are; further rows of the embedding belong to none."""
    return min(subject.net.spec.vocab, getattr(subject.tokenizer, "vocab", subject.net.spec.vocab))


@dataclass(frozen=True, eq=False)
class Answers:
    """Pairs of tokens (answer, against) to read effects for: `pairs` [prompt, 1 + draw, 2], first those of each prompt, then
    DRAWS that have nothing to do with it."""

    pairs: Tensor

    @classmethod
    def of(cls, subject: Subject, found: Sequence[Contrast], seed: int) -> Answers:
        """In each draw the answers' tokens are renamed at random, alike for all prompts: among themselves, or with fewer than
        4 different ones as any tokens. So prompts that share an answer share it in every draw."""
        own = torch.cat([each.asked.cpu() for each in found])
        tokens, places = own.unique(return_inverse=True)
        pool = tokens if len(tokens) >= ENOUGH else torch.arange(known_tokens(subject))
        generator = torch.Generator().manual_seed(seed)
        drawn = [pool[torch.randperm(len(pool), generator=generator)[: len(tokens)]][places] for _ in range(DRAWS)]
        return cls(torch.stack([own, *drawn], 1).to(found[0].clean.device))

    def p(self, values: Tensor, either: bool = False) -> dict[str, float]:
        """{"p": share of draws whose largest mean over prompts is no smaller} of values [prompt, 1 + draw, cell]; empty if the
        metric reads no answer. either: of either sign."""
        if torch.equal(values, values[:, :1].expand_as(values)):
            return {}
        means = values.mean(0)
        largest = (means.abs() if either else means).amax(1)
        return {"p": p_value(float(largest[0]), largest[1:])}
