"""Linear probes of every layer, with control tasks, and what a model loses without the direction that they read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Heatmap, Lines, Panel, Provenance, Series, Table
from cloche.errors import CorpusEmpty, SiteUnsuitable
from cloche.interp.probing.grams import Grams
from cloche.interp.probing.labels import token_labels
from cloche.interp.probing.probes import auroc, logistic
from cloche.interp.probing.removing import Removed, removed
from cloche.interp.probing.sparse import Labels
from cloche.interp.route import FIRST
from cloche.interp.subject import Subject, windows_of
from cloche.model import Network, Site

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
FOLDS = 4
HELD_OUT = 4  # one window in so many is tested on
FEWEST = 10  # tokens of either class on either side
LOGISTIC_ROWS = 2048
METHODS = ("ridge", "logistic", "mean difference")
KINDS = ("label", "control task", "shuffled")


@torch.no_grad()
def linear_probes(
    subject: Subject,
    windows: Iterable[Any],
    labels: Labels = token_labels,
    site: str = "resid_post",
    seed: int = 0,
) -> Finding:
    """How well each label of a token is read linearly from each layer, and what the model loses without it.

    Probes: ridge regression, its penalty chosen per label by 4-fold cross-validation, all penalties, folds and labels from
    one Gram matrix per layer and fold; logistic regression on some 2,048 tokens; and the difference of the class means.
    Whole windows of `windows` (batches of ids [batch, position], or texts) are held out, one in four. `labels`: a function
    from ids [batch, position] to bool [batch, position] by name.

    Probes read much that a model does not use, so three controls stand beside them: a control task (Hewitt and Liang 2019,
    1909.03368), in which every token type has a fixed random label, as often true: `selectivity` is the balanced accuracy
    minus that of the control, which memorising types alone would make 0; shuffled labels, the null; and the direction
    removed: the ridge direction of the best label and layer is projected out, and the KL of the predictions is compared
    with that of five random directions.

    `auroc` and `accuracy` (balanced, threshold midway between the class means) are means over labels at the best layer.
    `data`: labels, layers, and scores [layer][label] by method and control. Raises CorpusEmpty for fewer than four
    windows or if no label is frequent enough, and SiteUnsuitable for a site without one vector per token.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import linear_probes
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> text = torch.randint(64, (16, 32), generator=torch.Generator().manual_seed(0))
    >>> finding = linear_probes(glass, [text], lambda subject, ids: {"odd": ids % 2 == 1})
    >>> finding.figures["auroc"] > 0.95 > finding.null["auroc"] + 0.2
    True
    """
    net = subject.net
    sites = net.sites.resolve(f"{site}.all")
    if len(sites[0].axes) != 3:
        raise SiteUnsuitable(
            f"{sites[0]} has axes {', '.join(sites[0].axes)}, and a probe reads one vector per token; name a site such as "
            "resid_post or mlp_act."
        )
    batches = [ids for ids in windows_of(subject, windows) if ids.shape[1] > FIRST]
    rows = [(row, labels(subject, row[None])) for ids in batches for row in ids.cpu()]
    if len(rows) < HELD_OUT:
        raise CorpusEmpty(
            f"Probes are fitted on some windows and tested on others; give at least {HELD_OUT}, not {len(rows)}."
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    held = set(order[: max(1, len(rows) // HELD_OUT)])
    names = _often(rows, held)
    train = [_Window(row, found, names) for i, (row, found) in enumerate(rows) if i not in held]
    test = [_Window(rows[i][0], rows[i][1], names) for i in sorted(held)]
    rates = torch.cat([window.truth for window in train]).float().mean(0)  # of the control task
    fitted = _fit(net, sites, train, rates, seed)
    scores = _test(net, sites, test, fitted, rates, seed)
    best = max(range(len(sites)), key=lambda i: fmean(scores["ridge"]["auroc"][i]))
    label = int(np.argmax(scores["ridge"]["auroc"][best]))
    without = removed(
        net, [w.ids for w in test], [w.truth[:, label] for w in test], sites[best], fitted[best].ridge[:, label], seed
    )
    figures = {
        "auroc": fmean(scores["ridge"]["auroc"][best]),
        "accuracy": fmean(scores["ridge"]["accuracy"][best]),
        "selectivity": fmean(scores["ridge"]["accuracy"][best]) - fmean(scores["control task"]["accuracy"][best]),
        "kl": without.kl,
    }
    null = {
        "auroc": fmean(scores["shuffled"]["auroc"][best]),
        "accuracy": fmean(scores["shuffled"]["accuracy"][best]),
        "selectivity": 0.0,
        "kl": without.random,
    }
    data = {
        "site": site,
        "layers": [str(each) for each in sites],
        "labels": names,
        "tokens": sum(len(w.truth) for w in train),
        "held_out": sum(len(w.truth) for w in test),
        "scores": scores,
        "best": [str(sites[best]), names[label]],
        "removed": vars(without),
    }
    about = Provenance("linear-probes", subject.checkpoint, seed=seed)
    arrays = {f"ridge/{place}": each.ridge.float() for place, each in zip(sites, fitted, strict=True)}
    return Finding(about, _summary(data, figures, null, without), figures, data, arrays, null, _panels(data))


class _Window:
    """A window of ids and the labels [position, label] of all its tokens but the first."""

    def __init__(self, ids: Tensor, found: dict[str, Tensor], names: Sequence[str]) -> None:
        self.ids = ids
        self.truth = torch.stack([found[name].cpu().reshape(-1)[FIRST:] for name in names], 1)


def _often(rows: Sequence[tuple[Tensor, dict[str, Tensor]]], held: set[int]) -> list[str]:
    """The labels with enough tokens of both classes on both sides."""
    names = list(rows[0][1])
    kept = []
    for name in names:
        sides = [
            torch.cat([found[name].reshape(-1)[FIRST:] for i, (_, found) in enumerate(rows) if (i in held) == side])
            for side in (False, True)
        ]
        if all(min(int(side.sum()), int((~side).sum())) >= FEWEST for side in sides):
            kept.append(name)
    if not kept:
        raise CorpusEmpty(
            f"No label has {FEWEST} tokens of both classes among those to fit on and those held out ({', '.join(names)}); give "
            "more windows, or other labels."
        )
    return kept


# ---- fitting


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Directions [width, label] of a layer, and the score midway between the class means [label], by method and control."""

    ridge: Tensor
    directions: dict[str, Tensor]
    middles: dict[str, Tensor]


def _targets(windows: Sequence[_Window], rates: Tensor, vocab: int, seed: int) -> list[Tensor]:
    """Of each window [row, kind * label]: the labels, the control task's, and the labels of all windows in another order."""
    truth = torch.cat([window.truth for window in windows])
    random = torch.rand(vocab, truth.shape[1], generator=torch.Generator().manual_seed(seed))
    control = random[torch.cat([window.ids[FIRST:] for window in windows])] < rates
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed + 1))
    every = torch.cat([truth, control, truth[order]], 1)
    return list(every.split([len(window.truth) for window in windows]))


def _fit(net: Network, sites: Sequence[Site], train: Sequence[_Window], rates: Tensor, seed: int) -> list[_Fitted]:
    """One pass over the training windows, then all fits."""
    wanted = _targets(train, rates, net.spec.vocab, seed)
    grams: list[Grams] = []
    kept: list[list[Tensor]] = [[] for _ in sites]
    targets: list[Tensor] = []
    held = 0
    every = max(1, sum(len(w.truth) for w in train) // LOGISTIC_ROWS)
    for i, (window, y) in enumerate(zip(train, wanted, strict=True)):
        result = net.run(window.ids[None].to(net.embed.weight.device), save=list(sites), logits=False)
        values = [result[each][0, FIRST:].float().cpu() for each in sites]
        grams = grams or [Grams(FOLDS, x.shape[1], y.shape[1]) for x in values]
        for gram, store, x in zip(grams, kept, values, strict=True):
            gram.add(i % FOLDS, x, y)
            store.append(x[held % every :: every])
        targets.append(window.truth[held % every :: every])
        held += len(y)
    truth = torch.cat(targets).numpy()
    return [_fitted(gram, torch.cat(store).numpy(), truth, len(rates)) for gram, store in zip(grams, kept, strict=True)]


def _fitted(grams: Grams, rows: np.ndarray, truth: np.ndarray, labels: int) -> _Fitted:
    ridge, _, _ = grams.best(PENALTIES)  # [width, kind * label]
    ones, zeros = grams.class_means()
    directions = dict(zip(KINDS, ridge.split(labels, 1), strict=True))
    directions["ridge"] = directions.pop("label")
    directions["mean difference"] = (ones - zeros)[:, :labels]
    directions["logistic"] = torch.from_numpy(logistic(rows, truth))
    halves = {kind: ((ones + zeros) / 2)[:, i * labels : (i + 1) * labels] for i, kind in enumerate(KINDS)}
    middles = {name: (direction * halves.get(name, halves["label"])).sum(0) for name, direction in directions.items()}
    return _Fitted(directions["ridge"], directions, middles)


def _test(
    net: Network,
    sites: Sequence[Site],
    test: Sequence[_Window],
    fitted: Sequence[_Fitted],
    rates: Tensor,
    seed: int,
) -> dict[str, dict[str, list[list[float]]]]:
    """auroc and balanced accuracy [layer][label] of every method and control on the held-out windows."""
    wanted = torch.cat(_targets(test, rates, net.spec.vocab, seed)).split(len(rates), 1)
    answers = dict(zip(KINDS, wanted, strict=True))
    found: dict[str, dict[str, list[list[float]]]] = {
        name: {"auroc": [], "accuracy": []} for name in (*METHODS, *KINDS[1:])
    }
    kept: list[list[Tensor]] = [[] for _ in sites]
    for window in test:
        result = net.run(window.ids[None].to(net.embed.weight.device), save=list(sites), logits=False)
        for store, each in zip(kept, sites, strict=True):
            store.append(result[each][0, FIRST:].double().cpu())
    for store, fits in zip(kept, fitted, strict=True):
        x = torch.cat(store)
        for name, measures in found.items():
            scores = x @ fits.directions[name] - fits.middles[name]
            answer = answers.get(name, answers["label"])
            pairs = list(zip(scores.T.numpy(), answer.T.numpy(), strict=True))
            measures["auroc"].append([auroc(score, t) if 0 < t.sum() < len(t) else 0.5 for score, t in pairs])
            measures["accuracy"].append([_balanced(score > 0, t) for score, t in pairs])
    return found


def _balanced(said: np.ndarray, truth: np.ndarray) -> float:
    yes, no = max(1, truth.sum()), max(1, (~truth).sum())
    return float((said & truth).sum() / yes + (~said & ~truth).sum() / no) / 2


# ---- drawing


def _summary(data: dict[str, Any], figures: dict[str, float], null: dict[str, float], without: Removed) -> str:
    place, label = data["best"]
    return (
        f"{len(data['labels'])} labels are read best from {place}: mean AUROC {figures['auroc']:.2f} ({null['auroc']:.2f} for "
        f"shuffled labels), balanced accuracy {figures['accuracy']:.0%}, {figures['selectivity']:.0%} above a control task; "
        f"without the direction of {label!r} predictions there move by {without.kl:.2g} nats ({without.random:.2g} for random "
        "directions)."
    )


def _panels(data: dict[str, Any]) -> list[Panel]:
    layers, names, scores = data["layers"], data["labels"], data["scores"]
    series = [Series(name, tuple(map(fmean, scores[name]["auroc"]))) for name in METHODS]
    controls = [Series(name, tuple(map(fmean, scores[name]["auroc"])), control=True) for name in KINDS[1:]]
    grid = tuple(tuple(row) for row in reversed(scores["ridge"]["auroc"]))
    best = layers.index(data["best"][0])
    rows = tuple(
        (
            name,
            *(scores[method]["auroc"][best][i] for method in METHODS),
            scores["ridge"]["accuracy"][best][i],
            scores["ridge"]["accuracy"][best][i] - scores["control task"]["accuracy"][best][i],
        )
        for i, name in enumerate(names)
    )
    columns = ("label", *(f"AUROC, {method}" for method in METHODS), "balanced accuracy", "selectivity")
    forms: tuple[Form, ...] = ("number", "number", "number", "number", "percent", "percent")
    without = data["removed"]
    causal = (
        ("the probe's direction", without["kl"], without["kl_true"], without["kl_false"]),
        ("a random direction", without["random"], without["random_true"], without["random_false"]),
    )
    return [
        Lines("Mean AUROC over labels", tuple(layers), (*series, *controls), low=0.4, high=1.0),
        Heatmap("AUROC of ridge probes", tuple(reversed(layers)), tuple(names), grid, low=0.5, high=1.0),
        Table(f"At {data['best'][0]}", columns, rows, forms),
        Table(
            f"KL without the direction of {data['best'][1]}, in nats per token",
            ("removed", "all tokens", "tokens with the label", "without it"),
            causal,
        ),
    ]
