"""Stages by depth: reading words, abstracting, and writing the next token, as curves over a model's layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Lines, Panel, Provenance, Series
from cloche.errors import CorpusEmpty, PromptInvalid
from cloche.interp.circuits.scanning import blocks_of_rows, read_layers
from cloche.interp.lenses.affine import stream_sites
from cloche.interp.lenses.divergence import divergences, streams
from cloche.interp.manifolds.axes import participation_ratio
from cloche.interp.probing.grams import Grams
from cloche.interp.significance import untrained
from cloche.interp.structure.reordering import reordered_divergences
from cloche.interp.structure.vocabulary import neuron_kurtosis
from cloche.interp.subject import Subject, spell, windows_of
from cloche.model import Context, Network

TARGETS = {"previous": -1, "current": 0, "next": 1}  # whose embedding is read from the stream, by its distance
RIDGE = 1e-2  # of the mean variance of the stream
FEWEST = 32  # tokens
LENS_TOKENS = 1024  # at which the lens and the layers left out are measured
MOST_TOKENS = 16_384


@torch.no_grad()
def depth_stages(subject: Subject, windows: Iterable[Any], seed: int = 0) -> Finding:
    """What each layer is busy with: curves by depth for the stages of inference (Lad et al. 2024, 2406.19384; Gurnee et al.
    2024, 2401.12181).

    Over `windows` (batches of ids [batch, position], or texts), per layer: how well the embeddings of the previous and the
    current token, and the head's row of the next, are read from the stream (R^2 of a ridge regression, on the half of the
    tokens that it was not fitted on); attention from the last token of a word to its earlier ones (2410.05864); KL from the
    logit lens to the model's prediction; the participation ratio of the stream; KL from the model without the layer, and
    with the layer and the next in the other order; and the median kurtosis of the neurons' effect on the vocabulary, high for
    those that promote or suppress a few tokens.

    Reading ends where the current token has lost half of what it loses (`reading`), writing begins where the next token has
    gained half of what it gains (`writing`), as shares of the depth; `lens` is the mean KL over layers, `without` the largest
    KL without a layer. The null is an untrained model of the same parts; of the curves of tokens and words, the same with
    tokens, or lengths of words, in another order. Curves that a model cannot have (attention, neurons) are left out.

    `arrays`: previous, current, next, participation and lens [site], without, swapped, within_word and kurtosis [layer], and
    NAME_null; `trace` follows each of them. Raises CorpusEmpty for fewer than 32 tokens, PromptInvalid for windows of fewer
    than three.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import depth_stages
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> text = torch.randint(64, (8, 32), generator=torch.Generator().manual_seed(0))
    >>> curves = depth_stages(glass, [text]).arrays
    >>> round(float(curves["current"][0]), 2), len(curves["without"])  # the embedding is the current token
    (1.0, 2)
    """
    net = subject.net
    batches = _batches(subject, windows)
    some = _some(batches, LENS_TOKENS)
    draw = torch.Generator().manual_seed(seed)
    curves, shuffled = _curves(net, batches, some, draw)
    nulls, _ = _curves(untrained(net.spec, net.embed.weight.device, seed), batches, some, draw)
    figures, null = _figures(curves), _figures(nulls)
    nulls |= shuffled
    if subject.tokenizer is not None:
        inside, elsewhere = _inside_words(subject, some, draw)
        if inside:
            curves["within_word"], nulls["within_word"] = inside, elsewhere
    places = [str(site) for site in stream_sites(net)]
    layers = [f"layer {i}" for i in range(len(net.layers))]
    data = {
        "tokens": sum(ids.numel() for ids in batches),
        "layers": len(layers),
        "curves": {name: places if len(values) > len(layers) else layers for name, values in curves.items()},
    }
    arrays = {name: torch.tensor(values, dtype=torch.float64) for name, values in curves.items()}
    arrays |= {f"{name}_null": torch.tensor(values, dtype=torch.float64) for name, values in nulls.items()}
    about = Provenance("depth-stages", subject.checkpoint, seed=seed)
    panels = list(_panels(curves, nulls, places, layers))
    return Finding(about, _summary(curves, figures), figures, data, arrays, null, panels)


Curves = dict[str, list[float]]


def _figures(curves: Curves) -> dict[str, float]:
    return {
        "reading": _crossing([-value for value in curves["current"]]),
        "writing": _crossing(curves["next"]),
        "lens": fmean(curves["lens"][:-1]),
        "without": max(curves["without"]),
    }


def _batches(subject: Subject, windows: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for ids in windows_of(subject, windows):
        if ids.shape[1] < max(map(abs, TARGETS.values())) + 2:
            raise PromptInvalid(
                "Stages are measured between neighbouring tokens; give windows of three tokens or more."
            )
        found.append(ids.to(subject.net.embed.weight.device))
        if sum(each.numel() for each in found) >= MOST_TOKENS:
            break
    if sum(each.numel() for each in found) < FEWEST:
        raise CorpusEmpty(f"Stages are measured on at least {FEWEST} tokens; give more text.")
    return found


def _some(batches: Sequence[Tensor], tokens: int) -> list[Tensor]:
    """The first windows with about `tokens` tokens in all."""
    found, count = [], 0
    for ids in batches:
        rows = max(1, min(len(ids), (tokens - count) // ids.shape[1]))
        found.append(ids[:rows])
        count += found[-1].numel()
        if count >= tokens:
            break
    return found


# ---- what is in the stream


def _curves(
    net: Network, batches: Sequence[Tensor], some: Sequence[Tensor], draw: torch.Generator
) -> tuple[Curves, Curves]:
    """The curves of a network without those of words, and those of tokens in another order."""
    count = sum(ids[:, 1:-1].numel() for ids in batches)
    targets, order = _targets(net, batches), torch.randperm(count, generator=draw)
    both = torch.cat([targets, targets[order]], 1)
    found = [_read(rows, both) for rows in _by_depth(net, batches)]
    explained = torch.tensor([scores for scores, _ in found])  # [site, target, shuffled or not]
    curves = {name: explained[:, i].tolist() for i, name in enumerate(TARGETS)}
    shuffled = {name: explained[:, len(TARGETS) + i].tolist() for i, name in enumerate(TARGETS)}
    curves["participation"] = [participation for _, participation in found]
    curves["lens"] = _lens(net, some)
    curves["without"], curves["swapped"] = reordered_divergences(net, some)
    if kurtosis := neuron_kurtosis(net):
        curves["kurtosis"] = kurtosis
    return curves, shuffled


def _by_depth(net: Network, batches: Sequence[Tensor]) -> Iterator[Tensor]:
    """The stream [row, width] of all batches after the embedding, then after each layer; one is in memory at a time. Rows are
    all tokens but the first and last of each window."""
    contexts = [Context.over(ids) for ids in batches]
    x = [net.run_layers(ids, context, stop=0) for ids, context in zip(batches, contexts, strict=True)]
    for layer in range(len(net.layers) + 1):
        if layer:
            x = [net.body(h, each, None, layer - 1, layer)[0] for h, each in zip(x, contexts, strict=True)]
        yield torch.cat([h[:, 1:-1].flatten(0, 1).cpu() for h in x])


def _targets(net: Network, batches: Sequence[Tensor]) -> Tensor:
    """For the same rows, the embeddings of the previous and the current token, and the head's row of the next:
    [row, target * width]."""
    found = []
    for distance in TARGETS.values():
        table = net.unembed_weight() if distance > 0 else net.embed.weight
        ids = [batch[:, 1 + distance : batch.shape[1] - 1 + distance].flatten() for batch in batches]
        found.append(table[torch.cat(ids)].float().cpu())
    return torch.cat(found, 1)


def _read(rows: Tensor, targets: Tensor) -> tuple[list[float], float]:
    """R^2 of each target by ridge regression on rows [row, width], fitted on the even and scored on the odd (below 0 counts
    as 0), for targets as they are and in another order; and the participation ratio of the rows."""
    grams = Grams(2, rows.shape[1], targets.shape[1])
    for half in range(2):
        grams.add(half, rows[half::2], targets[half::2])
    missed = grams.errors(1, *grams.ridge([RIDGE], without=1))[0].view(2 * len(TARGETS), -1).sum(1)
    around = grams.squares([1]).view(2 * len(TARGETS), -1).sum(1).clamp(min=torch.finfo(torch.float64).tiny)
    variance = torch.linalg.eigvalsh(grams.covariance([0, 1])).clamp(min=0)
    return (1 - missed / around).clamp(min=0).tolist(), participation_ratio(variance)


def _lens(net: Network, batches: Sequence[Tensor]) -> list[float]:
    """Mean KL(model || logit lens) at every stream, in nats."""
    found = []
    for ids in batches:
        h = streams(net, ids)
        found.append(divergences(net, h[-1], h).double().cpu())
    return torch.cat(found, 1).mean(1).tolist()


# ---- words


def _inside_words(
    subject: Subject, batches: Sequence[Tensor], draw: torch.Generator
) -> tuple[list[float], list[float]]:
    """Mean attention over heads from the last token of a word to its earlier tokens, per layer (NaN for one without
    attention); and with the lengths of the words in another order. Empty without words of several tokens, or attention."""
    net = subject.net
    layers = [i for i, block in enumerate(net.layers) if getattr(block.mix, "pattern_reads", ())]
    totals, counts = torch.full((len(net.layers), 2), torch.nan, dtype=torch.float64), torch.zeros(2)
    totals[layers] = 0.0
    for ids in batches:
        spans = torch.tensor(list(_spans_of(subject, ids, draw))).view(-1, 4)
        if layers and len(spans):
            counts += torch.bincount(spans[:, 0], minlength=2)
            _add_attention(net, ids, layers, spans, totals)
    inside, elsewhere = (totals / counts.clamp(min=1)).T.tolist()
    return (inside, elsewhere) if counts[0] else ([], [])


def _spans_of(subject: Subject, ids: Tensor, draw: torch.Generator) -> Iterator[tuple[int, int, int, int]]:
    """(0, row, first, last position) of every word of several tokens, and (1, ...) with the lengths in another order."""
    for row, tokens in enumerate(ids.tolist()):
        lengths = word_lengths(spell(subject.tokenizer, tokens))
        shuffled = [lengths[i] for i in torch.randperm(len(lengths), generator=draw).tolist()]
        for kind, each in enumerate((lengths, shuffled)):
            ends = accumulate(each)
            yield from ((kind, row, end - n, end - 1) for n, end in zip(each, ends, strict=True) if n > 1)


def word_lengths(texts: Sequence[str]) -> list[int]:
    """Tokens of each word of a text: letters and digits go on with what was before unless there is whitespace between; every
    other token is a word of its own."""
    lengths: list[int] = []
    before = ""
    for text in texts:
        goes_on = bool(before) and before[-1].isalnum() and text[:1].isalnum()
        if goes_on:
            lengths[-1] += 1
        else:
            lengths.append(1)
        before = text
    return lengths


def _add_attention(net: Network, ids: Tensor, layers: Sequence[int], spans: Tensor, totals: Tensor) -> None:
    """Adds to `totals` [layer, kind] the mean attention of the heads from the last position of each span to those before."""
    kind, row, start, end = spans.to(ids.device).T

    def take(layer: int, mix: Any, reads: list[Tensor]) -> None:
        for rows, pattern, _ in blocks_of_rows(mix, reads):
            here = (end >= rows[0]) & (end <= rows[-1])
            sums = torch.nn.functional.pad(pattern.mean(1).double().cumsum(-1), (1, 0))  # [batch, row, choice + 1]
            at = row[here], end[here] - rows[0]
            totals[layer].index_add_(0, kind[here].cpu(), (sums[(*at, end[here])] - sums[(*at, start[here])]).cpu())

    read_layers(net, ids, layers, take, logits=False)


# ---- drawing


def _crossing(values: Sequence[float]) -> float:
    """The depth, as a share, from which a curve is above half of its gain from its lowest value to its last."""
    low, last = min(values), values[-1]
    half = (low + last) / 2
    above = [value >= half for value in values]
    start = len(values) - 1
    while start > 0 and above[start - 1]:
        start -= 1
    return start / max(1, len(values) - 1)


def _summary(curves: Curves, figures: dict[str, float]) -> str:
    most = max(range(len(curves["without"])), key=lambda i: curves["without"][i])
    return (
        f"The current token is read from the stream with R^2 {curves['current'][0]:.2f} after the embedding and "
        f"{curves['current'][-1]:.2f} at the end (half of it gone at {figures['reading']:.0%} of the depth), the next with "
        f"{curves['next'][0]:.2f} and {curves['next'][-1]:.2f} (half of it there at {figures['writing']:.0%}); the prediction "
        f"changes most without layer {most} ({curves['without'][most]:.2g} nats)."
    )


def _panels(curves: Curves, nulls: Curves, places: Sequence[str], layers: Sequence[str]) -> Iterator[Panel]:
    def lines(title: str, names: Sequence[str], x: Sequence[str], null: str = "untrained", y: str = "") -> Lines:
        series = [Series(name, tuple(curves[name])) for name in names]
        series += [Series(f"{name}, {null}", tuple(nulls[name]), control=True) for name in names if name in nulls]
        return Lines(title, tuple(x), tuple(series), y_name=y, low=0.0)

    yield lines("Tokens read from the stream (R^2)", list(TARGETS), places, "another order")
    yield lines("KL from the logit lens to the prediction", ["lens"], places, y="nats")
    yield lines("KL without a layer, and with the next layer before it", ["without", "swapped"], layers, y="nats")
    yield lines("Participation ratio of the stream", ["participation"], places)
    if "within_word" in curves:
        title = "Attention from a word's last token to its earlier ones"
        yield lines(title, ["within_word"], layers, "another order")
    if "kurtosis" in curves:
        yield lines("Median kurtosis of the neurons' effect on the vocabulary", ["kurtosis"], layers)
