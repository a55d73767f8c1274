"""Patchscopes: a hidden state read by letting the model continue another prompt with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Heatmap, Provenance, Table
from cloche.errors import ArgumentRange, PromptInvalid
from cloche.interp.significance import p_value, random_pairs
from cloche.interp.subject import Subject, encode, spell
from cloche.model import Network

IDENTITY = "cat->cat; 135->135; hello->hello; ?"  # asks for the word that its last token stands for


@torch.no_grad()
def patchscope(
    subject: Subject,
    prompt: Any,
    position: int = -1,
    target: Any = IDENTITY,
    place: int = -1,
    top: int = 5,
    seed: int = 0,
) -> Finding:
    """Carries the residual stream after each layer, at `position` of `prompt`, into each layer at `place` of `target`, and
    reads what the model says next there (Ghandeharioun et al. 2024).

    The default target repeats words, so it asks which token the state stands for: the map has the probability of the token at
    `position`, by source and target layer, and the table the likeliest tokens where both layers are the same. With few-shot
    prompts as the target ("Paris: France; Rome: Italy; x:") it reads an attribute instead. States are carried as they are; a
    late layer's state in an early layer is larger than any that the layer has seen, and fails for that reason. After the last
    layer at the last token the answer is that of the prompt itself, exactly. Patching clean values into a corrupted copy of the
    same prompt is `activation_patching`.

    The null is a random vector of each state's norm; `p` is the share of 99 random tokens whose mean probability is no
    smaller. `arrays`: probability [source layer, target layer] of the token, and
    token ids [layer, top] where both are the same. Raises PromptInvalid for a position that is not there.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import patchscope
    >>> glass = cloche.Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> patchscope(glass, [1, 2, 3], target=[4, 5]).arrays["probability"].shape
    (2, 2)
    """
    net = subject.net
    text, tokens = encode(subject, prompt)
    _, target_tokens = encode(subject, target)
    source_at, target_at = _index(position, tokens, "position"), _index(place, target_tokens, "place")
    if not 1 <= top <= net.spec.vocab:
        raise ArgumentRange(f"top={top} must be between 1 and the model's {net.spec.vocab:,} tokens.")
    device = net.embed.weight.device
    sites = list(net.sites.resid_post)
    saved = net.run(torch.tensor([tokens], device=device), save=sites, logits=False)
    states = torch.stack([saved[site][0, source_at] for site in sites])  # [layer, width]
    ids = torch.tensor([target_tokens], device=device)
    spoken = _continued(net, ids, states, target_at)  # [source layer, target layer, vocab]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.nn.functional.normalize(torch.randn(states.shape, generator=generator), dim=1).to(states)
    control = _continued(net, ids, noise * states.norm(dim=1, keepdim=True), target_at)
    token = tokens[source_at]
    probability, chance = spoken[..., token].exp(), control[..., token].exp()
    same = spoken.diagonal(dim1=0, dim2=1).T  # [layer, vocab]
    best = same.topk(top).indices
    (word,) = spell(subject.tokenizer, [token])
    recalled = (best[:, 0] == token).double().mean()
    figures = {"probability": float(probability.diagonal().mean()), "recalled": float(recalled)}
    others = same[:, random_pairs(subject, seed)[:, 0].to(same.device)].exp().mean(0)
    figures["p"] = p_value(figures["probability"], others)
    null = {
        "probability": float(chance.diagonal().mean()),
        "recalled": float((control.diagonal(dim1=0, dim2=1).T.argmax(1) == token).double().mean()),
    }
    names = [str(site) for site in sites]
    data = {
        "text": text,
        "tokens": tokens,
        "position": source_at,
        "target": target_tokens,
        "place": target_at,
        "layers": names,
    }
    summary = (
        f"Carried into the same layer of the target prompt, the state of {word!r} is read as that token after "
        f"{recalled:.0%} of {len(sites)} layers, with a mean probability of {figures['probability']:.2g} "
        f"(random vectors {null['probability']:.2g})."
    )
    about = Provenance("patchscope", subject.checkpoint, seed=seed)
    arrays = {"probability": probability, "tokens": best}
    panels = (_map(probability, names, word), _table(subject, same, best, names))
    return Finding(about, summary, figures, data, arrays, null, panels)


def _index(position: int, tokens: list[int], name: str) -> int:
    if not -len(tokens) <= position < len(tokens):
        raise PromptInvalid(f"{name}={position} is outside the prompt of {len(tokens)} tokens; the last is -1.")
    return position % len(tokens)


def _continued(net: Network, ids: Tensor, states: Tensor, place: int) -> Tensor:
    """Log-probabilities of the next token, [source layer, target layer, vocab], with each state in each layer at `place`."""
    sites = list(net.sites.resid_post)
    edits = [site.replace(state).at(place) for state in states for site in sites]

    def read(logits: Tensor) -> Tensor:
        return logits[0, -1].float().log_softmax(-1)

    return net.sweep(ids, edits, read).view(len(states), len(sites), -1).cpu()


def _map(probability: Tensor, names: list[str], word: str) -> Heatmap:
    title = f"Probability of {word!r}, by source layer (rows) and target layer"
    return Heatmap.by_layer(title, names, names, probability.tolist(), form="percent", low=0.0, high=1.0)


def _table(subject: Subject, same: Tensor, best: Tensor, names: list[str]) -> Table:
    rows: list[tuple[str | float, ...]] = []
    for name, ids, values in zip(names, best.tolist(), same, strict=True):
        rows.append((name, *spell(subject.tokenizer, ids), float(values[ids[0]].exp())))
    columns = ("layer", *(f"{i + 1}" for i in range(best.shape[1])), "probability of the first")
    tokens: list[Form] = ["token"] * best.shape[1]
    forms: tuple[Form, ...] = ("number", *tokens, "percent")
    return Table("The likeliest next tokens, both layers the same", columns, tuple(rows), forms)
