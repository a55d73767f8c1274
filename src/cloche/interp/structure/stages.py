"""Stages by depth: reading words, abstracting, and writing the next token, as curves over a model's layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Lines, Panel, Provenance, Series
from cloche.errors import CorpusEmpty, PromptInvalid
from cloche.interp.circuits.scanning import blocks_of_rows, read_layers
from cloche.interp.lenses.divergence import divergences
from cloche.interp.structure.reordering import reordered_divergences
from cloche.interp.structure.vocabulary import neuron_kurtosis
from cloche.interp.subject import Subject, spell, windows_of
from cloche.model import Network

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
    gained half of what it gains (`writing`), as shares of the depth. The null: the same regressions with tokens in another
    order, and words with their lengths in another order. Curves that a model cannot have (attention, neurons) are left out.

    `data`: curves {name: [layer]} and their nulls. Raises CorpusEmpty for fewer than 32 tokens, PromptInvalid for windows
    of one token.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import depth_stages
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> text = torch.randint(64, (8, 32), generator=torch.Generator().manual_seed(0))
    >>> curves = depth_stages(glass, [text]).data["curves"]
    >>> round(curves["current"][0], 2), len(curves["without the layer"])  # the embedding is the current token
    (1.0, 2)
    """
    net = subject.net
    batches = _batches(subject, windows)
    draw = torch.Generator().manual_seed(seed)
    curves, nulls = _regressions(net, batches, draw)
    layers = len(net.layers)
    curves["participation"] = _participation(net, batches)
    some = _some(batches, LENS_TOKENS)
    curves["lens"] = _lens(net, some)
    without, swapped = reordered_divergences(net, some)
    curves |= {"without the layer": without, "swapped with the next": swapped}
    if subject.tokenizer is not None:
        inside, shuffled = _inside_words(subject, some, draw)
        if inside:
            curves["within the word"], nulls["within the word"] = inside, shuffled
    if kurtosis := neuron_kurtosis(net):
        curves["kurtosis"] = kurtosis
    figures = {
        "reading": _crossing([-value for value in curves["current"]]),
        "writing": _crossing(curves["next"]),
        "lens": sum(curves["lens"][:-1]) / max(1, layers),
        "without": max(without),
    }
    null = {"reading": 0.5, "writing": 0.5, "lens": curves["lens"][0], "without": 0.0}
    data = {"tokens": sum(ids.numel() for ids in batches), "layers": layers, "curves": curves, "nulls": nulls}
    about = Provenance("depth-stages", subject.checkpoint, seed=seed)
    return Finding(about, _summary(data, figures), figures, data, null=null, panels=list(_panels(net, data)))


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


def _streams(net: Network, ids: Tensor) -> list[Tensor]:
    """The stream after the embedding and after every layer, each [batch, position, width]."""
    sites = [net.sites.embed, *net.sites.resid_post]
    result = net.run(ids, save=sites, logits=False)
    return [result[site].float() for site in sites]


# ---- what is in the stream


def _regressions(
    net: Network, batches: Sequence[Tensor], draw: torch.Generator
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """R^2 of each target at each site on held-out tokens, and with the targets in another order."""
    rows: list[list[Tensor]] = [[] for _ in range(len(net.layers) + 1)]
    targets: dict[str, list[Tensor]] = {name: [] for name in TARGETS}
    for ids in batches:
        for kept, stream in zip(rows, _streams(net, ids), strict=True):
            kept.append(stream[:, 1:-1].flatten(0, 1).cpu())
        for name, distance in TARGETS.items():
            embedded = (net.unembed_weight()[ids] if distance > 0 else net.embed(ids)).float()
            targets[name].append(embedded[:, 1 + distance : ids.shape[1] - 1 + distance].flatten(0, 1).cpu())
    every = torch.cat([torch.cat(each) for each in targets.values()], 1)  # [token, target * width]
    both = torch.cat([every, every[torch.randperm(len(every), generator=draw)]], 1)
    scores = torch.tensor([_explained(torch.cat(kept), both, 2 * len(TARGETS)) for kept in rows])  # [site, target]
    curves = {name: scores[:, i].tolist() for i, name in enumerate(TARGETS)}
    nulls = {name: scores[:, len(TARGETS) + i].tolist() for i, name in enumerate(TARGETS)}
    return curves, nulls


def _explained(x: Tensor, y: Tensor, parts: int) -> list[float]:
    """R^2 of each of `parts` groups of the columns of y, by ridge regression on x [row, width] fitted on the even rows and
    scored on the odd; below 0 counts as 0."""
    x, y = x.double(), y.double()
    train, test = slice(0, None, 2), slice(1, None, 2)
    mean, target = x[train].mean(0), y[train].mean(0)
    centred = x[train] - mean
    gram = centred.T @ centred
    penalty = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
    weights = torch.linalg.solve(
        gram + penalty * torch.eye(len(gram), dtype=gram.dtype), centred.T @ (y[train] - target)
    )
    missed = y[test] - target - (x[test] - mean) @ weights
    around = y[test] - y[test].mean(0)
    return [
        max(0.0, 1 - float(left.square().sum() / whole.square().sum().clamp(min=1e-300)))
        for left, whole in zip(missed.chunk(parts, 1), around.chunk(parts, 1), strict=True)
    ]


def _participation(net: Network, batches: Sequence[Tensor]) -> list[float]:
    """(sum of eigenvalues)^2 / sum of their squares, of the covariance of each stream."""
    found = []
    sums: list[list[Any]] = [[0, 0.0, 0.0] for _ in range(len(net.layers) + 1)]
    for ids in batches:
        for each, stream in zip(sums, _streams(net, ids), strict=True):
            flat = stream[:, 1:].flatten(0, 1).double()
            each[0] += len(flat)
            each[1] = each[1] + flat.sum(0)
            each[2] = each[2] + flat.T @ flat
    for count, total, squares in sums:
        covariance = squares / count - torch.outer(total, total) / count**2
        found.append(float(covariance.trace() ** 2 / covariance.square().sum().clamp(min=1e-300)))
    return found


def _lens(net: Network, batches: Sequence[Tensor]) -> list[float]:
    """Mean KL(model || logit lens) at every stream, in nats."""
    total, count = torch.zeros(len(net.layers) + 1, dtype=torch.float64), 0
    for ids in batches:
        streams = torch.stack([stream.flatten(0, 1) for stream in _streams(net, ids)])
        total += divergences(net, streams[-1], streams).double().sum(1).cpu()
        count += streams.shape[1]
    return (total / count).tolist()


# ---- words


def _inside_words(
    subject: Subject, batches: Sequence[Tensor], draw: torch.Generator
) -> tuple[list[float], list[float]]:
    """Mean attention over heads from the last token of a word to its earlier tokens, per layer; and with the lengths of the
    words in another order. Empty without words of several tokens, or without attention."""
    net = subject.net
    layers = [i for i, block in enumerate(net.layers) if getattr(block.mix, "pattern_reads", ())]
    real, other = torch.zeros(len(layers), dtype=torch.float64), torch.zeros(len(layers), dtype=torch.float64)
    count = [0, 0]
    for ids in batches:
        for row in ids:
            lengths = word_lengths(spell(subject.tokenizer, row.tolist()))
            shuffled = [lengths[i] for i in torch.randperm(len(lengths), generator=draw).tolist()]
            spans = [_spans(each) for each in (lengths, shuffled)]
            if not layers or not spans[0]:
                continue
            count = [n + len(each) for n, each in zip(count, spans, strict=True)]
            for total, each in zip((real, other), spans, strict=True):
                total += _attention_to(net, row, layers, each)
    if not count[0]:
        return [], []
    return (real / count[0]).tolist(), (other / max(count[1], 1)).tolist()


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


def _spans(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(first, last) position of every word of several tokens."""
    found, start = [], 0
    for length in lengths:
        if length > 1:
            found.append((start, start + length - 1))
        start += length
    return found


def _attention_to(net: Network, row: Tensor, layers: Sequence[int], spans: Sequence[tuple[int, int]]) -> Tensor:
    """Sum over spans of the mean attention of the heads from the last position to those before it, [layer]."""
    totals = torch.zeros(len(layers), dtype=torch.float64)

    def take(layer: int, mix: Any, reads: list[Tensor]) -> None:
        for rows, pattern, _ in blocks_of_rows(mix, reads):
            first = int(rows[0])
            for start, end in spans:
                if first <= end < first + len(rows):
                    totals[layers.index(layer)] += float(pattern[0, :, end - first, start:end].sum(-1).mean())

    read_layers(net, row[None], layers, take, logits=False)
    return totals


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


def _summary(data: dict[str, Any], figures: dict[str, float]) -> str:
    curves = data["curves"]
    most = max(range(data["layers"]), key=lambda i: curves["without the layer"][i])
    return (
        f"The current token is read from the stream with R^2 {curves['current'][0]:.2f} after the embedding and "
        f"{curves['current'][-1]:.2f} at the end (half of it gone at {figures['reading']:.0%} of the depth), the next with "
        f"{curves['next'][0]:.2f} and {curves['next'][-1]:.2f} (half of it there at {figures['writing']:.0%}); the prediction "
        f"changes most without layer {most} ({curves['without the layer'][most]:.2g} nats)."
    )


def _panels(net: Network, data: dict[str, Any]) -> Iterator[Panel]:
    places = ("embed", *(str(site) for site in net.sites.resid_post))
    layers = tuple(f"layer {i}" for i in range(data["layers"]))
    curves, nulls = data["curves"], data["nulls"]

    def lines(title: str, names: Sequence[str], x: tuple[str, ...], y: str = "") -> Lines:
        series = [Series(name, tuple(curves[name])) for name in names]
        series += [
            Series(f"{name}, another order", tuple(nulls[name]), control=True) for name in names if name in nulls
        ]
        return Lines(title, x, tuple(series), y_name=y, low=0.0)

    yield lines("Tokens read from the stream (R^2)", list(TARGETS), places)
    yield lines("KL from the logit lens to the prediction", ["lens"], places, "nats")
    yield lines("KL without a layer", ["without the layer", "swapped with the next"], layers, "nats")
    yield lines("Participation ratio of the stream", ["participation"], places)
    if "within the word" in curves:
        yield lines("Attention from a word's last token to its earlier ones", ["within the word"], layers)
    if "kurtosis" in curves:
        yield lines("Median kurtosis of the neurons' effect on the vocabulary", ["kurtosis"], layers)
