"""The logit lens: what each layer would predict if the model ended there (nostalgebraist 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean, median
from typing import Any, overload

import torch
from torch import Tensor

from cloche.drawing import Bars, Finding, Heatmap, Lines, Panel, Provenance, Series, percent, visible
from cloche.errors import ArgumentRange
from cloche.interp.subject import Subject, encode, several, spell

SHOWN = 128  # positions drawn: the last ones of a longer prompt


@overload
def logit_lens(
    subject: Subject, prompt: list[str] | list[list[int]], top: int = 10, seed: int = 0
) -> list[Finding]: ...
@overload
def logit_lens(subject: Subject, prompt: str | Iterable[int] | Tensor, top: int = 10, seed: int = 0) -> Finding: ...


@torch.no_grad()
def logit_lens(subject: Subject, prompt: Any, top: int = 10, seed: int = 0) -> Any:
    """Reads the residual stream after the embedding and after every layer through the final norm and the unembedding.

    The last row is the model's own prediction, exactly. `data` (see docs/architecture.md): `top` tokens with their
    probabilities, entropy in nats, and the rank (from 1) of the actual next token. `arrays`: top_ids and top_probabilities
    [layer, position, top], entropy and rank [layer, position] (rank 0 at the last position), ids [position]. The null: the
    actual next tokens, shuffled by `seed`. A list of several texts or rows of ids gives a list of findings.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> from cloche.interp import logit_lens
    >>> finding = logit_lens(glass, "the cat")
    >>> finding.data["layers"]
    ['embed', 'resid_post[0]', 'resid_post[1]']
    """
    if (prompts := several(prompt)) is not None:
        return [logit_lens(subject, each, top, seed) for each in prompts]
    net = subject.net
    vocab = net.spec.vocab
    if not 1 <= top <= vocab:
        raise ArgumentRange(f"top={top} must lie between 1 and the model's {vocab:,} tokens.")
    text, tokens = encode(subject, prompt)
    sites = [net.sites.embed, *net.sites.resid_post]
    ids = torch.tensor([tokens], device=net.embed.weight.device)
    result = net.run(ids, save=sites, logits=False)
    follows = ids[0, 1:]
    order = torch.randperm(len(follows), generator=torch.Generator().manual_seed(seed)).to(ids.device)
    rows = [_read(net.unembed(net.final_norm(result[site]))[0].float(), follows, order, top) for site in sites]
    arrays = {name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]}
    sure = {name: arrays.pop(name).mean(1).tolist() if len(tokens) > 1 else [] for name in ("next", "shuffled")}
    data = _data(subject, text, tokens, [str(site) for site in sites], arrays) | sure | {"notes": result.notes}
    about = Provenance("logit-lens", subject.checkpoint, result.plan.hash, seed)
    figures, null = _figures(data)
    return Finding(about, _summary(data), figures, data, arrays | {"ids": ids[0].cpu()}, null, panels(data))


def _read(logits: Tensor, follows: Tensor, order: Tensor, top: int) -> dict[str, Tensor]:
    """One layer's row from its logits [position, vocab]."""
    log_shares = logits.log_softmax(-1)
    shares = log_shares.exp()
    best = shares.topk(top, dim=-1)
    entropy = torch.special.entr(shares).sum(-1)
    rank = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    own = logits[:-1].gather(1, follows[:, None])
    rank[:-1] = 1 + (logits[:-1] > own).sum(-1)
    after = {"next": follows, "shuffled": follows[order]}
    sure = {name: shares[:-1].gather(1, tokens[:, None])[:, 0] for name, tokens in after.items()}
    return {"top_ids": best.indices, "top_probabilities": best.values, "entropy": entropy, "rank": rank, **sure}


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
    """The layer from which the last position's prediction is first, and how well the text itself is predicted."""
    answer, share = data["top"][-1][-1][0]
    settled = len(data["layers"]) - 1
    while settled > 0 and data["top"][settled - 1][-1][0][0] == answer:
        settled -= 1
    said = f"After the prompt the model predicts {answer!r} (probability {share:.2g}), first from {data['layers'][settled]} on"
    if len(data["tokens"]) == 1:
        return said + "."
    last = median(row for row in data["rank"][-1] if row is not None)
    first = median(row for row in data["rank"][0] if row is not None)
    return f"{said}; the actual next token has median rank {last:g} at the end and {first:g} after the embedding."


def _figures(data: dict[str, Any]) -> tuple[dict[str, float], dict[str, float] | None]:
    """Figures of the last layer: mean probability of the actual next token, probability of the final prediction, mean
    entropy; and their null."""
    own = {"top_probability": data["top"][-1][-1][0][1], "entropy": fmean(data["entropy"][-1])}
    if not data["next"]:
        return own, None
    return {"next_probability": data["next"][-1]} | own, {"next_probability": data["shuffled"][-1]}


def panels(data: dict[str, Any]) -> tuple[Panel, ...]:
    """Each layer's top token at each position, the last layer on top; the prediction after the prompt; the next token's
    probability by layer."""
    layers, start = data["layers"], max(0, len(data["tokens"]) - SHOWN)
    cells = [layer[start:] for layer in reversed(data["top"])]
    grid = Heatmap(
        "What each layer would say next",
        tuple(reversed(layers)),
        tuple(data["tokens"][start:]),
        values=tuple(tuple(ranked[0][1] for ranked in row) for row in cells),
        texts=tuple(tuple(ranked[0][0] for ranked in row) for row in cells),
        tips=tuple(
            tuple("\n".join(f"{percent(p)}  {visible(t)}" for t, p in ranked) for ranked in row) for row in cells
        ),
        form="percent",
        scale="root",
        low=0.0,
        high=1.0,
        note=f"The last {SHOWN} of {len(data['tokens']):,} positions." if start else "",
    )
    answer = data["top"][-1][-1]
    said = f"What it says after {visible(data['tokens'][-1])}"
    bars = Bars(said, tuple(visible(t) for t, _ in answer), (Series("", tuple(p for _, p in answer)),), "percent")
    if not data.get("next"):
        return grid, bars
    sure = (
        Series("actual next token", tuple(data["next"])),
        Series("shuffled", tuple(data["shuffled"]), control=True),
    )
    title = "Probability of the next token"
    return grid, bars, Lines(title, tuple(layers), sure, form="percent", low=0.0, note="The mean over the positions.")
