"""Vectors of words in a model, and the linear map to the space in which their dot product is the causal inner product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cloche.errors import ModelUnsupported, SiteUnsuitable
from cloche.interp.circuits.weights import is_linear, reading
from cloche.interp.significance import known_tokens
from cloche.interp.subject import Subject

EMBED, UNEMBED = "embed", "unembed"
ROWS = 4096  # of a matrix in double precision, or prompts in a batch
LEAST = 1e-6  # of the largest variance of the unembedding; directions of less count as none


class Words:
    """Where the vectors of words are read: rows of the embedding or unembedding, or a site's state at the word after
    `context`."""

    def __init__(self, subject: Subject, site: str, context: str = "") -> None:
        self.subject, self.site, self.net = subject, site, subject.net
        if site == UNEMBED:
            self._unembed()
        elif site != EMBED:
            found = self.net.sites.resolve(site)
            if len(found) > 1 or found[0].axes != ("batch", "position", "width"):
                what = f"{len(found)} sites" if len(found) > 1 else f"{found[0]} with axes {', '.join(found[0].axes)}"
                raise SiteUnsuitable(
                    f"{site} is {what}, and analogies compare vectors of the residual stream; name one such as resid_post[3], "
                    "or embed or unembed."
                )
            self.place = found[0]
        tokenizer = subject.tokenizer
        self.before = tokenizer.encode(context) if tokenizer is not None else []

    @property
    def everything(self) -> bool:
        """Whether the vectors of the whole vocabulary are at hand."""
        return self.site in (EMBED, UNEMBED)

    @torch.no_grad()
    def vectors(self, tokens: Sequence[int]) -> Tensor:
        """[token, width] in fp32."""
        ids = torch.tensor(list(tokens), device=self.net.embed.weight.device)
        if self.site == UNEMBED:
            return self._unembed()[ids].detach().float().cpu()
        if self.site == EMBED:
            return self.net.embed(ids).detach().float().cpu()
        found = []
        for part in ids.split(ROWS // (1 + len(self.before)) or 1):
            before = torch.tensor(self.before, dtype=torch.long, device=ids.device)
            rows = torch.cat([before.expand(len(part), -1), part[:, None]], 1)
            found.append(self.net.run(rows, save=[self.place], logits=False)[self.place][:, -1].float().cpu())
        return torch.cat(found)

    @torch.no_grad()
    def causal(self) -> Tensor:
        """The map M [width, width]: the causal inner product of x and y is (x M)(y M)' (Park et al. 2023, 2311.03658).

        Between unembedding vectors that is x C^-1 y', with the covariance C of the rows of the unembedding over the vocabulary;
        between vectors of the stream, its dual x C y', with the final norm's gain folded in. A direction in which the
        unembedding does not vary has no length in either."""
        weight = self._unembed()[: known_tokens(self.subject)].detach()
        total = sum((part.double().sum(0) for part in weight.split(ROWS)), torch.zeros((), dtype=torch.float64))
        squares = sum(
            (part.double().T @ part.double() for part in weight.split(ROWS)), torch.zeros((), dtype=torch.float64)
        )
        covariance = (squares / len(weight) - torch.outer(total, total) / len(weight) ** 2).cpu()
        if self.site != UNEMBED and is_linear(self.net.spec.norm):
            fold = reading(self.net.spec.norm, self.net.final_norm, torch.eye(len(covariance), dtype=torch.float64))
            covariance = fold.T @ covariance @ fold
        values, vectors = torch.linalg.eigh(covariance)
        real = values > LEAST * values[-1]
        power = -0.5 if self.site == UNEMBED else 0.5
        return (vectors * torch.where(real, values.clamp(min=1e-300) ** power, 0.0)).float()

    def _unembed(self) -> Any:
        weight = getattr(self.net.unembed, "weight", None)
        if not isinstance(weight, Tensor) or weight.shape != (self.net.spec.vocab, self.net.spec.width):
            raise ModelUnsupported(
                f"The head {self.net.spec.head} of this model has no row for each token, which analogies read; choose a model "
                "whose head is one matrix, such as Unembed."
            )
        return weight
