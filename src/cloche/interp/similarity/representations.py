"""Similarity of representations between the layers of one model, or of two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Heatmap, Lines, Panel, Provenance, Series
from cloche.errors import CorpusEmpty
from cloche.interp.route import rows_without_first
from cloche.interp.significance import untrained
from cloche.interp.similarity.measures import centred_grams, cka, memberships, permuted, shared_neighbours
from cloche.interp.subject import Subject, check_vocabulary, vector_sites, windows_of
from cloche.model import Network, Site

FEWEST = 8  # tokens; CKA without bias needs more than three
PERMUTATIONS = 20


@torch.no_grad()
def representation_similarity(
    subject: Subject,
    windows: Iterable[Any],
    other: Subject | None = None,
    site: str = "resid_post",
    tokens: int = 1024,
    neighbours: int = 10,
    seed: int = 0,
) -> Finding:
    """How alike the layers of a model represent the same tokens, or its layers and those of another model or checkpoint.

    Two measures, of a `site` with one vector per token, at `tokens` tokens drawn from `windows` (batches of ids [batch,
    position], or texts) without the first position of each: linear CKA without bias (Kornblith et al. 2019, 1905.00414;
    Székely and Rizzo 2014), which compares all distances, and the share of the `neighbours` nearest tokens by cosine in
    common (Huh et al. 2024, 2405.07987), which compares the closest. `other` must read the same tokens.

    Within one model `cka` and `neighbours` are the means over adjacent layers; of two models, the means over layers of the
    most similar layer of the other one. The null gives the tokens of one side in another order (means of 20). Random weights
    alone make layers alike, because the tokens are the same: `untrained` is the CKA within a randomly initialised
    network of the same tree or, of two models, between those of both; compare `cka` with it before calling it high.

    `arrays`: cka, shared and untrained [layer, layer of other]. Raises SiteUnsuitable for a site without one vector per
    token, InstrumentOption for models of different vocabularies, and CorpusEmpty for too few tokens.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import representation_similarity
    >>> glass = Glass(LM(64, 32, Stack(3, Block(Attention(4), GLU()))).build(seed=0))
    >>> text = torch.randint(64, (4, 32), generator=torch.Generator().manual_seed(0))
    >>> finding = representation_similarity(glass, [text])
    >>> finding.arrays["cka"].shape, bool(abs(finding.null["cka"]) < 0.05)
    ((3, 3), True)
    """
    first, second = subject.net, (other or subject).net
    check_vocabulary(first, second, "other")
    sites = [vector_sites(net, site) for net in (first, second)]
    batches = list(windows_of(subject, windows))
    chosen = _chosen(batches, tokens, neighbours, seed)
    nets = [first] if other is None else [first, second]
    read = [_rows(net, batches, where, chosen) for net, where in zip(nets, sites, strict=False)]
    grams, near = [centred_grams(rows) for rows in read], [memberships(rows, neighbours) for rows in read]
    alike, shared = cka(grams[0], grams[-1]), shared_neighbours(near[0], near[-1], neighbours)
    built = [untrained(net.spec, net.embed.weight.device, seed + i) for i, net in enumerate(nets)]
    fresh = [centred_grams(_rows(net, batches, where, chosen)) for net, where in zip(built, sites, strict=False)]
    random = cka(fresh[0], fresh[-1])
    headline = _adjacent if other is None else _best
    draw = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(chosen), generator=draw) for _ in range(PERMUTATIONS)]
    null = {
        "cka": _mean(headline(cka(grams[0], permuted(grams[-1], order))) for order in orders),
        "neighbours": _mean(
            headline(shared_neighbours(near[0], permuted(near[-1], order), neighbours)) for order in orders
        ),
    }
    figures = {"cka": headline(alike), "neighbours": headline(shared), "untrained": headline(random)}
    layers = [str(each) for each in sites[0]]
    others = layers if other is None else [f"{each} of {other.checkpoint}" for each in sites[1]]
    data = {"site": site, "tokens": len(chosen), "neighbours": neighbours, "layers": layers, "others": others}
    return Finding(
        Provenance("representation-similarity", subject.checkpoint, seed=seed),
        _summary(data, figures, null, other),
        figures,
        data,
        {"cka": alike, "shared": shared, "untrained": random},
        null | {"untrained": null["cka"]},
        _panels(data, alike, shared, random, null),
    )


def _chosen(batches: list[Tensor], tokens: int, neighbours: int, seed: int) -> Tensor:
    """Which of all rows are read, in order."""
    count = sum(batch[:, 1:].numel() for batch in batches)
    least = max(FEWEST, neighbours + 2)
    if min(count, tokens) < least or neighbours < 1:
        raise CorpusEmpty(
            f"Representations are compared at {least} tokens or more with neighbours={neighbours}, and there are "
            f"{min(count, tokens)}; give more text, more tokens= or fewer (at least one) neighbours=."
        )
    draw = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=draw)[:tokens].sort().values


def _rows(net: Network, batches: list[Tensor], sites: list[Site], chosen: Tensor) -> list[Tensor]:
    """The chosen rows of each site, [row, width]."""
    kept: list[list[Tensor]] = [[] for _ in sites]
    start = 0
    for batch in batches:
        result = net.run(batch.to(net.embed.weight.device), save=sites, logits=False)
        count = batch[:, 1:].numel()
        here = chosen[(chosen >= start) & (chosen < start + count)] - start
        for rows, site in zip(kept, sites, strict=True):
            rows.append(rows_without_first(result[site])[here.to(result[site].device)].float().cpu())
        start += count
    return [torch.cat(rows) for rows in kept]


def _adjacent(values: Tensor) -> float:
    """The mean over neighbouring layers of a square matrix; of a single layer 1."""
    return float(values.diagonal(1).mean()) if len(values) > 1 else float(values[0, 0])


def _best(values: Tensor) -> float:
    """The mean over layers of the most similar other layer."""
    return float(values.max(1).values.mean())


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _summary(data: dict[str, Any], figures: dict[str, float], null: dict[str, float], other: Subject | None) -> str:
    what = "Adjacent layers" if other is None else f"Each layer and the most similar one of {other.checkpoint}"
    return (
        f"{what} have a CKA of {figures['cka']:.2f} at {data['site']} over {data['tokens']:,} tokens ({null['cka']:.2f} with "
        f"tokens in another order, {figures['untrained']:.2f} with random weights) and share {figures['neighbours']:.0%} of "
        f"the {data['neighbours']} nearest tokens ({null['neighbours']:.0%})."
    )


def _panels(data: dict[str, Any], alike: Tensor, shared: Tensor, random: Tensor, null: dict[str, float]) -> list[Panel]:
    def grid(title: str, values: Tensor) -> Heatmap:
        return Heatmap.by_layer(title, data["layers"], data["others"], values.tolist(), low=0.0, high=1.0)

    best = (
        Series("CKA", tuple(alike.max(1).values.tolist())),
        Series("nearest tokens in common", tuple(shared.max(1).values.tolist())),
        Series("CKA, random weights", tuple(random.max(1).values.tolist()), control=True),
        Series("nearest tokens, another order", (null["neighbours"],) * len(alike), control=True),
    )
    maps: list[Panel] = [
        grid("CKA of each pair of layers", alike),
        grid("Share of nearest tokens in common", shared),
        grid("CKA with random weights", random),
    ]
    if data["layers"] == data["others"]:
        return maps
    return [*maps, Lines("The most similar layer", tuple(data["layers"]), best, low=0.0, high=1.0)]
