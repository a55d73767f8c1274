"""How good a dictionary is: what it explains, what of that its encoder misses, and what the model keeps of itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from math import isnan
from typing import Any

import torch
from torch import Tensor

from cloche.interp.dictionaries.recovered import Recovered, loss_recovered
from cloche.interp.finding import Finding
from cloche.interp.harvesting import activations
from cloche.interp.route import Others, reader_of, rows_without_first
from cloche.interp.subject import Subject, windows_of
from cloche.sparse import SAE, Report, gap_report

GAP_ROWS = 2_048  # on which pursuits are compared with the encoder


@torch.no_grad()
def dictionary_report(
    subject: Subject, sae: SAE, windows: Iterable[Any], name: str = "", others: Others | None = None
) -> Finding:
    """Measures a dictionary on `windows` (batches of ids [batch, position], or texts) it was not trained on;
    `data`: docs/architecture.md.

    The gap to a pursuit over the same atoms is measured on 2,048 activations, where the dictionary writes what it reads and
    numba (of the extra `sparse`) is there to compile it; the summary says where it is not.
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
    gap = (
        gap_report(sae, sae.dictionary, torch.cat(first)[:GAP_ROWS]) if sae.wiring.writes is None and compiled else None
    )
    data = {
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
        "density_histogram": measured.density_histogram(),
        "recovered": {**vars(recovered), "share": None if isnan(recovered.share) else recovered.share},
        "gap": gap and {"own": _figures(gap.own), "same_atoms": _figures(gap.same), "of_encoder": gap.of_encoder},
    }
    arrays = {"density": measured.density.float()}
    unmeasured = "" if compiled else " The encoder was not compared with a pursuit: pip install 'cloche[sparse]'."
    return Finding("dictionary", _summary(data, recovered) + unmeasured, subject.checkpoint, data, arrays)


def _figures(report: Report) -> dict[str, float]:
    return {"fvu": report.fvu, "l0": report.l0, "dead_share": report.dead_share}


def _summary(data: dict[str, Any], recovered: Recovered) -> str:
    gap = data["gap"]
    encoder = f", {gap['of_encoder']:.3f} of it for want of a better encoder" if gap else ""
    keeps = (
        "no share of a loss (the mean costs none)"
        if isnan(recovered.share)
        else f"{recovered.share:.1%} of what the mean there costs"
    )
    return (
        f"{data['features']:,} features of {data['site']} leave {data['fvu']:.3f} of the variance{encoder}, with "
        f"{data['l0']:.2f} active a token; put back, the model keeps {keeps} (KL {recovered.kl:.4f})."
    )
