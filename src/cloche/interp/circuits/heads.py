"""Attention heads by what they attend to, on random tokens that are repeated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Heatmap, Provenance, Table
from cloche.errors import ArgumentRange, ModelUnsupported
from cloche.interp.subject import Subject
from cloche.model import Network

ROWS = 64  # queries of a pattern that exist at a time
SCORES = ("induction", "previous", "duplicate", "first", "copying")
TOP = 10  # heads in the table


@torch.no_grad()
def head_scores(subject: Subject, length: int = 25, draws: int = 8, seed: int = 0) -> Finding:
    """How much each head attends as a previous-token, induction, duplicate-token or first-token head (Olsson et al. 2022).

    `draws` texts of `length` different random tokens, each repeated once. Mean attention of a head from the queries that have
    the target: to the token before (previous), in the second half to the token after the same token's first occurrence
    (induction) and to that occurrence (duplicate), to the first token (first). 1 is a perfect head. copying: sum of Re(e)
    over sum of |e| of the eigenvalues of the map from tokens to logits through the head's values, without layers in
    between (Elhage et al. 2021): 1 raises the tokens that it attends to, -1 lowers them. `repeat_gain` is what the model gains
    by the repetition, in nats per token.

    The null is an untrained model of the same parts. `arrays`: each score [layer, head]. Patterns are computed in blocks of
    rows, a layer at a time. Layers whose mixer has no pattern are listed under `skipped`. Raises ArgumentRange for a
    length that the vocabulary or the positions do not allow.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import head_scores
    >>> glass = cloche.Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> finding = head_scores(glass, length=10)
    >>> finding.arrays["induction"].shape, finding.figures["induction"] < 0.2
    ((2, 4), True)
    """
    net = subject.net
    ids = _repeated(subject, length, draws, seed)
    scores, gain, skipped = _scores(net, ids)
    untrained = net.spec.build(seed=seed + 1).to(net.embed.weight.device).eval()
    null_scores, null_gain, _ = _scores(untrained, ids)
    figures = {name: float(scores[name].max()) for name in SCORES} | {"repeat_gain": gain}
    null = {name: float(null_scores[name].max()) for name in SCORES} | {"repeat_gain": null_gain}
    layers, heads = [int(layer) for layer in scores["layer"]], scores["induction"].shape[1]
    arrays = {name: scores[name] for name in SCORES}
    data: dict[str, Any] = {"length": length, "draws": draws, "layers": layers, "skipped": skipped}
    best = divmod(int(arrays["induction"].argmax()), heads)
    summary = (
        f"The most of induction is {figures['induction']:.2f} (layer {layers[best[0]]} head {best[1]}; untrained "
        f"{null['induction']:.2f}), of the previous token {figures['previous']:.2f} (untrained {null['previous']:.2f}); "
        f"repeating a text gains {gain:.2f} nats per token (untrained {null_gain:.2f})."
    )
    about = Provenance("head-scores", subject.checkpoint, seed=seed)
    return Finding(about, summary, figures, data, arrays, null, (_table(arrays, layers), *_maps(arrays, layers)))


def _repeated(subject: Subject, length: int, draws: int, seed: int) -> Tensor:
    """Ids [draw, 2 length] of different random tokens, twice; no special or unused ones."""
    net, tokenizer = subject.net, subject.tokenizer
    known = list(range(net.spec.vocab))
    if tokenizer is not None:
        without = {*tokenizer.unused(net.spec.vocab), tokenizer.end}
        known = [i for i in known if i not in without]
    most = min(len(known), (net.length or 2 * len(known)) // 2)
    if not 2 <= length <= most or draws < 1:
        raise ArgumentRange(
            f"length={length} and draws={draws} must be between 2 and {most} (different tokens, twice within the model's "
            "positions), and at least 1."
        )
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randperm(len(known), generator=generator)[:length] for _ in range(draws)])
    ids = torch.tensor(known)[rows]
    return torch.cat([ids, ids], 1).to(net.embed.weight.device)


def _scores(net: Network, ids: Tensor) -> tuple[dict[str, Tensor], float, list[int]]:
    """Each score [layer, head], with the layers they are of under "layer"; the gain by repetition; layers without a pattern."""
    length = ids.shape[1] // 2
    found: dict[str, list[Tensor]] = {name: [] for name in SCORES}
    layers, skipped = [], []
    between = _between(net)
    for layer, block in enumerate(net.layers):
        reads = getattr(block.mix, "pattern_reads", ())
        if not reads:
            skipped.append(layer)
            continue
        layers.append(layer)
        sites = [getattr(net.sites, name)[layer] for name in reads]
        saved = net.run(ids, save=sites, logits=False)
        for name, values in _attention(block.mix, [saved[site] for site in sites], length).items():
            found[name].append(values)
        found["copying"].append(_copying(block, between))
    if not layers:
        raise ModelUnsupported("No layer of this model has an attention pattern, so its heads cannot be told apart.")
    stacked = {name: torch.stack(values).cpu() for name, values in found.items()}
    nats = -net.run(ids).logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    gain = float(nats[:, : length - 1].mean() - nats[:, length:].mean())
    return {**stacked, "layer": torch.tensor(layers)}, gain, skipped


def _attention(mix: Any, reads: list[Tensor], length: int) -> dict[str, Tensor]:
    """Mean attention [head] to each kind of target, from blocks of the pattern's rows."""
    total: dict[str, Tensor] = {}
    counts = {"previous": 2 * length - 1, "first": 2 * length - 1, "induction": length, "duplicate": length}
    for start in range(0, 2 * length, ROWS):
        rows = torch.arange(start, min(start + ROWS, 2 * length), device=reads[0].device)
        pattern, _ = mix.pattern_rows(rows, *reads)  # [batch, head, row, choice]
        mean = pattern.double().mean(0)
        late, later = rows[rows >= length], rows[rows >= 1]
        targets = {
            "previous": (later, later - 1),
            "first": (later, torch.zeros_like(later)),
            "induction": (late, late - length + 1),
            "duplicate": (late, late - length),
        }
        for name, (queries, keys) in targets.items():
            there = mean[:, queries - start, keys].sum(1) / counts[name]
            total[name] = total[name] + there if name in total else there
    return total


def _between(net: Network) -> Tensor:
    """What is between a head's output and its input when the one writes logits and the other reads tokens: E^T U with the
    final norm's gain, [width, width]."""
    return net.embed.weight.float().T @ (net.unembed_weight().float() * _gain(net.final_norm))


def _gain(norm: Any) -> Tensor | float:
    """What a norm multiplies by, its statistics aside."""
    gain = getattr(norm, "gain", None)
    gain = getattr(norm, "weight", None) if gain is None else gain
    return 1.0 if gain is None else gain.float()


def _copying(block: Any, between: Tensor) -> Tensor:
    """Sum of Re(e) over sum of |e| for each head [head], of the eigenvalues of W_V E^T U W_O, [head size, head size]; NaN for
    a mixer without these matrices."""
    mix = block.mix
    if not hasattr(mix, "qkv"):
        return torch.full((mix.heads,), torch.nan)
    values = mix.qkv.weight[-mix.kv_heads * mix.size :].float() * _gain(getattr(block, "mix_norm", None))
    values = values.unflatten(0, (mix.kv_heads, mix.size)).repeat_interleave(mix.heads // mix.kv_heads, 0)
    out = mix.out.weight.float().unflatten(1, (mix.heads, mix.size)).transpose(0, 1)  # [head, width, head size]
    eigenvalues = torch.linalg.eigvals(torch.einsum("hsw,wu,huz->hsz", values, between, out).double())
    size = eigenvalues.abs().sum(-1)
    return torch.where(size > 0, eigenvalues.real.sum(-1) / size.clamp_min(1e-30), 0.0)


def _table(scores: dict[str, Tensor], layers: list[int]) -> Table:
    """The heads with the highest score of induction or of the previous token."""
    heads = scores["induction"].shape[1]
    order = torch.maximum(scores["induction"], scores["previous"]).flatten().argsort(descending=True)[:TOP].tolist()
    rows: list[tuple[str | float, ...]] = [
        (f"layer {layers[i // heads]} head {i % heads}", *(float(scores[name].flatten()[i]) for name in SCORES))
        for i in order
    ]
    return Table("The clearest heads", ("head", *SCORES), tuple(rows))


def _maps(scores: dict[str, Tensor], layers: list[int]) -> list[Heatmap]:
    rows = tuple(f"layer {layer}" for layer in reversed(layers))
    columns = tuple(f"h{head}" for head in range(scores["induction"].shape[1]))
    return [
        Heatmap(
            f"Attention of each head: {name}",
            rows,
            columns,
            tuple(tuple(row) for row in reversed(scores[name].tolist())),
            form="percent",
            low=0.0,
            high=1.0,
        )
        for name in ("induction", "previous")
    ]
