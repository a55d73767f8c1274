"""A prompt through the logit lens or a tuned lens: what each layer would predict if the model ended there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import fmean, median
from typing import Any, overload

import torch
from torch import Tensor

from cloche.drawing import Bars, Finding, Heatmap, Lines, Panel, Provenance, Series, percent, visible
from cloche.errors import ArgumentRange
from cloche.interp.lenses.affine import JACOBIAN, TUNED, Lens, stream_sites
from cloche.interp.lenses.divergence import divergences
from cloche.interp.significance import DRAWS, p_value
from cloche.interp.subject import Subject, encode, several, spell

SHOWN = 128  # positions drawn: the last ones of a longer prompt


@overload
def logit_lens(
    subject: Subject, prompt: list[str] | list[list[int]], top: int = 10, seed: int = 0
) -> list[Finding]: ...
@overload
def logit_lens(subject: Subject, prompt: str | Iterable[int] | Tensor, top: int = 10, seed: int = 0) -> Finding: ...


def logit_lens(subject: Subject, prompt: Any, top: int = 10, seed: int = 0) -> Any:
    """Reads the residual stream after the embedding and after every layer through the final norm and the unembedding
    (nostalgebraist 2020).

    The last row is the model's own prediction, exactly. `data` (see docs/architecture.md): `top` tokens with their
    probabilities, entropy in nats, and the rank (from 1) of the actual next token. `arrays`: top_ids and top_probabilities
    [layer, position, top], entropy and rank [layer, position] (rank 0 at the last position), ids [position]. The null: the
    actual next tokens, shuffled by `seed`; `p` is the share of 99 shuffles for which their mean probability in the last layer
    is no smaller. A list of several texts or rows of ids gives a list of findings.

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
    data, arrays, plan = _through(subject, prompt, None, top, seed)
    figures, null = _figures(data)
    about = Provenance("logit-lens", subject.checkpoint, plan, seed)
    return Finding(about, _summary(data), figures, data, arrays, null, panels(data))


@overload
def tuned_lens(
    subject: Subject, prompt: list[str] | list[list[int]], lens: Lens, top: int = 10, seed: int = 0
) -> list[Finding]: ...
@overload
def tuned_lens(
    subject: Subject, prompt: str | Iterable[int] | Tensor, lens: Lens, top: int = 10, seed: int = 0
) -> Finding: ...


def tuned_lens(subject: Subject, prompt: Any, lens: Lens, top: int = 10, seed: int = 0) -> Any:
    """Reads a prompt as `logit_lens` does, each layer through its affine map of a tuned lens first (Belrose et al. 2023,
    2303.08112).

    `lens`: from `train_lens` or `open_lens`. `cloche look RUN tuned-lens` and `trace` take the one that RUN/lenses/ has for
    the checkpoint; if there is none they train it on the run's training text and keep it there. The headline is the mean
    over layers and positions of KL(model || lens) in nats, the last layer left out; its null compares with the model's
    predictions at other positions, shuffled by `seed`; a prompt of one token has none. The rest is as in `logit_lens`;
    `data` also has kl [layer], and `arrays` kl [layer, position]. Raises ClocheError for a lens of a model of another
    shape.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import LensConfig, train_lens, tuned_lens
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> lens = train_lens(glass, [torch.randint(64, (16, 32))], LensConfig(steps=2))
    >>> finding = tuned_lens(glass, [1, 2, 3], lens)
    >>> finding.figures["kl"] < finding.null["kl"], finding.data["kl"][-1]
    (True, 0.0)
    """
    return _learned(subject, prompt, lens, TUNED, top, seed)


@overload
def jacobian_lens(
    subject: Subject, prompt: list[str] | list[list[int]], lens: Lens, top: int = 10, seed: int = 0
) -> list[Finding]: ...
@overload
def jacobian_lens(
    subject: Subject, prompt: str | Iterable[int] | Tensor, lens: Lens, top: int = 10, seed: int = 0
) -> Finding: ...


def jacobian_lens(subject: Subject, prompt: Any, lens: Lens, top: int = 10, seed: int = 0) -> Any:
    """Reads a prompt as `logit_lens` does, each layer through the mean Jacobian from there to the last layer: U(norm(J_l h_l))
    (Gurnee et al. 2026). J also counts what a state does to later positions, so it reads what the model is disposed to say,
    and need not predict the next token as well as `tuned_lens`.

    `lens`: from `fit_jacobian`, or from `open_lens` if it has a Jacobian. `cloche look RUN jacobian-lens` and `trace` add
    one to the lens that RUN/lenses/ has for the checkpoint, estimated on the run's training text. Figures, null, data and
    errors are those of `tuned_lens`; `data` also has error [layer], the standard error of J relative to its norm.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import fit_jacobian, jacobian_lens
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> finding = jacobian_lens(glass, [1, 2, 3], fit_jacobian(glass, [torch.randint(64, (8, 32))]))
    >>> finding.figures["kl"] < finding.null["kl"], finding.data["kl"][-1]
    (True, 0.0)
    """
    return _learned(subject, prompt, lens, JACOBIAN, top, seed)


def _learned(subject: Subject, prompt: Any, lens: Lens, kind: str, top: int, seed: int) -> Any:
    """A prompt through the maps of one kind."""
    if (prompts := several(prompt)) is not None:
        return [_learned(subject, each, lens, kind, top, seed) for each in prompts]
    lens.check(subject.net, kind)
    data, arrays, plan = _through(subject, prompt, lambda h: lens(h, kind), top, seed)
    kl, shuffled = (float(each[:-1].mean()) for each in (arrays["kl"], arrays.pop("kl_shuffled")))
    data |= {"kl": arrays["kl"].mean(1).tolist(), "notes": [*data["notes"], *lens.notes(subject.checkpoint)]}
    error = lens.jacobian.error if kind == JACOBIAN and lens.jacobian else ()
    data |= {"error": list(error)} if kind == JACOBIAN else {}
    figures, null = _figures(data)
    null = {"kl": shuffled, **(null or {})} if len(data["tokens"]) > 1 else null
    about = Provenance(kind.lower().replace(" ", "-"), subject.checkpoint, plan, seed)
    sure = f" J is known to {max(error):.1%} of its norm or better." if error else ""
    summary = f"The lens is {kl:.3g} nats from the model's predictions, on average over layers. {_summary(data)}{sure}"
    drawn = (
        *panels(data),
        Lines("KL(model || lens)", tuple(data["layers"]), (Series("nats", tuple(data["kl"])),), low=0.0),
    )
    return Finding(about, summary, {"kl": kl} | figures, data, arrays, null, drawn)


@torch.no_grad()
def _through(
    subject: Subject, prompt: Any, lens: Callable[[Tensor], Tensor] | None, top: int, seed: int
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """A prompt through a lens, without one through the logit lens: data, arrays, and the hash of the plan."""
    net = subject.net
    vocab = net.spec.vocab
    if not 1 <= top <= vocab:
        raise ArgumentRange(f"top={top} must lie between 1 and the model's {vocab:,} tokens.")
    net.require_causal("A lens's table of next tokens")
    text, tokens = encode(subject, prompt)
    sites = stream_sites(net)
    ids = torch.tensor([tokens], device=net.embed.weight.device)
    result = net.run(ids, save=sites, logits=False)
    h = torch.stack([result[site][0] for site in sites])
    if lens is not None:
        h = lens(h.float()).to(h.dtype)
    rng = torch.Generator().manual_seed(seed)
    follows = ids[0, 1:]
    orders = torch.stack([torch.randperm(len(tokens) - 1, generator=rng) for _ in range(DRAWS)]).to(ids.device)
    rows = [_read(net.unembed(net.final_norm(each[None]))[0].float(), follows, orders, top) for each in h]
    if lens is not None:
        other = _elsewhere(len(tokens), rng).to(h.device)
        targets = {"kl": h[-1], "kl_shuffled": h[-1][other]}
        found = {name: divergences(net, last, h.float()) for name, last in targets.items()}
        rows = [row | {name: found[name][layer] for name in found} for layer, row in enumerate(rows)]
    arrays = {name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]}
    following, shuffled = arrays.pop("next"), arrays.pop("shuffled")  # [layer, position] and [layer, draw]
    sure: dict[str, Any] = {"next": [], "shuffled": []}
    if len(tokens) > 1:
        sure = {"next": following.mean(1).tolist(), "shuffled": shuffled.mean(1).tolist()}
        sure["p"] = p_value(sure["next"][-1], shuffled[-1])
    data = _data(subject, text, tokens, [str(site) for site in sites], arrays) | sure | {"notes": result.notes}
    return data, arrays | {"ids": ids[0].cpu()}, result.plan.hash


def _elsewhere(count: int, rng: torch.Generator) -> Tensor:
    """For each of `count` positions another one, at random."""
    order = torch.randperm(count, generator=rng)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def _read(logits: Tensor, follows: Tensor, orders: Tensor, top: int) -> dict[str, Tensor]:
    """One layer's row from its logits [position, vocab]."""
    log_shares = logits.log_softmax(-1)
    shares = log_shares.exp()
    best = shares.topk(top, dim=-1)
    entropy = torch.special.entr(shares).sum(-1)
    rank = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    own = logits[:-1].gather(1, follows[:, None])
    rank[:-1] = 1 + (logits[:-1] > own).sum(-1)
    after = {"next": follows[:, None], "shuffled": follows[orders].T}  # [position, 1 or draw]
    sure = {name: shares[:-1].gather(1, tokens) for name, tokens in after.items()}
    sure = {"next": sure["next"][:, 0], "shuffled": sure["shuffled"].mean(0)}
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
    own["p"] = data.pop("p")
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
