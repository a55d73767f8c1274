"""How far each lens is from the model's predictions, layer by layer, on text that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Lines, Panel, Provenance, Series
from cloche.errors import CorpusEmpty
from cloche.interp.lenses.affine import KINDS, TunedLens
from cloche.interp.lenses.divergence import chunks, divergences, streams
from cloche.interp.subject import Subject, windows_of

FIGURES = {"tuned lens": "tuned", "ridge map": "ridge", "bias only": "bias", "logit lens": "logit"}


@torch.no_grad()
def lens_comparison(subject: Subject, windows: Iterable[Any], lens: TunedLens) -> Finding:
    """Compares the lenses by KL(model || lens), in nats per token, at each layer, over all positions of `windows` (batches of
    ids [batch, position], or texts): the logit lens (h), bias only (h + b), the ridge map from h to the last layer, and the
    tuned lens (Belrose et al. 2023, 2303.08112, figure 3).

    `lens`: from `train_lens` or `open_lens`; choose windows it was not trained on. `cloche look RUN lens-comparison` and
    `trace` take the one that RUN/lenses/ has for the checkpoint; if there is none they train it on the run's training text
    and keep it there. `figures`: tuned, ridge, bias and logit, each the mean over layers (the last layer is left out: every
    lens reads it exactly), and share, 1 - tuned / unigram. The null, unigram, is the divergence of a lens that ignores its
    input: of the mean prediction over the windows. `data`: kl {lens: [layer]}, unigram, layers, tokens. Raises ClocheError
    for a lens of a model of another shape, and for no windows.

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
    totals: dict[str, Tensor] = {}
    predicted, entropy, count = torch.zeros(net.spec.vocab, dtype=torch.float64), 0.0, 0
    notes: list[str] = lens.notes(subject.checkpoint)
    for ids in windows_of(subject, windows):
        notes += [note for note in net.beyond(ids.shape[1]) if note not in notes]
        h = streams(net, ids)
        count += h.shape[1]
        mapped = {"logit lens": h[:-1]} | {kind: lens(h, kind)[:-1] for kind in KINDS}
        for kind, each in mapped.items():
            found = divergences(net, h[-1], each).sum(1, dtype=torch.float64).cpu()
            totals[kind] = totals[kind] + found if kind in totals else found
        for _, own in chunks(net, h[-1]):
            p = own.exp()
            predicted += p.sum(0, dtype=torch.float64).cpu()
            entropy += float(torch.special.entr(p).sum(dtype=torch.float64))
    if not count:
        raise CorpusEmpty("The windows have no tokens to compare lenses on; give some text.")
    unigram = float(torch.special.entr(predicted / count).sum()) - entropy / count
    kl = {kind: (total / count).tolist() for kind, total in totals.items()}
    data = {"layers": list(lens.sites), "kl": kl, "unigram": unigram, "tokens": count, "notes": notes}
    figures = {name: float(totals[kind].mean()) / count for kind, name in FIGURES.items()}
    null = dict.fromkeys(figures, unigram) | {"share": 0.0}
    figures |= {"share": 1 - figures["tuned"] / unigram if unigram > 0 else 0.0}
    about = Provenance("lens-comparison", subject.checkpoint)
    return Finding(about, _summary(data, figures), figures, data, null=null, panels=_panels(data))


def _summary(data: dict[str, Any], figures: dict[str, float]) -> str:
    far = ", ".join(f"{figures[name]:.3g} for the {kind}" for kind, name in FIGURES.items())
    return (
        f"Nats from the model's own prediction, over {data['tokens']:,} tokens and {len(data['layers'])} layers: {far}; "
        f"{data['unigram']:.3g} without reading the text."
    )


def _panels(data: dict[str, Any]) -> tuple[Panel, ...]:
    layers = tuple(data["layers"])
    series = [Series(kind, tuple(data["kl"][kind])) for kind in reversed(FIGURES)]
    series.append(Series("mean prediction", (data["unigram"],) * len(layers), control=True))
    return (Lines("KL(model || lens) per layer", layers, tuple(series), y_name="nats per token", low=0.0),)
