"""k-sparse probing of a dictionary's features, of neurons and of residual axes: which basis predicts most with few units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cloche.drawing import Finding, Lines, Panel, Provenance, Series, Table
from cloche.errors import CorpusEmpty, DictionaryMismatch, SettingConflict, SiteUnsuitable
from cloche.interp.probing.labels import Labels, read_labels, token_labels
from cloche.interp.probing.probes import Matrix, Probes, Score, Sparse, probe
from cloche.interp.records import ProbesRecord, ProbingData, ScoreRecord, SparseScore, plain
from cloche.interp.route import FIRST, reader_of, rows_without_first
from cloche.interp.subject import Subject, windows_of
from cloche.model import Network, Site
from cloche.sparse import SAE, Code

FEATURES = "features"
HELD_OUT = 0.3  # share of the windows, not of the tokens, because neighbouring tokens are similar
FEWEST = 20  # tokens of either class on either side of the split, below which a label is left out


@torch.no_grad()
def sparse_probing(
    subject: Subject,
    windows: Iterable[Any],
    site: Site | str | None = None,
    sae: SAE | None = None,
    labels: Labels = token_labels,
    ks: Sequence[int] = (1, 2, 4, 8, 16),
    seed: int = 0,
    name: str = "",
) -> Finding:
    """How well the best k units of a basis predict each label of a token, by k (Gurnee et al. 2023, 2305.01610).

    Bases: the axes of `site` (by default that of the dictionary), the neurons of the same layer, and the features of `sae`,
    called `name`, if one is given. labels: a function from token ids [batch, position] to bool [batch, position] by name.
    `probes.probe` describes how units are chosen and probes fitted; all units at once are the ceiling, shuffled labels the
    control. Whole windows of `windows` (batches of ids [batch, position], or texts) are held out; all activations are held
    in memory, and some 10,000 tokens are enough.

    `data`: docs/architecture.md. Raises ClocheError for a site that is not one vector per token, a dictionary of another
    site, fewer than four windows, and if no label is frequent enough.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> import torch
    >>> from cloche.interp import sparse_probing
    >>> def vowels(subject, ids):
    ...     shown = [[subject.tokenizer.show(int(i))[-1] in "aeiou" for i in row] for row in ids]
    ...     return {"ends in a vowel": torch.tensor(shown)}
    >>> finding = sparse_probing(glass, [text] * 6, site="resid_post[1]", labels=vowels, ks=(1, 4))
    >>> [label["name"] for label in finding.data["labels"]]
    ['ends in a vowel']
    """
    net = subject.net
    places = _Places(net, site, sae)
    ids, window, columns, codes = _read(net, windows_of(subject, windows), places, sae)
    found = _labels(subject, ids, labels)
    train = _train(window, seed)
    names, skipped = _often_enough(found, train)
    bases: dict[str, Matrix] = {str(place): rows.numpy() for place, rows in zip(places.bases, columns, strict=True)}
    if sae is not None:
        bases = {FEATURES: _joined(codes, sae.features), **bases}
    truth = np.stack([found[name] for name in names], 1)
    probes = {basis: probe(x, truth, train, ks, seed) for basis, x in bases.items()}
    record: ProbingData = {
        "dictionary": name,
        "site": str(places.site),
        "tokens": len(train),
        "held_out": int((~train).sum()),
        "ks": sorted(set(ks)),
        "bases": [
            {"name": name, "units": (x.size if isinstance(x, Code) else x.shape[1])} for name, x in bases.items()
        ],
        "labels": [
            {"name": name, "rate": float(found[name].mean()), "bases": {b: _as_data(probes[b][i]) for b in bases}}
            for i, name in enumerate(names)
        ],
        "skipped": skipped,
    }
    data = plain(record)
    plan, _ = net.plan(places.saves, [], ids[0], None)
    figures, null = _figures(data)
    about = Provenance("sparse-probing", subject.checkpoint, plan.hash, seed)
    return Finding(about, _summary(data), figures, data, null=null, panels=panels(data))


class _Places:
    """Sites to read: the basis `site`, the neurons of its layer if they are another site, and what a dictionary reads."""

    def __init__(self, net: Network, site: Site | str | None, sae: SAE | None) -> None:
        if site is None and sae is None:
            raise SettingConflict("Probing needs a site or a dictionary: give site='resid_post[1]' or sae=NAME.")
        self.reads: list[Site] = []
        if sae is not None and (site is None or sae.trained_on.site is not None):
            reader = reader_of(sae, net)
            self.reads = reader.sites[: len(reader.route.reads)]
        self.site = net.sites.resolve(site)[0] if site is not None else self.reads[-1]
        if self.reads and self.site not in self.reads:
            known = ", ".join(map(str, self.reads))
            raise DictionaryMismatch(f"The dictionary reads {known}, not {self.site}; leave the site out.")
        if self.site.axes[:2] != ("batch", "position"):
            raise SiteUnsuitable(
                f"{self.site} has axes {', '.join(self.site.axes)}, and a probe reads one vector per token: choose a site "
                "such as resid_post[1]."
            )
        neurons = net.sites.resolve("mlp_act.all") if "mlp_act" in dir(net.sites) else []
        self.bases = [self.site, *(n for n in neurons if n.layer == self.site.layer and n != self.site)]
        self.reads = self.reads or [self.site]

    @property
    def saves(self) -> list[Site]:
        return [*dict.fromkeys((*self.bases, *self.reads))]


def _rows(value: Tensor) -> Tensor:
    """[n, units] of a saved site, without the first position; heads side by side."""
    return rows_without_first(value).flatten(1).float().cpu()


def _read(
    net: Network, windows: Iterable[Tensor], places: _Places, sae: SAE | None
) -> tuple[list[Tensor], Tensor, list[Tensor], list[Code]]:
    """Ids batch by batch, the window of each token, each basis' rows [n, units] and the codes."""
    ids: list[Tensor] = []
    window: list[Tensor] = []
    columns: list[list[Tensor]] = [[] for _ in places.bases]
    codes: list[Code] = []
    for given in windows:
        batch = given.cpu()
        if not batch[:, FIRST:].numel():
            continue
        result = net.run(batch.to(net.embed.weight.device), save=places.saves, logits=False)
        if sae is not None:
            codes.append(sae.encode(torch.cat([_rows(result[place]) for place in places.reads], 1)))
        start = int(window[-1][-1]) + 1 if window else 0
        window.append(torch.arange(start, start + len(batch)).repeat_interleave(batch.shape[1] - FIRST))
        ids.append(batch)
        for kept, place in zip(columns, places.bases, strict=True):
            kept.append(_rows(result[place]))
    if sum(map(len, ids)) < 4:
        raise CorpusEmpty("There is too little text to probe: give at least four windows of two tokens.")
    return ids, torch.cat(window), [torch.cat(rows) for rows in columns], codes


def _labels(subject: Subject, ids: Sequence[Tensor], labels: Labels) -> dict[str, Any]:
    """Labels of the tokens that were read: bool [n] by name."""
    parts = read_labels(subject, ids, labels)
    return {name: torch.cat([p[name][:, FIRST:].flatten() for p in parts]).cpu().numpy() for name in parts[0]}


def _train(window: Tensor, seed: int) -> Any:
    """[n] whether a token's window is for training."""
    count = int(window[-1]) + 1
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(count, dtype=torch.bool)
    held[order[: max(1, round(HELD_OUT * count))]] = True
    return (~held[window]).numpy()


def _often_enough(found: dict[str, Any], train: Any) -> tuple[list[str], dict[str, str]]:
    """The labels to probe, and the others with the reason why they are left out."""
    skipped = {}
    for name, label in found.items():
        least = min(int((label[side] == value).sum()) for side in (train, ~train) for value in (True, False))
        if least < FEWEST:
            skipped[name] = f"one class comes {least} times on one side"
    names = [name for name in found if name not in skipped]
    if not names:
        raise CorpusEmpty(
            f"No label has {FEWEST} tokens of both classes on both sides of the split ({', '.join(found)}): give more "
            "windows, or other labels."
        )
    return names, skipped


def _joined(codes: Sequence[Code], size: int) -> Code:
    """The codes of all batches as one; they may have different numbers of slots."""
    most = max(code.k for code in codes)

    def padded(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([F.pad(part, (0, most - part.shape[1])) for part in parts])

    return Code(padded(code.indices for code in codes), padded(code.values for code in codes), size)


def _as_data(probes: Probes) -> ProbesRecord:
    def each(by_k: dict[int, Sparse]) -> list[SparseScore]:
        return [{"k": k, "chosen": list(p.chosen), **_score(p.score)} for k, p in by_k.items()]

    return {"k": each(probes.by_k), "dense": _score(probes.dense), "shuffled": each(probes.shuffled)}


def _score(score: Score) -> ScoreRecord:
    return {
        "accuracy": score.accuracy,
        "balanced_accuracy": score.balanced_accuracy,
        "f1": score.f1,
        "auroc": score.auroc,
    }


def mean_scores(data: dict[str, Any], basis: str, figure: str = "auroc") -> tuple[list[float], float, list[float]]:
    """Means of a figure over the labels: by k, on all units, and by k for shuffled labels."""
    scores = [label["bases"][basis] for label in data["labels"]]
    by_k = [fmean(rows) for rows in zip(*([s[figure] for s in t["k"]] for t in scores), strict=True)]
    shuffled = [fmean(rows) for rows in zip(*([s[figure] for s in t["shuffled"]] for t in scores), strict=True)]
    return by_k, fmean(t["dense"][figure] for t in scores), shuffled


def _summary(data: dict[str, Any]) -> str:
    few, most = data["ks"][0], data["ks"][-1]
    each = []
    for basis in data["bases"]:
        (f1, f1_all, _), (area, area_all, _) = (mean_scores(data, basis["name"], figure) for figure in ("f1", "auroc"))
        each.append(
            f"the best {few} of {basis['units']:,} {_basis_name(basis['name'])} {f1[0]:.2f} ({area[0]:.2f}), the best {most} "
            f"{f1[-1]:.2f} ({area[-1]:.2f}), all {f1_all:.2f} ({area_all:.2f})"
        )
    chance = fmean(mean_scores(data, basis["name"])[2][-1] for basis in data["bases"])
    return (
        f"Mean F1 (AUROC) of {len(data['labels'])} labels at {data['site']}, {data['held_out']:,} held-out tokens: "
        f"{'; '.join(each)}; shuffled labels ({chance:.2f})."
    )


def _figures(data: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean AUROC over the labels in the first basis, by number of units; and the same for shuffled labels."""
    by_k, dense, shuffled = mean_scores(data, data["bases"][0]["name"])
    names = [f"auroc_{k}" for k in data["ks"]]
    return dict(zip(names, by_k, strict=True)) | {"auroc_all": dense}, dict(zip(names, shuffled, strict=True))


def panels(data: dict[str, Any]) -> tuple[Panel, ...]:
    """AUROC by number of units for every basis, with shuffled labels; and a table by label."""
    series = []
    for basis in (basis["name"] for basis in data["bases"]):
        by_k, dense, shuffled = mean_scores(data, basis)
        series += [
            Series(_basis_name(basis), (*by_k, dense)),
            Series("shuffled labels", (*shuffled, None), control=True),
        ]
    left_out = ", ".join(f"{name} ({why})" for name, why in data["skipped"].items())
    lines = Lines(
        "AUROC by number of units",
        (*map(str, data["ks"]), "all"),
        tuple(series),
        "best units",
        note=f"The mean of {len(data['labels'])} labels on {data['held_out']:,} held-out tokens."
        + (f" Left out: {left_out}." if left_out else ""),
    )
    body = []
    for label in data["labels"]:
        for basis, scores in label["bases"].items():
            cells = [
                f"{score['f1']:.2f} ({score['auroc']:.2f})"
                for score in (*scores["k"], scores["dense"], scores["shuffled"][-1])
            ]
            body.append((label["name"], label["rate"], _basis_name(basis), *cells))
    columns = ("label", "share of tokens", "basis", *(f"k = {k}" for k in data["ks"]), "all units", "shuffled labels")
    forms = ("number", "percent", *["number"] * (len(columns) - 2))
    return lines, Table("F1 (AUROC) of each label", columns, tuple(body), forms)  # type: ignore[arg-type]


def _basis_name(basis: str) -> str:
    return basis if basis == FEATURES else f"axes of {basis}"
