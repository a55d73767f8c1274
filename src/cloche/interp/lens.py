"""The logit lens: what each layer would say if the model ended there (nostalgebraist 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any, overload

import torch
from torch import Tensor

from cloche.errors import ArgumentRange
from cloche.interp.finding import Finding
from cloche.interp.subject import Subject, encode, several, spell


@overload
def logit_lens(subject: Subject, prompt: list[str] | list[list[int]], top: int = 10) -> list[Finding]: ...
@overload
def logit_lens(subject: Subject, prompt: str | Iterable[int] | Tensor, top: int = 10) -> Finding: ...


@torch.no_grad()
def logit_lens(subject: Subject, prompt: Any, top: int = 10) -> Any:
    """Reads the residual stream after the embedding and after every layer through the final norm and the unembedding.

    The last row is the model's own prediction, exactly. `data`: docs/architecture.md: `top` tokens with their probabilities,
    entropy in nats, and the rank (1 is first) of the token that really follows. `arrays`: top_ids and top_probabilities
    [layer, position, top], entropy and rank [layer, position] (rank 0 where nothing follows), ids [position]. Of a list of
    several texts or rows of ids: a finding for each.
    """
    if (prompts := several(prompt)) is not None:
        return [logit_lens(subject, each, top) for each in prompts]
    net = subject.net
    vocab = net.spec.vocab
    if not 1 <= top <= vocab:
        raise ArgumentRange(f"top={top} must lie between 1 and the model's {vocab:,} tokens.")
    text, tokens = encode(subject, prompt)
    sites = [net.sites.embed, *net.sites.resid_post]
    ids = torch.tensor([tokens], device=net.embed.weight.device)
    result = net.run(ids, save=sites, logits=False)
    follows = ids[0, 1:]
    rows = [_read(net.unembed(net.final_norm(result[site]))[0].float(), follows, top) for site in sites]
    arrays = {name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]}
    data = _data(subject, text, tokens, [str(site) for site in sites], arrays) | {"notes": result.notes}
    plan = result.plan.hash
    return Finding("logit-lens", _summary(data), subject.checkpoint, data, arrays | {"ids": ids[0].cpu()}, plan)


def _read(logits: Tensor, follows: Tensor, top: int) -> dict[str, Tensor]:
    """One layer's row from its logits [position, vocab]."""
    log_shares = logits.log_softmax(-1)
    shares = log_shares.exp()
    best = shares.topk(top, dim=-1)
    entropy = torch.special.entr(shares).sum(-1)
    rank = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    own = logits[:-1].gather(1, follows[:, None])
    rank[:-1] = 1 + (logits[:-1] > own).sum(-1)
    return {"top_ids": best.indices, "top_probabilities": best.values, "entropy": entropy, "rank": rank}


def _data(
    subject: Subject, text: str, tokens: list[int], layers: list[str], arrays: dict[str, Tensor]
) -> dict[str, Any]:
    chosen = sorted(set(arrays["top_ids"].flatten().tolist()))
    words = dict(zip(chosen, spell(subject.tokenizer, chosen), strict=True))
    top = [
        [[[words[i], p] for i, p in zip(*cell, strict=True)] for cell in zip(*layer, strict=True)]
        for layer in zip(arrays["top_ids"].tolist(), arrays["top_probabilities"].tolist(), strict=True)
    ]
    rank = [[*row[:-1], None] for row in arrays["rank"].tolist()]
    return {
        "prompt": text,
        "tokens": spell(subject.tokenizer, tokens),
        "layers": layers,
        "top": top,
        "entropy": arrays["entropy"].tolist(),
        "rank": rank,
    }


def _summary(data: dict[str, Any]) -> str:
    """From which layer on the last position's answer stands first, and how well the text itself is foreseen."""
    answer, share = data["top"][-1][-1][0]
    settled = len(data["layers"]) - 1
    while settled > 0 and data["top"][settled - 1][-1][0][0] == answer:
        settled -= 1
    said = (
        f"After the prompt the model says {answer!r} (probability {share:.2f}), first from {data['layers'][settled]} on"
    )
    if len(data["tokens"]) == 1:
        return said + "."
    last = median(row for row in data["rank"][-1] if row is not None)
    first = median(row for row in data["rank"][0] if row is not None)
    return (
        f"{said}; the token that really follows has median rank {last:g} at the end and {first:g} after the embedding."
    )
