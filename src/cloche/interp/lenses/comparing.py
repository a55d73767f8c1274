"""How far each lens is from the model's predictions, layer by layer, on text that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Heatmap, Lines, Panel, Provenance, Series
from cloche.errors import CorpusEmpty
from cloche.interp.lenses.affine import JACOBIAN, KINDS, LOGIT, TUNED, Lens
from cloche.interp.lenses.divergence import chunks, divergences, streams
from cloche.interp.subject import Subject, windows_of
from cloche.model import Network

FIGURES = {TUNED: "tuned", "ridge map": "ridge", "bias only": "bias", JACOBIAN: "jacobian", LOGIT: "logit"}


@torch.no_grad()
def lens_comparison(subject: Subject, windows: Iterable[Any], lens: Lens) -> Finding:
    """Compares the lenses by KL(model || lens), in nats per token, at each layer, over all positions of `windows` (batches of
    ids [batch, position], or texts): the logit lens (h), bias only (h + b), the ridge map from h to the last layer, the
    tuned lens (Belrose et al. 2023, 2303.08112, figure 3), and the Jacobian lens (Gurnee et al. 2026).

    `lens`: from `train_lens`, joined with `fit_jacobian`'s by `|`, or from `open_lens`; choose windows it was not trained
    on. `cloche look RUN lens-comparison` and `trace` take the one that RUN/lenses/ has for the checkpoint, and train what
    it does not have on the run's training text and keep it there. `figures`: tuned, ridge, bias, jacobian and logit, each
    the mean over layers (the last layer is left out: every lens reads it exactly); share, 1 - tuned / unigram; and
    tuned_top1 and so on, the share of positions at which the lens predicts the model's token. The null, unigram, is the
    divergence of a lens that ignores its input: of the mean prediction over the windows. `data`: kl and top1 {lens:
    [layer]}, unigram, layers, tokens, and distance {"one / other": [layer]}: of what the unembedding reads through two
    lenses, the root mean square of the difference, relative to what it reads from the last layer. `arrays`: the divergences of
    each lens under the name of its figure, and NAME_null [layer], which `trace` follows. Raises ClocheError for a
    lens of a model of another shape, and for no windows.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import LensConfig, lens_comparison, train_lens
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> text = torch.randint(64, (40, 32), generator=torch.Generator().manual_seed(0))
    >>> lens = train_lens(glass, [text[:32]], LensConfig(steps=8, batch=256))
    >>> f = lens_comparison(glass, [text[32:]], lens).figures
    >>> f["tuned"] < f["bias"] < f["logit"]
    True
    """
    net = subject.net
    lens.check(net)
    sums = _Sums(net, lens)
    notes: list[str] = lens.notes(subject.checkpoint)
    for ids in windows_of(subject, windows):
        notes += [note for note in net.beyond(ids.shape[1]) if note not in notes]
        sums.add(streams(net, ids))
    if not sums.count:
        raise CorpusEmpty("The windows have no tokens to compare lenses on; give some text.")
    if JACOBIAN not in lens.maps:
        notes.append("The lens has no Jacobian: `cloche look RUN jacobian-lens` or `fit_jacobian` estimates it.")
    unigram, modal = sums.constant()
    kl, top1 = ({kind: (total / sums.count).tolist() for kind, total in each.items()} for each in (sums.kl, sums.same))
    data = {
        "layers": list(lens.sites),
        "kl": kl,
        "top1": top1,
        "unigram": unigram,
        "tokens": sums.count,
        "notes": notes,
    }
    data["distance"] = sums.distances()
    kinds = [kind for kind in FIGURES if kind in kl]
    data["curves"] = {FIGURES[kind]: list(lens.sites) for kind in kinds}
    arrays = {FIGURES[kind]: torch.tensor(kl[kind], dtype=torch.float64) for kind in kinds}
    arrays |= {f"{name}_null": torch.full_like(values, unigram) for name, values in arrays.items()}
    figures = {FIGURES[kind]: fmean(kl[kind]) for kind in kinds}
    null = dict.fromkeys(figures, unigram)
    if TUNED in kinds:
        figures["share"], null["share"] = 1 - figures["tuned"] / unigram if unigram > 0 else 0.0, 0.0
    agreement = {f"{FIGURES[kind]}_top1": fmean(top1[kind]) for kind in kinds}
    null |= dict.fromkeys(agreement, modal)
    about = Provenance("lens-comparison", subject.checkpoint)
    return Finding(about, _summary(data, kinds), figures | agreement, data, arrays, null, _panels(data, kinds))


class _Sums:
    """Sums over rows, on the CPU in float64: by kind [layer], of the divergences and of equal top tokens; by pair of kinds
    [layer], of the squared distance between what the unembedding reads; and of the model's own predictions.
    """

    def __init__(self, net: Network, lens: Lens) -> None:
        self.net, self.lens, self.count = net, lens, 0
        kinds = [LOGIT, *(kind for kind in KINDS if kind in lens.maps)]
        layers = len(lens.sites)
        self.kl = {kind: torch.zeros(layers, dtype=torch.float64) for kind in kinds}
        self.same = {kind: torch.zeros(layers, dtype=torch.float64) for kind in kinds}
        self.apart = {pair: torch.zeros(layers, dtype=torch.float64) for pair in combinations(kinds, 2)}
        self.size = self.entropy = 0.0
        self.predicted, self.best = (torch.zeros(net.spec.vocab, dtype=torch.float64) for _ in range(2))

    def add(self, h: Tensor) -> None:
        """Adds the streams [site, row, width]."""
        self.count += h.shape[1]
        mapped = {kind: h[:-1] if kind == LOGIT else self.lens(h, kind)[:-1] for kind in self.kl}
        for kind, each in mapped.items():
            same = each.new_empty(each.shape[:2])
            self.kl[kind] += divergences(self.net, h[-1], each, same).sum(1, dtype=torch.float64).cpu()
            self.same[kind] += same.sum(1, dtype=torch.float64).cpu()
        read = {kind: self._read(each) for kind, each in mapped.items()}
        for one, other in self.apart:
            self.apart[one, other] += (read[one] - read[other]).square().sum((1, 2), dtype=torch.float64).cpu()
        self.size += float(self._read(h[-1]).square().sum(dtype=torch.float64))
        for _, own in chunks(self.net, h[-1]):
            p = own.exp()
            self.predicted += p.sum(0, dtype=torch.float64).cpu()
            self.best += torch.bincount(own.argmax(-1), minlength=len(self.best)).cpu()
            self.entropy += float(torch.special.entr(p).sum(dtype=torch.float64))

    def _read(self, h: Tensor) -> Tensor:
        """What the unembedding reads of h [..., width]."""
        read: Tensor = self.net.final_norm(h.to(self.net.embed.weight.dtype))
        return read.float()

    def constant(self) -> tuple[float, float]:
        """The divergence of the mean prediction, and how often its top token is the model's."""
        mean = self.predicted / self.count
        unigram = float(torch.special.entr(mean).sum()) - self.entropy / self.count
        return unigram, float(self.best[mean.argmax()]) / self.count

    def distances(self) -> dict[str, list[float]]:
        size = max(self.size, torch.finfo(torch.float64).tiny)
        return {f"{one} / {other}": (total / size).sqrt().tolist() for (one, other), total in self.apart.items()}


def _summary(data: dict[str, Any], kinds: list[str]) -> str:
    far = ", ".join(f"{fmean(data['kl'][kind]):.3g} for the {kind}" for kind in kinds)
    return (
        f"Nats from the model's own prediction, over {data['tokens']:,} tokens and {len(data['layers'])} layers: {far}; "
        f"{data['unigram']:.3g} without reading the text."
    )


def _panels(data: dict[str, Any], kinds: list[str]) -> tuple[Panel, ...]:
    layers, kinds = tuple(data["layers"]), kinds[::-1]
    series = [Series(kind, tuple(data["kl"][kind])) for kind in kinds]
    series.append(Series("mean prediction", (data["unigram"],) * len(layers), control=True))
    same = tuple(Series(kind, tuple(data["top1"][kind])) for kind in kinds)
    mean = {frozenset(pair.split(" / ")): fmean(each) for pair, each in data["distance"].items()}
    cells = tuple(tuple(mean.get(frozenset((one, other)), 0.0) for other in kinds) for one in kinds)
    return (
        Lines("KL(model || lens) per layer", layers, tuple(series), y_name="nats per token", low=0.0),
        Lines("Positions with the model's top token", layers, same, form="percent", low=0.0, high=1.0),
        Heatmap("Distance between lenses, mean over layers", tuple(kinds), tuple(kinds), cells, low=0.0),
    )
