"""Attribution patching of single units: neurons, or the features of a dictionary."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Panel, Provenance, Scatter, Table
from cloche.errors import ModelUnsupported, SiteUnsuitable
from cloche.interp.attribution.agreement import pearson, sign_errors
from cloche.interp.attribution.slopes import Slopes, slopes
from cloche.interp.metrics import LOGIT_DIFFERENCE, Metric
from cloche.interp.patching.cells import contrasts, last_logits, measured
from cloche.interp.patching.patch import Direction
from cloche.interp.route import FIRST, Reader, reader_of
from cloche.interp.subject import Subject
from cloche.model import Edit, Network, Site
from cloche.model.sites import row_shape
from cloche.sparse import SAE, Code
from cloche.tasks import Task

TOP = 10  # units of each estimate that are listed, the largest


def unit_patching(
    subject: Subject,
    task: Task,
    sae: SAE | None = None,
    metric: Metric = LOGIT_DIFFERENCE,
    direction: Direction = "denoise",
    pairs: int = 8,
    level: int | None = None,
    seed: int = 0,
) -> Finding:
    """The effect of patching each neuron, or each feature of a dictionary, to first order, and that of the largest exactly.

    A neuron is a unit of mlp_act, patched at all positions; its effect is (a_source - a_base) . dm/da. A feature's is the
    difference of its activation times its decoder row . dm/d(what the dictionary writes) (Marks et al. 2024, 2403.19647);
    "error" is what the dictionary leaves over, and the first position, which dictionaries do not see. There are two
    gradients: "gradient", the network's own, and "relevance", that of the frozen linear model (`relevance_patching`), which
    is left out, with a note, where a part does not say what of it is held fixed. Scale and `direction` are those of
    `activation_patching`.

    The ten largest by each, on average over the pairs, are patched exactly: `agreement` is Pearson's correlation with that,
    and `sign_errors` the share of the large exact effects whose sign is wrong. The null has each base prompt as its own
    source: exactly 0. `arrays`: gradient and relevance [unit], means over the pairs; listed [unit listed]; exact [pair, unit
    listed]. Raises what `attribution_patching` raises, and DictionaryMismatch for a dictionary of another model.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import unit_patching
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU(hidden=48)))).build(seed=0)
    >>> finding = unit_patching(cloche.Glass(net, cloche.train_bpe(["a"], vocab=259)), Add(), pairs=2)
    >>> finding.arrays["relevance"].shape, finding.data["names"][0].startswith("mlp_act[")
    ((96,), True)
    """
    net, found = subject.net, contrasts(subject, task, pairs, level, seed)
    units: _Units = _Neurons(net) if sae is None else _Features(sae, reader_of(sae, net))
    groups = [*slopes(net, found, units.sites, metric, direction)]
    means, notes = {"gradient": _mean(units, groups)}, []
    try:
        linear = [*slopes(net, found, units.sites, metric, direction, linear=True)]
        means["relevance"] = _mean(units, linear)
    except (ModelUnsupported, SiteUnsuitable) as error:
        notes.append(f"There are no effects by relevance: {error}")
    unchanged = [(own, dataclasses.replace(numbers, source=numbers.base)) for own, numbers in groups]
    null = float(_mean(units, unchanged).abs().max())
    listed = sorted({i for mean in means.values() for i in mean.abs().topk(min(TOP, len(mean))).indices.tolist()})
    exact = torch.stack([row for _, row in sorted(_exact(units, net, groups, listed, metric).items())])
    order = exact.mean(0).abs().argsort(descending=True)
    listed, exact = [listed[i] for i in order.tolist()], exact[:, order]
    figures = {"largest": float(exact[:, 0].mean())}
    for name, mean in means.items():
        figures[f"{name}_agreement"] = pearson(mean[listed], exact.mean(0))
        figures[f"{name}_sign_errors"] = sign_errors(exact.mean(0), mean[listed])
    names = [units.name(i) for i in listed]
    data = {
        "task": str(task),
        "units": len(means["gradient"]),
        "metric": str(metric),
        "direction": direction,
        "pairs": len(found),
        "names": names,
        "notes": notes,
    }
    agreement = ", ".join(
        f"those by {name} correlate with them at {figures[f'{name}_agreement']:.2f}" for name in means
    )
    summary = (
        f"{names[0]} has the largest effect of the {len(names)} units patched exactly, of {data['units']:,}: "
        f"{figures['largest']:.0%}; {agreement} ({len(found)} {'pair' if len(found) == 1 else 'pairs'} of {task})."
    )
    about = Provenance("unit-patching", subject.checkpoint, seed=seed)
    arrays = means | {"exact": exact, "listed": torch.tensor(listed)}
    return Finding(about, summary, figures, data, arrays, {"largest": null}, _panels(names, listed, means, exact))


Groups = list[tuple[list[int], Slopes]]


class _Units(Protocol):
    """The units of a model. sites: those whose values and gradients they need."""

    sites: list[Site]

    def name(self, unit: int) -> str: ...

    def added(self, numbers: Slopes) -> Tensor:
        """What the change of each adds to the metric to first order, [pair, unit]."""
        ...

    def patches(self, numbers: Slopes, row: int, units: list[int]) -> list[tuple[Edit, ...]]:
        """The edits that patch each of `units` in the base prompt of a pair."""
        ...


class _Neurons:
    def __init__(self, net: Network) -> None:
        self.sites = net.sites.resolve("mlp_act.all")
        self.places = [(site, i) for site in self.sites for i in range(*row_shape(net.sites, site))]

    def name(self, unit: int) -> str:
        return "{} unit {}".format(*self.places[unit])

    def added(self, numbers: Slopes) -> Tensor:
        return torch.cat([numbers.first_order(site).sum(1) for site in self.sites], 1)

    def patches(self, numbers: Slopes, row: int, units: list[int]) -> list[tuple[Edit, ...]]:
        edits = list[tuple[Edit, ...]]()
        for site, i in (self.places[unit] for unit in units):
            change = torch.zeros_like(numbers.base[site][row])
            change[:, i] = numbers.change(site)[row, :, i]
            edits.append((site.add(change),))
        return edits


class _Features:
    def __init__(self, sae: SAE, reader: Reader) -> None:
        self.sae, self.reader, self.sites = sae, reader, reader.own
        self.written = [site for _, site in reader.written()]
        self.atoms = sae.dictionary.atoms.double()

    def name(self, unit: int) -> str:
        return f"feature {unit}" if unit < self.sae.features else "error"

    def added(self, numbers: Slopes) -> Tensor:
        gradient = torch.cat([numbers.gradient[site].flatten(2) for site in self.written], -1)[:, FIRST:].double()
        added = self._written(numbers.source, gradient) - self._written(numbers.base, gradient)
        everything = sum(numbers.first_order(site).flatten(1).sum(1) for site in self.written)
        return torch.cat([added, (everything - added.sum(1))[:, None]], 1)

    def patches(self, numbers: Slopes, row: int, units: list[int]) -> list[tuple[Edit, ...]]:
        values = [numbers.base[site][row] for site in self.written]
        source, base = (
            {site: each[row, None] for site, each in side.items()} for side in (numbers.source, numbers.base)
        )
        change = torch.nn.functional.pad(self._code(source).dense() - self._code(base).dense(), (0, 0, FIRST, 0))
        atoms = self.atoms.to(change)
        left = torch.cat([numbers.change(site)[row].flatten(1) for site in self.written], -1) - change @ atoms
        edits = []
        for unit in units:
            made = left if unit == self.sae.features else change[:, unit, None] * atoms[unit]
            blocks = made.split([value[0].numel() for value in values], -1)
            pieces = zip(self.written, blocks, values, strict=True)
            edits.append(tuple(site.add(block.view_as(value).to(value)) for site, block, value in pieces))
        return edits

    def _written(self, values: dict[Site, Tensor], gradient: Tensor) -> Tensor:
        """What each feature writes in all positions times the gradient there, [pair, feature]."""
        code = self._code(values)
        each = code.values * torch.einsum("nkw,nw->nk", self.atoms[code.indices].to(gradient), gradient.flatten(0, 1))
        by_pair = (len(gradient), -1)
        empty = gradient.new_zeros(len(gradient), self.sae.features)
        return empty.scatter_add(1, code.indices.view(by_pair), each.view(by_pair))

    def _code(self, values: dict[Site, Tensor]) -> Code:
        rows = torch.cat([values[site].flatten(2) for site in self.reader.sites], -1)[:, FIRST:].flatten(0, 1)
        code = self.sae.encode(self.sae.split(rows.to(self.sae.decoder))[0])
        return Code(code.indices.to(rows.device), code.values.to(rows.device).double(), code.size)


def _mean(units: _Units, groups: Groups) -> Tensor:
    """Effects of each unit on average over all pairs, [unit]."""
    return torch.cat([numbers.share(units.added(numbers)) for _, numbers in groups]).mean(0).cpu()


def _exact(units: _Units, net: Network, groups: Groups, listed: list[int], metric: Metric) -> dict[int, Tensor]:
    """The effects of the units listed on each pair, [unit], by the pair's number."""
    found = {}
    for own, numbers in groups:
        for row, (i, pair) in enumerate(zip(own, numbers.contrasts, strict=True)):
            base = pair.corrupted if numbers.sign > 0 else pair.clean
            edits = units.patches(numbers, row, listed)
            values = measured(net, base, edits, pair, metric, last_logits(net, pair.clean))
            found[i] = numbers.sign * (values - numbers.start[row].cpu()) / numbers.ends[row].cpu()
    return found


def _panels(names: list[str], listed: list[int], means: dict[str, Tensor], exact: Tensor) -> list[Panel]:
    mean, spread = exact.mean(0).tolist(), exact.std(0, correction=0).tolist()
    estimates = {name: each[listed].tolist() for name, each in means.items()}
    forms: list[Form] = ["number", *["percent"] * (2 + len(means))]  # type: ignore[list-item]
    rows = tuple(zip(names, mean, spread, *estimates.values(), strict=True))
    table = Table("The largest effects", ("unit", "exact", "spread over pairs", *means), rows, tuple(forms))
    return [
        table,
        *(
            Scatter(f"Each unit by {name}", tuple(zip(mean, values, strict=True)), ("exact", name), tuple(names))
            for name, values in estimates.items()
        ),
    ]
