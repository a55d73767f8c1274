"""Spectra of what heads read and write, from their weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cloche.drawing import Finding, Heatmap, Lines, Panel, Provenance, Scatter, Series, Table, visible
from cloche.errors import InstrumentOption, shown
from cloche.interp.circuits.products import (
    Kind,
    Product,
    Spectra,
    depends_on_offset,
    joined,
    layers_of,
    product,
    spectra_of,
)
from cloche.interp.circuits.scanning import Head, name_of, read_heads
from cloche.interp.circuits.weights import unembedding
from cloche.interp.manifolds.axes import participation_ratio
from cloche.interp.significance import untrained
from cloche.interp.subject import Subject, spell
from cloche.model import LM, Network

SHOWN, LISTED = 3, 10  # heads whose directions are shown by default; heads in the table
DIRECTIONS, TOKENS = 4, 5  # of a head, and of each end of a direction
SAME = 16  # roundings of the largest singular value within which two are the same
MOST_OFFSET = 10**6
SCORE = {"ov": "copying", "qk": "matching"}
ENDS = {"ov": ("writes", "reads"), "qk": ("query", "key")}


@torch.no_grad()
def head_spectra(
    subject: Subject, of: Kind = "ov", heads: Sequence[str] = (), offsets: Sequence[int] = (0, 1, 4), seed: int = 0
) -> Finding:
    """Singular values, eigenvalues and token directions of each head's weights (Elhage et al. 2021; Millidge and Black 2022).

    of: "ov", the map W_O W_V from the token attended to, to what is written; or "qk", the scores W_Q^T R W_K of a query and a
    key, where under RoPE the rotation R depends on how far back the key is: `offsets`. Per query head, also where heads share
    keys and values. Norms around the heads are folded in with their scale fixed; biases, position embeddings and soft caps
    are left out. Nothing of [width, width] is decomposed: two QR decompositions leave a core of [size, size].

    The score of a head is sum of Re(e) over sum of |e| of the eigenvalues of the map from tokens to tokens: of "ov" through
    embedding and unembedding (copying: 1 raises the token attended to, -1 lowers it), of "qk" through the embedding on both
    sides (matching: 1 attends to the same token, -1 avoids it). The null is an untrained model of the same parts, whose
    scores are 0 within their `spread`.

    heads: such as "0.1,2.3", whose directions are shown; by default those with the largest scores. Singular values that are
    the same up to rounding have no directions of their own and are shown as one subspace. `arrays`: copying or matching
    [offset, layer, head] with NAME_null; singular, eigenvalues_real, eigenvalues_imaginary [offset, layer, head, size]; left,
    right [offset, shown head, width, size] ("ov" has one offset). Raises ModelUnsupported for a model without such heads, and
    of "qk" for one that normalises queries and keys.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import head_spectra
    >>> glass = cloche.Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> finding = head_spectra(glass)
    >>> finding.arrays["singular"].shape, abs(finding.figures["copying"]) < 1
    ((1, 2, 4, 8), True)
    """
    if of not in SCORE:
        raise InstrumentOption(f"of={shown(of)} must be ov or qk.")
    net, name = subject.net, SCORE[of]
    layers = layers_of(net, of)
    places = _places(net, of, layers, offsets)
    found = spectra_of(net, of, layers, places)
    other = _untrained(net.spec, of, tuple(layers), tuple(places), seed)
    chosen = _chosen(net, heads, found)
    maps = [[_map_of(net, of, head, place) for place in places] for head in chosen]
    known = other.score[~other.score.isnan()]
    spread = float(known.std()) if len(known) > 1 else 0.0
    data: dict[str, Any] = {
        "of": of,
        "offsets": places,
        "layers": layers,
        "skipped": [layer for layer in range(len(net.layers)) if layer not in layers],
        "shown": [list(head) for head in chosen],
        "spread": spread,
        "curves": {name: [_name(head, place, places) for place in places for head in _heads(found)]},
    }
    arrays = {
        name: found.score,
        f"{name}_null": other.score,
        "singular": found.singular,
        "eigenvalues_real": found.eigenvalues.real,
        "eigenvalues_imaginary": found.eigenvalues.imag,
        "left": joined([torch.stack([each.left for each in own])[:, None] for own in maps])[:, :, 0],
        "right": joined([torch.stack([each.right for each in own])[:, None] for own in maps])[:, :, 0],
    }
    figures, null = _figures(found, name), _figures(other, name)
    about = Provenance("head-spectra", subject.checkpoint, seed=seed)
    panels = (
        *_score_maps(found, name, places),
        _table(found, name, places, spread),
        *_curves(found, chosen, places, other),
        _directions(subject, of, chosen, maps, places),
    )
    return Finding(about, _summary(found, name, places, spread), figures, data, arrays, null, panels)


@lru_cache(maxsize=16)  # a trace asks for the same at every checkpoint
def _untrained(spec: LM, of: Kind, layers: tuple[int, ...], places: tuple[int, ...], seed: int) -> Spectra:
    return spectra_of(untrained(spec, torch.device("cpu"), seed), of, list(layers), list(places))


class HeadMap(NamedTuple):
    """Of one head at one offset: singular vectors left, right [width, size] and values [size]."""

    left: Tensor
    values: Tensor
    right: Tensor


def _map_of(net: Network, of: Kind, head: Head, place: int) -> HeadMap:
    layer, index = head
    whole = product(net, of, layer, place)
    return HeadMap(*(each[0].cpu() for each in Product(*(part[index, None] for part in whole)).decomposed()))


def _places(net: Network, of: Kind, layers: list[int], offsets: Sequence[int]) -> list[int]:
    """The offsets to look at: a single one where nothing depends on it."""
    if not offsets or not all(isinstance(each, int) and 0 <= each <= MOST_OFFSET for each in offsets):
        raise InstrumentOption(
            f"offsets={shown(list(offsets))} must be how many positions the key is back, from 0 to {MOST_OFFSET:,}."
        )
    return list(dict.fromkeys(offsets)) if of == "qk" and depends_on_offset(net, layers) else [0]


def _heads(found: Spectra) -> list[Head]:
    return [(layer, head) for layer in found.layers for head in range(found.score.shape[2])]


def _name(head: Head, place: int, places: Sequence[int]) -> str:
    return name_of(head) + (f", {place} back" if len(places) > 1 else "")


def _chosen(net: Network, heads: Sequence[str], found: Spectra) -> list[Head]:
    """The heads named, or those with the largest score at any offset."""
    chosen = read_heads(net, heads)
    if missing := [head for head in chosen if head[0] not in found.layers]:
        raise InstrumentOption(f"heads: {name_of(missing[0])} is not a product of weight matrices; choose another.")
    order = _strongest(found).flatten().argsort(descending=True)[:SHOWN].tolist()
    return chosen or [_heads(found)[i] for i in order]


def _strongest(found: Spectra) -> Tensor:
    """The largest score of each head, sign aside, over the offsets: [layer, head]."""
    return found.score.abs().nan_to_num(-1.0).amax(0)


def _figures(found: Spectra, name: str) -> dict[str, float]:
    """The highest and lowest score, the largest singular value, and the mean effective rank: (sum of s^2)^2 / sum of s^4."""
    score, squares = found.score[~found.score.isnan()], found.singular.nan_to_num(0.0).square()
    ranks = [participation_ratio(each) for each in squares.flatten(0, -2) if each.any()]
    ends = {name: float(score.max()), f"lowest_{name}": float(score.min())} if len(score) else {}
    return ends | {"largest": float(squares.max().sqrt()), "effective_rank": fmean(ranks)}


def _summary(found: Spectra, name: str, places: list[int], spread: float) -> str:
    flat = [(float(found.score[at, i // found.score.shape[2], i % found.score.shape[2]]), head, place)
            for at, place in enumerate(places) for i, head in enumerate(_heads(found))]  # fmt: skip
    known = [each for each in flat if each[0] == each[0]]
    if not known:
        return f"{len(flat)} spectra; without a linear unembedding there is no score of {name}."
    high, low = max(known), min(known)
    beyond = sum(abs(score) > 2 * spread for score, _, _ in known)
    return (
        f"The score of {name} is beyond two spreads of an untrained model ({spread:.2f}) in {beyond} of {len(known)} "
        f"heads{' and offsets' if len(places) > 1 else ''}; the highest is {high[0]:.2f} ({_name(*high[1:], places)}), the "
        f"lowest {low[0]:.2f} ({_name(*low[1:], places)})."
    )


# ---- panels


def _score_maps(found: Spectra, name: str, places: list[int]) -> list[Heatmap]:
    rows = [f"layer {layer}" for layer in found.layers]
    columns = [f"h{head}" for head in range(found.score.shape[2])]
    titles = [f"Score of {name}" + (f", {place} back" if len(places) > 1 else "") for place in places]
    return [
        Heatmap.by_layer(title, rows, columns, score.tolist(), low=-1.0, high=1.0)
        for title, score in zip(titles, found.score, strict=True)
    ]


def _table(found: Spectra, name: str, places: list[int], spread: float) -> Table:
    rows: list[tuple[str | float, ...]] = []
    for i in _strongest(found).flatten().argsort(descending=True)[:LISTED].tolist():
        head, place = divmod(i, found.score.shape[2])
        for at, back in enumerate(places):
            score, values = float(found.score[at, head, place]), found.singular[at, head, place].nan_to_num(0.0)
            sizes = float(values.max()), participation_ratio(values.square())
            rows.append((_name(_heads(found)[i], back, places), score, score / max(spread, 1e-12), *sizes))
    columns = ("head", name, "in spreads", "largest singular value", "effective rank")
    return Table("The strongest heads", columns, tuple(rows), note=f"The spread of untrained heads is {spread:.3f}.")


def _curves(found: Spectra, chosen: list[Head], places: list[int], other: Spectra) -> list[Panel]:
    """Singular values of the shown heads beside an untrained model's, and their eigenvalues."""
    every = [(head, at, place) for head in chosen for at, place in enumerate(places)]
    own = [(_name(head, place, places), at, found.layers.index(head[0]), head[1]) for head, at, place in every]
    usual = other.singular.flatten(0, 2).nanmedian(0).values
    series = [Series(name, tuple(found.singular[at, layer, head].tolist())) for name, at, layer, head in own]
    series.append(Series("untrained", tuple(usual.tolist()), control=True))
    singular = Lines("Singular values", tuple(map(float, range(1, len(usual) + 1))), tuple(series), "rank", low=0.0)
    points = [(name, value) for name, at, layer, head in own for value in found.eigenvalues[at, layer, head].tolist()]
    eigen = Scatter(
        "Eigenvalues",
        tuple((value.real, value.imag) for _, value in points),
        ("real", "imaginary"),
        tuple(name for name, _ in points),
    )
    return [singular, eigen]


def _directions(subject: Subject, of: Kind, chosen: list[Head], maps: list[list[HeadMap]], places: list[int]) -> Table:
    """The tokens at both ends of the strongest directions of each head."""
    rows: list[tuple[str | float, ...]] = []
    for head, own in zip(chosen, maps, strict=True):
        for place, each in zip(places, own, strict=True):
            left, right = _on_tokens(subject.net, of, each)
            for group in subspaces(each.values, subject.net.embed.weight.dtype)[:DIRECTIONS]:
                which = str(group[0] + 1) if len(group) == 1 else f"{group[0] + 1} to {group[-1] + 1}"
                ends = [_spelled(subject, side) for side in _ends(left, right, group)]
                rows.append((_name(head, place, places), which, float(each.values[group].mean()), *ends))
    note = (
        "Tokens with the largest product; of values that are the same, those with the largest part in their subspace."
    )
    return Table("Directions", ("head", "direction", "singular value", *ENDS[of]), tuple(rows), note=note)


def _on_tokens(net: Network, of: Kind, each: HeadMap) -> tuple[Tensor | None, Tensor]:
    """The products of tokens with the left and right singular vectors, [token, direction]; None where a head or final norm
    that is not linear reads the left ones."""
    embed = net.embed.weight
    left, right = (side.to(embed.device, torch.float32) for side in (each.left, each.right))
    if of == "qk":
        return embed.float() @ left, embed.float() @ right
    head = unembedding(net)
    return None if head is None else head @ left, embed.float() @ right


def _ends(left: Tensor | None, right: Tensor, group: list[int]) -> list[Tensor | None]:
    """Each token's part [token] in the left and right end of a direction, or of a subspace."""
    if len(group) > 1:
        return [None if left is None else left[:, group].norm(dim=1), right[:, group].norm(dim=1)]
    # The sign of a pair of singular vectors is free: the token with the largest part on the right is positive.
    reads = right[:, group[0]]
    sign = 1.0 if float(reads.max()) >= -float(reads.min()) else -1.0
    return [None if left is None else sign * left[:, group[0]], sign * reads]


def subspaces(values: Tensor, dtype: torch.dtype) -> list[list[int]]:
    """Indices of the singular values [size], largest first, that are not zero; those that rounding in `dtype` cannot tell
    apart are together."""
    near = SAME * torch.finfo(dtype).eps * float(values[0])
    groups: list[list[int]] = []
    for i, value in enumerate(values.tolist()):
        if value <= near:
            break
        if groups and float(values[i - 1]) - value <= near:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _spelled(subject: Subject, scores: Tensor | None) -> str:
    if scores is None:
        return ""
    if subject.tokenizer is not None and (unused := list(subject.tokenizer.unused(subject.net.spec.vocab))):
        scores = scores.index_fill(0, torch.tensor(unused, device=scores.device), -torch.inf)
    best = scores.topk(min(TOKENS, len(scores))).indices.tolist()
    return " ".join(visible(token) for token in spell(subject.tokenizer, best))
