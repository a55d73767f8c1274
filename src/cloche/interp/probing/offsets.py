"""Analogies: whether the pairs of a relation differ by one direction, with the controls that such claims need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Bars, Finding, Form, Panel, Provenance, Series, Table
from cloche.interp.probing.spaces import UNEMBED, Words
from cloche.interp.probing.wordpairs import Pairs, Relations, peers, relations
from cloche.interp.significance import DRAWS, known_tokens, p_value
from cloche.interp.subject import Subject

QUERIES = 200  # of one relation at most
AT_ONCE = 64  # queries compared with the vocabulary at a time
SPACES = ("", "_causal")


@torch.no_grad()
def analogies(
    subject: Subject,
    pairs: Path | Pairs,
    site: str = UNEMBED,
    context: str = "",
    windows: Any = None,
    seed: int = 0,
) -> Finding:
    """Whether the word pairs of each relation differ by one direction, and whether adding it to a word gives its partner.

    `pairs`: a file of lines `man woman king queen` under `: family` (Mikolov et al. 2013's questions-words.txt), or pairs of
    words or token ids by relation. Only pairs of words of a single token count; how many remain is stated. Vectors are rows
    of the unembedding ("unembed") or the embedding ("embed"), or a site's state such as resid_post[3] at the word after
    `context` (without one the word is the first token, where the states of many models are unlike all others).

    `cosine`: between the offsets b - a of two pairs, the mean over all pairs of pairs and relations; `cosine_causal`: the
    same in the causal inner product Cov(W_U)^-1 (Park et al. 2023, 2311.03658), in the stream its dual. `accuracy`: 3CosAdd,
    the word nearest by cosine to c + b - a, found among the whole vocabulary (at a site, among the words of all pairs)
    without the query words a, b and c; `accuracy_with_query`: with them, where the nearest is mostly c itself.
    `accuracy_left_out`: c plus the mean offset of all other pairs.

    The null: the same with the pairs of a relation shuffled, which leaves what all its first words share. `p` is the share
    of 99 shufflings with as large a cosine. The table also has pairs of other words as frequent (by `windows`, or the order of
    the ids), and the accuracy without any offset. `data`: relations with their figures. `arrays`: cosines and cosines_causal
    [relation], which `trace` follows. Raises PromptInvalid where no relation has four pairs left, RecordInvalid for a
    damaged file, and SiteUnsuitable for a site that is not of the stream.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import analogies
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0)
    >>> with torch.no_grad():
    ...     net.unembed.weight[32:] = net.unembed.weight[:32] + torch.randn(32)
    >>> finding = analogies(Glass(net), {"plural": [(i, 32 + i) for i in range(8)]})
    >>> round(finding.figures["cosine"], 3), finding.figures["accuracy"]
    (1.0, 1.0)
    """
    found = relations(subject, pairs)
    words = Words(subject, site, context)
    spaces = _Spaces(words, found, peers(subject, found, windows))
    draw = torch.Generator().manual_seed(seed)
    rows = [_measured(spaces, name, draw) for name in found.pairs]
    names = [row["relation"] for row in rows]
    cosines = {key: torch.tensor([row[key] for row in rows]) for key in ("cosine", "cosine_causal")}
    shuffled = {
        key: torch.stack([row.pop(f"{key}_shuffled") for row in rows], 1) for key in cosines
    }  # [draw, relation]
    for key, values in shuffled.items():
        for i, row in enumerate(rows):
            row[f"{key}_shuffled"] = float(values[:, i].mean())
    measures = ("cosine", "cosine_causal", "accuracy", "accuracy_with_query", "accuracy_left_out")
    figures = {key: fmean(row[key] for row in rows) for key in measures}
    null = {key: fmean(row[f"{key}_shuffled"] for row in rows) for key in measures} | {"p": 0.5}
    figures["p"] = p_value(float(cosines["cosine"].mean()), shuffled["cosine"].mean(1) - 1e-6)
    data = {
        "site": site,
        "context": context,
        "relations": rows,
        "left_out": {name: count for name, count in found.given.items() if name not in found.pairs},
        "candidates": len(spaces.candidates),
        "curves": {"cosines": names, "cosines_causal": names},
    }
    arrays = {"cosines": cosines["cosine"], "cosines_null": shuffled["cosine"]}
    arrays |= {"cosines_causal": cosines["cosine_causal"], "cosines_causal_null": shuffled["cosine_causal"]}
    about = Provenance("analogies", subject.checkpoint, seed=seed)
    return Finding(about, _summary(data, figures, null, found), figures, data, arrays, null, _panels(data))


class _Spaces:
    """Vectors of the words of all pairs, of their peers and of the candidates, raw and in the causal space."""

    def __init__(self, words: Words, found: Relations, peers: Tensor) -> None:
        self.pairs, self.given, self.peers = found.pairs, found.given, peers
        self.candidates = list(range(known_tokens(words.subject))) if words.everything else found.tokens
        self.place = {token: i for i, token in enumerate(self.candidates)}
        self.row = {token: i for i, token in enumerate(found.tokens)}
        others, self.peer_rows = peers.unique(return_inverse=True)  # [token, peer] rows of `others`
        vectors, other = words.vectors(self.candidates), words.vectors(others.tolist())
        causal = words.causal()
        self.vectors = dict(zip(SPACES, (vectors, vectors @ causal), strict=True))
        self.others = dict(zip(SPACES, (other, other @ causal), strict=True))


def _measured(spaces: _Spaces, name: str, draw: torch.Generator) -> dict[str, Any]:
    """The figures of one relation; the shuffled cosines as [draw]."""
    pairs = torch.tensor([[spaces.place[token] for token in pair] for pair in spaces.pairs[name]])
    row: dict[str, Any] = {"relation": name, "pairs": len(pairs), "given": spaces.given[name]}
    orders = torch.stack([torch.randperm(len(pairs), generator=draw) for _ in range(DRAWS)])
    own = torch.tensor([[spaces.row[token] for token in pair] for pair in spaces.pairs[name]])  # [pair, 2]
    drawn = torch.randint(spaces.peers.shape[1], (DRAWS, *own.shape), generator=draw)
    replaced = spaces.peer_rows[own.expand_as(drawn), drawn]  # [draw, pair, 2]
    queries = _queries(len(pairs), draw)
    turned = torch.stack([pairs[:, 0], pairs[:, 1].roll(1)], 1)
    for space in SPACES:
        vectors, others = spaces.vectors[space], spaces.others[space]
        first, second = vectors[pairs[:, 0]], vectors[pairs[:, 1]]
        row[f"cosine{space}"] = float(mean_cosine(second - first))
        row[f"cosine{space}_shuffled"] = torch.stack([mean_cosine(second[order] - first) for order in orders])
        frequent = torch.stack([mean_cosine(others[each[:, 1]] - others[each[:, 0]]) for each in replaced])
        row[f"cosine{space}_frequent"] = float(frequent.mean())
        row[f"p_frequent{space}"] = p_value(row[f"cosine{space}"], frequent - 1e-6)
        row[f"p{space}"] = p_value(row[f"cosine{space}"], row[f"cosine{space}_shuffled"] - 1e-6)
        unit = torch.nn.functional.normalize(vectors, dim=1)
        for suffix, each in (("", pairs), ("_shuffled", turned)):
            without, with_query = three_cos_add(vectors, unit, each, queries)
            row |= {f"accuracy{space}{suffix}": without, f"accuracy_with_query{space}{suffix}": with_query}
            row[f"accuracy_left_out{space}{suffix}"] = left_out(vectors, unit, each)
        row[f"accuracy_without_offset{space}"] = left_out(vectors, unit, pairs, offset=0.0)
    return row


def mean_cosine(offsets: Tensor) -> Tensor:
    """The mean cosine of two different rows of offsets [pair, width]."""
    unit = torch.nn.functional.normalize(offsets.double(), dim=1)
    n = len(unit)
    return (unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1))


def _queries(count: int, draw: torch.Generator) -> Tensor:
    """Two different pairs of `count` [query, 2]: one to take the offset of, one to ask about."""
    every = torch.cartesian_prod(torch.arange(count), torch.arange(count))
    every = every[every[:, 0] != every[:, 1]]
    return every[torch.randperm(len(every), generator=draw)[:QUERIES]]


def three_cos_add(vectors: Tensor, unit: Tensor, pairs: Tensor, queries: Tensor) -> tuple[float, float]:
    """Shares of `queries` [query, 2] of `pairs` [pair, 2], both as rows, whose answer is the row nearest to c + b - a by
    cosine: without the rows a, b and c, and with them. Queries whose four words are not different do not count."""
    (a, b), (c, d) = (pairs[queries[:, i]].T for i in (0, 1))
    whole = (a != c) & (b != d) & (a != d) & (b != c)
    a, b, c, d = a[whole], b[whole], c[whole], d[whole]
    return _hits(unit, vectors[c] + vectors[b] - vectors[a], d, torch.stack([a, b, c], 1))


def left_out(vectors: Tensor, unit: Tensor, pairs: Tensor, offset: float = 1.0) -> float:
    """Share of pairs whose second word is nearest to the first plus the mean offset of all other pairs, the first left out."""
    offsets = vectors[pairs[:, 1]] - vectors[pairs[:, 0]]
    others = (offsets.sum(0) - offsets) / (len(offsets) - 1)
    return _hits(unit, vectors[pairs[:, 0]] + offset * others, pairs[:, 1], pairs[:, :1])[0]


def _hits(unit: Tensor, asked: Tensor, answers: Tensor, query: Tensor) -> tuple[float, float]:
    """Shares of rows asked [n, width] nearest to their answers [n] without the rows `query` [n, k], and with them."""
    hits = torch.zeros(2)
    for target, answer, own in zip(*(each.split(AT_ONCE) for each in (asked, answers, query)), strict=True):
        scores = target @ unit.T
        hits[1] += (scores.argmax(1) == answer).sum()
        hits[0] += (scores.scatter(1, own, -torch.inf).argmax(1) == answer).sum()
    without, with_query = (hits / max(1, len(asked))).tolist()
    return without, with_query


# ---- drawing


def _summary(data: dict[str, Any], figures: dict[str, float], null: dict[str, float], found: Relations) -> str:
    kept, given = sum(map(len, found.pairs.values())), sum(found.given.values())
    return (
        f"{kept:,} of {given:,} pairs are of two single tokens, in {len(found.pairs)} of {len(found.given)} relations; at "
        f"{data['site']} their offsets have a mean cosine of {figures['cosine']:.2f} ({null['cosine']:.2f} with shuffled "
        f"pairs), {figures['cosine_causal']:.2f} in the causal inner product ({null['cosine_causal']:.2f}); 3CosAdd is right "
        f"in {figures['accuracy']:.0%} without the query words ({null['accuracy']:.0%}) and in "
        f"{figures['accuracy_with_query']:.0%} with them."
    )


def _panels(data: dict[str, Any]) -> list[Panel]:
    rows: Sequence[dict[str, Any]] = data["relations"]
    keys = ("relation", "pairs", "given", "cosine", "cosine_shuffled", "cosine_frequent", "p", "p_frequent")
    causal = ("cosine_causal", "cosine_causal_shuffled", "cosine_causal_frequent", "p_causal", "p_frequent_causal")
    titles = ("cosine", "shuffled pairs", "equal frequency", "p, shuffled", "p, frequency")
    counted: tuple[Form, ...] = ("number", "count", "count")
    asked = tuple(
        f"accuracy{kind}{space}" for space in SPACES for kind in ("", "_with_query", "_left_out", "_without_offset")
    )
    kinds = ("3CosAdd", "with the query words", "mean offset of other pairs", "no offset")
    names = tuple(row["relation"] for row in rows)
    note = "; ".join(f"{name}: too few of {count:,}" for name, count in data["left_out"].items())

    def table(
        title: str, columns: Sequence[str], body: Sequence[str], forms: tuple[Form, ...], note: str = ""
    ) -> Table:
        return Table(title, tuple(columns), tuple(tuple(row[key] for key in body) for row in rows), forms, note)

    bars = [
        Series("offsets", tuple(row["cosine"] for row in rows)),
        Series("causal inner product", tuple(row["cosine_causal"] for row in rows)),
        Series("shuffled pairs", tuple(row["cosine_shuffled"] for row in rows), control=True),
        Series("words of equal frequency", tuple(row["cosine_frequent"] for row in rows), control=True),
    ]
    numbers: tuple[Form, ...] = ("number",) * 5
    shares: tuple[Form, ...] = ("percent",) * 4
    return [
        Bars("Mean cosine of two pairs' offsets", names, tuple(bars)),
        table("Offsets", ("relation", "pairs", "given", *titles), keys, counted + numbers, note),
        table(
            "Offsets in the causal inner product", ("relation", *titles), ("relation", *causal), ("number", *numbers)
        ),
        table("Right answers", ("relation", *kinds), ("relation", *asked[:4]), ("number", *shares)),
        table("In the causal inner product", ("relation", *kinds), ("relation", *asked[4:]), ("number", *shares)),
    ]
