"""Where each feature of a dictionary is active, as a sparse matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import CorpusEmpty
from cloche.interp.route import FIRST, rows_without_first
from cloche.sparse import SAE, Code, Report, Tally


@dataclass(frozen=True, eq=False)
class Firings:
    """Every activation of a feature in some text, sorted by feature.

    `tokens` [n] are the ids read, windows one after another, and `window` [n] the window of each. Firing i is at token
    `where[i]` with activation `values[i]`; those of feature f are i = `starts[f]` to `starts[f + 1]`, in the order of the
    text.
    """

    tokens: Tensor
    window: Tensor
    where: Tensor
    values: Tensor
    starts: Tensor
    features: int

    def of(self, feature: int) -> tuple[Tensor, Tensor]:
        """(where, values) of one feature's firings."""
        span = slice(int(self.starts[feature]), int(self.starts[feature + 1]))
        return self.where[span], self.values[span]

    @property
    def owner(self) -> Tensor:
        """The feature of each firing."""
        return torch.repeat_interleave(torch.arange(self.features), self.starts.diff())

    def sum(self, values: Tensor) -> Tensor:
        """[features] `values`, one per firing, summed over each feature's firings."""
        return torch.zeros(self.features, dtype=torch.float64).index_add_(0, self.owner, values.double())


def collect_firings(sae: SAE, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Firings, Report]:
    """Encodes (ids, rows) batches, as `activations` yields them, once; returns the firings and the report on the
    dictionary.

    Holds 8 bytes for each of the k features of each token, and no activations.
    """
    ids: list[Tensor] = []
    codes: list[Code] = []
    tally = Tally(sae.dictionary.atoms)
    for window, values in batches:
        ids.append(window.cpu())
        code, target, reconstruction = sae.explain(rows_without_first(values).cpu())
        tally.add(target, reconstruction, code)
        codes.append(Code(code.indices.to(torch.int32), code.values, code.size))
    if tally.signals == 0:
        raise CorpusEmpty("There is no text to read features from: give at least one window of two tokens.")
    lengths = torch.cat([torch.full((len(batch),), batch.shape[1]) for batch in ids])
    window = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    first = lengths.cumsum(0) - lengths
    place = torch.arange(len(window))
    read = place[place - first[window] >= FIRST]  # the token of each code
    slots = max(code.k for code in codes)  # kinds without a fixed count have as many as a batch needs
    indices, values = (
        torch.cat([F.pad(getattr(code, name), (0, slots - code.k)) for code in codes]) for name in ("indices", "values")
    )
    used = values > 0
    owner = indices[used].long()
    order = owner.argsort(stable=True)
    where = read[:, None].expand_as(indices)[used][order]
    counts = torch.bincount(owner, minlength=sae.features)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    tokens = torch.cat([batch.flatten() for batch in ids])
    return Firings(tokens, window, where, values[used][order], starts, sae.features), tally.report()
