"""Linear probes of every layer, with control tasks, and what a model loses without the direction that they read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Heatmap, Lines, Panel, Provenance, Series, Table
from cloche.errors import CorpusEmpty
from cloche.interp.probing.grams import Grams
from cloche.interp.probing.labels import Labels, read_labels, token_labels
from cloche.interp.probing.probes import auroc, logistic
from cloche.interp.probing.removing import Removed, removed
from cloche.interp.route import FIRST
from cloche.interp.subject import Subject, by_length, vector_sites, windows_of
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

    `auroc` and `accuracy` (balanced, threshold midway between the class means) are means over labels on the held-out windows,
    at the layer that explains most of the labels in cross-validation on the others; its best label is chosen likewise.
    `data`: labels, layers, and scores [layer][label] by method and control. `arrays`: the mean auroc of ridge, and auroc_null
    of shuffled labels [layer], and the directions. Raises CorpusEmpty for fewer than four windows or if no label is
    frequent enough, and SiteUnsuitable for a site without one vector per token.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import linear_probes
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> text = torch.randint(64, (16, 32), generator=torch.Generator().manual_seed(0))
    >>> finding = linear_probes(glass, [text], lambda subject, ids: {"odd": ids % 2 == 1})
    >>> finding.figures["auroc"] > 0.85 > finding.null["auroc"] + 0.2
    True
    """
    net = subject.net
    sites = vector_sites(net, site)
    names, train, test = _divided(_labelled(subject, windows, labels), seed)
    rates = torch.cat([window.truth for window in train]).float().mean(0)  # of the control task
    fitted = _fit(net, sites, train, rates, seed)
    scores = _test(net, sites, test, fitted, rates, seed)
    best = max(range(len(sites)), key=lambda i: float(fitted[i].explained.mean()))
    label = int(fitted[best].explained.argmax())
    direction = fitted[best].directions["ridge"][:, label]
    without = removed(net, [w.ids for w in test], [w.truth[:, label] for w in test], sites[best], direction, seed)
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
        "curves": {"auroc": [str(each) for each in sites]},
    }
    about = Provenance("linear-probes", subject.checkpoint, seed=seed)
    arrays = {f"ridge/{place}": each.directions["ridge"].float() for place, each in zip(sites, fitted, strict=True)}
    arrays["auroc"], arrays["auroc_null"] = (
        torch.tensor(scores[name]["auroc"], dtype=torch.float64).mean(1) for name in ("ridge", "shuffled")
    )
    return Finding(about, _summary(data, figures, null, without), figures, data, arrays, null, _panels(data))


@dataclass(frozen=True, eq=False)
class _Window:
    """Ids [position], and the labels [position, label] of all its tokens but the first."""

    ids: Tensor
    truth: Tensor


def _labelled(subject: Subject, windows: Iterable[Any], labels: Labels) -> dict[str, list[_Window]]:
    """The windows with each label alone."""
    found: dict[str, list[_Window]] = {}
    batches = [ids.cpu() for ids in windows_of(subject, windows) if ids.shape[1] > FIRST]
    for ids, part in zip(batches, read_labels(subject, batches, labels), strict=True):
        for name, truth in part.items():
            found.setdefault(name, []).extend(
                _Window(*row) for row in zip(ids, truth.cpu()[:, FIRST:, None], strict=True)
            )
    return found


def _divided(labelled: dict[str, list[_Window]], seed: int) -> tuple[list[str], list[_Window], list[_Window]]:
    """The labels with enough tokens of both classes on both sides, and with them the windows to fit on and those held out."""
    count = max(map(len, labelled.values()), default=0)
    if count < HELD_OUT:
        raise CorpusEmpty(
            f"Probes are fitted on some windows and tested on others; give at least {HELD_OUT}, not {count}."
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = sorted(order[: count // HELD_OUT].tolist())
    sides = sorted(set(range(count)) - set(held)), held

    def often(windows: list[_Window], side: list[int]) -> bool:
        truth = torch.cat([windows[i].truth for i in side])
        return min(int(truth.sum()), int((~truth).sum())) >= FEWEST

    names = [name for name, windows in labelled.items() if all(often(windows, side) for side in sides)]
    if not names:
        raise CorpusEmpty(
            f"No label has {FEWEST} tokens of both classes among those to fit on and those held out ({', '.join(labelled)}); "
            "give more windows, or other labels."
        )
    train, test = (
        [_Window(labelled[names[0]][i].ids, torch.cat([labelled[name][i].truth for name in names], 1)) for i in side]
        for side in sides
    )
    return names, train, test


# ---- fitting


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Of a layer: directions [width, label], and the score midway between the class means [label], by method and control; the
    share of each label's variance that ridge regression explains in cross-validation [label]."""

    directions: dict[str, Tensor]
    middles: dict[str, Tensor]
    explained: Tensor


def _targets(windows: Sequence[_Window], rates: Tensor, vocab: int, seed: int) -> list[Tensor]:
    """Of each window [row, kind * label]: the labels, the control task's, and the labels of all windows in another order."""
    truth = torch.cat([window.truth for window in windows])
    random = torch.rand(vocab, truth.shape[1], generator=torch.Generator().manual_seed(seed))
    control = random[torch.cat([window.ids[FIRST:] for window in windows])] < rates
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed + 1))
    every = torch.cat([truth, control, truth[order]], 1)
    return list(every.split([len(window.truth) for window in windows]))


def _read(net: Network, sites: Sequence[Site], windows: Sequence[_Window]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Windows of one length by their index, and their values [window, position, width] at each site, without the first."""
    for some, ids in by_length([window.ids.tolist() for window in windows]):
        result = net.run(ids, save=sites, logits=False)
        yield some, [result[site][:, FIRST:].float().cpu() for site in sites]


def _fit(net: Network, sites: Sequence[Site], train: Sequence[_Window], rates: Tensor, seed: int) -> list[_Fitted]:
    """One pass over the training windows, then all fits."""
    wanted = _targets(train, rates, net.spec.vocab, seed)
    lengths = [len(window.truth) for window in train]
    sampled = (torch.arange(sum(lengths)) % max(1, sum(lengths) // LOGISTIC_ROWS) == 0).split(lengths)
    grams: list[Grams] = []
    rows: list[list[Tensor]] = [[] for _ in sites]  # for logistic regression
    truth: list[Tensor] = []
    for some, values in _read(net, sites, train):
        grams = grams or [Grams(FOLDS, x.shape[2], wanted[0].shape[1]) for x in values]
        for i, window in enumerate(some):
            truth.append(train[window].truth[sampled[window]])
            for gram, kept, x in zip(grams, rows, values, strict=True):
                gram.add(window % FOLDS, x[i], wanted[window])
                kept.append(x[i, sampled[window]])
    labels = torch.cat(truth).numpy()
    return [_fitted(gram, torch.cat(kept).numpy(), labels) for gram, kept in zip(grams, rows, strict=True)]


def _fitted(grams: Grams, rows: np.ndarray, truth: np.ndarray) -> _Fitted:
    labels = truth.shape[1]
    ridge = grams.best(PENALTIES)  # of every kind and label
    ones, zeros = grams.class_means()
    directions = dict(zip(("ridge", *KINDS[1:]), ridge.weights.split(labels, 1), strict=True))
    directions["mean difference"] = (ones - zeros)[:, :labels]
    directions["logistic"] = torch.from_numpy(logistic(rows, truth)).double()
    halves = dict(zip(KINDS, ((ones + zeros) / 2).split(labels, 1), strict=True))
    middles = {name: (direction * halves.get(name, halves["label"])).sum(0) for name, direction in directions.items()}
    return _Fitted(directions, middles, ridge.explained[:labels])


def _test(
    net: Network,
    sites: Sequence[Site],
    test: Sequence[_Window],
    fitted: Sequence[_Fitted],
    rates: Tensor,
    seed: int,
) -> dict[str, dict[str, list[list[float]]]]:
    """auroc and balanced accuracy [layer][label] of every method and control on the held-out windows."""
    names, labels = (*METHODS, *KINDS[1:]), len(rates)
    answers = dict(zip(KINDS, torch.cat(_targets(test, rates, net.spec.vocab, seed)).split(labels, 1), strict=True))
    directions = [torch.cat([each.directions[name] for name in names], 1) for each in fitted]
    middles = [torch.cat([each.middles[name] for name in names]) for each in fitted]
    by_window: dict[int, Tensor] = {}
    for some, values in _read(net, sites, test):
        scores = [x.double() @ d - middle for x, d, middle in zip(values, directions, middles, strict=True)]
        by_window.update(zip(some, torch.stack(scores, 1), strict=True))  # [layer, position, method * label]
    every = torch.cat([by_window[i] for i in range(len(test))], 1)
    found: dict[str, dict[str, list[list[float]]]] = {name: {"auroc": [], "accuracy": []} for name in names}
    for layer in every:
        for name, scores in zip(names, layer.split(labels, 1), strict=True):
            answer = answers.get(name, answers["label"])
            pairs = list(zip(scores.T.numpy(), answer.T.numpy(), strict=True))
            found[name]["auroc"].append([auroc(score, t) if 0 < t.sum() < len(t) else 0.5 for score, t in pairs])
            found[name]["accuracy"].append([_balanced(score > 0, t) for score, t in pairs])
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
        Heatmap.by_layer("AUROC of ridge probes", layers, names, scores["ridge"]["auroc"], low=0.5, high=1.0),
        Table(f"At {data['best'][0]}", columns, rows, forms),
        Table(
            f"KL without the direction of {data['best'][1]}, in nats per token",
            ("removed", "all tokens", "tokens with the label", "without it"),
            causal,
        ),
    ]
