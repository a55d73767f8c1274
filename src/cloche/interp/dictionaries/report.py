"""Dictionary report: variance explained, what the encoder misses, and the loss recovered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import pairwise
from math import isnan
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Bars, Finding, Lines, Panel, Provenance, Series, Table
from cloche.interp.dictionaries.recovered import Recovered, loss_recovered
from cloche.interp.harvesting import activations
from cloche.interp.records import CodeRecord, DictionaryData, histogram_of, plain
from cloche.interp.route import Others, reader_of, rows_without_first
from cloche.interp.subject import Subject, windows_of
from cloche.sparse import SAE, Report, gap_report

GAP_ROWS = 2_048  # activations on which a pursuit is compared with the encoder


@torch.no_grad()
def dictionary_report(
    subject: Subject, sae: SAE, windows: Iterable[Any], name: str = "", others: Others | None = None
) -> Finding:
    """Measures a dictionary on `windows` (batches of ids [batch, position], or texts) that it was not trained on; `data`:
    docs/architecture.md.

    The gap to a pursuit over the same atoms is measured on 2,048 activations if the dictionary writes the sites it reads
    and numba (of the extra `sparse`) is installed to compile the pursuit; the summary says if it is not.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> from cloche.interp import harvest
    >>> from cloche.sparse import Provenance, Training, train_sae
    >>> rows, where = harvest(glass, [text], "resid_post[1]"), Provenance("resid_post[1]")
    >>> sae, _ = train_sae(rows, 64, 4, Training(steps=4, batch=64), trained_on=where)
    >>> from cloche.interp import dictionary_report
    >>> finding = dictionary_report(glass, sae, [text])
    >>> finding.data["site"], finding.data["features"]
    ('resid_post[1]', 64)
    """
    windows = list(windows_of(subject, windows))
    route = reader_of(sae, subject.net, others).route
    first: list[Tensor] = []

    def rows() -> Iterator[Tensor]:
        for _, values in activations(subject.net, windows, route, others):
            piece = rows_without_first(values).cpu()
            if sum(map(len, first)) < GAP_ROWS:
                first.append(piece)
            yield piece

    measured = sae.report(rows())
    recovered = loss_recovered(subject, sae, windows, others)
    compiled = find_spec("numba") is not None
    sample = torch.cat(first)[:GAP_ROWS]
    gap = gap_report(sae, sae.dictionary, sample) if sae.wiring.writes is None and compiled else None
    record: DictionaryData = {
        "dictionary": name,
        "site": str(route),
        "kind": str(sae.kind),
        "wiring": sae.wiring.name,
        "features": sae.features,
        "trained_on": sae.trained_on.tokens,
        "tokens_seen": measured.signals,
        "fvu": measured.fvu,
        "l0": measured.l0,
        "dead_share": measured.dead_share,
        "density_histogram": histogram_of(measured),
        "recovered": {
            "tokens": recovered.tokens,
            "clean": recovered.clean,
            "spliced": recovered.spliced,
            "ablated": recovered.ablated,
            "kl": recovered.kl,
            "share": None if isnan(recovered.share) else recovered.share,
        },
        "gap": None
        if gap is None
        else {"own": _figures(gap.own), "same_atoms": _figures(gap.same), "of_encoder": gap.of_encoder},
    }
    data = plain(record)
    arrays = {"density": measured.density.float()}
    unmeasured = "" if compiled else " The encoder was not compared with a pursuit: pip install 'cloche[sparse]'."
    figures, null = measured_figures(measured), {"explained": explained_shuffled(sae, sample)}
    if not isnan(recovered.share):
        figures["recovered"], null["recovered"] = recovered.share, 0.0  # the mean recovers nothing, by definition
    about = Provenance("dictionary", subject.checkpoint)
    return Finding(about, _summary(data, recovered) + unmeasured, figures, data, arrays, null, panels(data))


def explained_shuffled(sae: SAE, rows: Tensor, seed: int = 0) -> float:
    """Null of the explained variance: each row [n, width] is compared with the reconstruction of another, drawn by `seed`."""
    _, target, made = sae.explain(rows)
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(seed))
    total = float((target - target.mean(0)).square().sum())
    return 1 - float((target - made[order]).square().sum()) / total if total else 0.0


def measured_figures(report: Report) -> dict[str, float]:
    return {"explained": 1 - report.fvu, "active": report.l0, "never_active": report.dead_share}


def _figures(report: Report) -> CodeRecord:
    return {"fvu": report.fvu, "l0": report.l0, "dead_share": report.dead_share}


def _summary(data: dict[str, Any], recovered: Recovered) -> str:
    gap = data["gap"]
    encoder = f", {gap['of_encoder']:.3f} of it due to the encoder" if gap else ""
    keeps = (
        "no share of a loss (the mean costs none)"
        if isnan(recovered.share)
        else f"{recovered.share:.1%} of what the mean there costs"
    )
    return (
        f"{data['features']:,} features of {data['site']} leave {data['fvu']:.3f} of the variance{encoder}, with "
        f"{data['l0']:.2f} active a token; put back, the model keeps {keeps} (KL {recovered.kl:.4f})."
    )


def panels(data: dict[str, Any]) -> tuple[Panel, ...]:
    """The loss recovered, what the encoder misses, the density of features, and a table of figures."""
    recovered, gap = data["recovered"], data["gap"]
    back = "nothing, as the mean costs nothing" if recovered["share"] is None else f"{recovered['share']:.1%}"
    note = (
        f"Cross-entropy in nats per token. Of what the mean costs, {back} is recovered; KL {recovered['kl']:.4g} nats."
    )
    names = ("the model itself", "with the reconstruction", "with the mean")
    losses = Series("", (recovered["clean"], recovered["spliced"], recovered["ablated"]))
    drawn: list[Panel] = [Bars("What the model keeps", names, (losses,), start=recovered["clean"], note=note)]
    if gap:
        left = Series("", (gap["own"]["fvu"], gap["same_atoms"]["fvu"]))
        better = f"A better encoder would explain {gap['of_encoder']:.1%} more."
        note = f"Variance left out. {better if gap['of_encoder'] > 0 else 'The pursuit does no better.'}"
        drawn.append(
            Bars("What its encoder misses", ("its own encoder", "OMP, same atoms"), (left,), "percent", note=note)
        )
    rows = (
        ("site", data["site"]),
        ("kind", f"{data['kind']} {data.get('wiring', '')}".strip()),
        ("features", f"{data['features']:,}"),
        ("trained on", f"{data['trained_on']:,} activations"),
        ("held-out tokens", f"{data['tokens_seen']:,}"),
    )
    return (
        *drawn,
        density_panel(data["density_histogram"]),
        Table(f"The dictionary {data['dictionary']}", ("", "value"), rows),
    )


def density_panel(histogram: dict[str, Any]) -> Panel:
    """Number of features by the share of tokens on which they are active."""
    edges, counts = histogram["edges"], histogram["counts"]
    middle = tuple((a + b) / 2 for a, b in pairwise(edges))
    x_name = "share of the tokens it fires on, log10"
    return Lines("How often features fire", middle, (Series("features", tuple(counts)),), x_name, form="count", low=0.0)
