"""What an ablation puts in the place of a component."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from cloche.errors import InstrumentOption
from cloche.interp.patching.cells import Contrast
from cloche.interp.patching.optimal import best_constants
from cloche.model import Edit, Network, Result, Site

Kind = Literal["zero", "mean", "resample", "noise", "optimal"]
DRAWS = 4  # of other prompts, or of noise, for each prompt

EditOf = Callable[[Site], Edit]


@dataclass(frozen=True, eq=False)
class Replacements:
    """edits: for each prompt what ablates a site or a head of it, one for each draw. source: what is put there, in words;
    arrays: what else is known of it."""

    edits: Sequence[Sequence[EditOf]]
    source: str
    arrays: dict[str, Tensor] = field(default_factory=dict)


def replacements(
    net: Network, site: str, kind: Kind, found: Sequence[Contrast], fitting: Sequence[Contrast], seed: int
) -> Replacements:
    """Those of a kind, for the clean prompts of `found`; the constants of "optimal" are fitted on `fitting`.

    Raises InstrumentOption for an unknown kind.
    """
    if kind not in get_args(Kind):
        raise InstrumentOption(f"kind={kind!r} is not a kind of ablation; it is one of {', '.join(get_args(Kind))}.")
    if kind == "zero":
        return Replacements([[Site.zero]] * len(found), "zeros")
    if kind == "optimal":
        constants = best_constants(net, site, fitting)
        source = f"the constant of the least KL divergence on {len(fitting)} other prompts"
        arrays = {"kl_mean": constants.kl_mean, "kl": constants.kl}
        return Replacements([[constants.edit]] * len(found), source, arrays)
    sites = net.sites.resolve(f"{site}.all")
    runs = [net.run(contrast.clean, save=sites, logits=False) for contrast in found]
    if kind == "mean":
        return _means(runs, sites)
    return _noises(runs, sites, seed) if kind == "noise" else _resamples(net, runs, sites, found, seed)


def _means(runs: Sequence[Result], sites: Sequence[Site]) -> Replacements:
    edits: list[list[EditOf]] = []
    for i in range(len(runs)):
        others = [run for j, run in enumerate(runs) if j != i] or list(runs)
        means = {site: torch.cat([run[site] for run in others], 1).mean(1)[0] for site in sites}
        edits.append([partial(_constant, means)])
    which = f"the other {len(runs) - 1} prompts" if len(runs) > 1 else "the prompt"
    return Replacements(edits, f"the mean over all positions of {which}")


def _noises(runs: Sequence[Result], sites: Sequence[Site], seed: int) -> Replacements:
    rows = {site: torch.cat([run[site] for run in runs], 1)[0].float() for site in sites}  # [position, ...]

    def noisy(draw: int, each: Site) -> Edit:
        spread = _of_head(rows[each.whole], each).var(0, correction=0).mean().sqrt()  # of numbers about their own means
        return each.noise(float(spread) or 1e-12, seed + draw)

    edits = [[partial(noisy, i * DRAWS + draw) for draw in range(DRAWS)] for i in range(len(runs))]
    return Replacements(edits, "its values and Gaussian noise of their standard deviation")


def _resamples(
    net: Network, runs: Sequence[Result], sites: Sequence[Site], found: Sequence[Contrast], seed: int
) -> Replacements:
    """Values of other prompts of the same length; of the corrupted twin if there are none."""
    generator = torch.Generator().manual_seed(seed)
    donors: list[list[Result]] = []
    twins = 0
    for i, contrast in enumerate(found):
        alike = [j for j, other in enumerate(found) if j != i and other.clean.shape == contrast.clean.shape]
        order = torch.randperm(len(alike), generator=generator)[:DRAWS].tolist()
        twins += not alike
        donors.append([runs[alike[j]] for j in order] or [net.run(contrast.corrupted, save=sites, logits=False)])
    counts = sorted({len(each) for each in donors})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    source = f"its values at the same positions of {many} other prompts"
    if twins:
        source = "its values on the corrupted prompt" + ("" if twins == len(found) else f" ({twins}), or else {source}")
    return Replacements([[partial(_replaced, donor) for donor in each] for each in donors], source)


def _constant(values: dict[Site, Tensor], each: Site) -> Edit:
    return each.mean(_of_head(values[each.whole], each))


def _replaced(donor: Result, each: Site) -> Edit:
    return each.replace(donor)


def _of_head(values: Tensor, site: Site) -> Tensor:
    """The part of values [..., head, size] that belongs to the site's head, if it names one."""
    if site.head_index is None:
        return values
    return values.select(site.whole_axes.index("head") - len(site.whole_axes), site.head_index)
