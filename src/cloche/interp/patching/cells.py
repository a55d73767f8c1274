"""What interventions are made on: pairs of prompts as ids, and the cells (layer x head, layer x place) of a site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import SiteUnsuitable, TokenizerMissing, require_whole
from cloche.interp.metrics import Metric
from cloche.interp.subject import Subject, spell
from cloche.model import Edit, Network, Result, Site
from cloche.tasks import Pair, Task

LAST = "last"  # the place from which the answer is read
MOST_PAIRS = 10_000


@dataclass(frozen=True, eq=False)
class Contrast:
    """A pair as ids [1, position], up to the token at which the answers differ: `answer` and `against` are those tokens.

    `places` are positions by name: the variables of the prompt, or its tokens, and the last.
    """

    clean: Tensor
    corrupted: Tensor
    answer: int
    against: int
    places: dict[str, tuple[int, ...]]

    @property
    def asked(self) -> Tensor:
        """The pair of answers, [1, 2]."""
        return torch.tensor([[self.answer, self.against]], device=self.clean.device)


def contrasts(subject: Subject, task: Task, pairs: int, level: int | None, seed: int) -> list[Contrast]:
    """`pairs` pairs of a task whose tokens line up. Raises TaskInvalid where the tokenizer cannot express them."""
    if subject.tokenizer is None:
        raise TokenizerMissing(
            "This model has no tokenizer.json, so it cannot read a task's prompts; put one beside it."
        )
    require_whole(1, MOST_PAIRS, pairs=pairs)
    found = task.items(subject.tokenizer, pairs, task.levels[0] if level is None else level, seed=seed)
    return [_contrast(subject, pair, alone=len(found) == 1) for pair in found]


def _contrast(subject: Subject, pair: Pair, alone: bool) -> Contrast:
    answers = list(zip(pair.answer_ids, pair.corrupted_answer_ids, strict=True))
    shared = next(i for i, (a, b) in enumerate(answers) if a != b)  # what both answers begin with is part of the prompt
    before = pair.answer_ids[:shared]
    device = subject.net.embed.weight.device
    clean, corrupted = (torch.tensor([[*ids, *before]], device=device) for ids in (pair.ids, pair.corrupted_ids))
    length = clean.shape[1]
    if alone:
        words = spell(subject.tokenizer, clean[0].tolist())
        places: dict[str, tuple[int, ...]] = {f"{i} {word!r}": (i,) for i, word in enumerate(words)}
    else:
        places = dict(pair.positions) | {LAST: (length - 1,)}
    return Contrast(clean, corrupted, *answers[shared], places)


def by_head(net: Network, site: str) -> bool:
    """Whether the cells of a site are heads, over all positions, rather than positions."""
    sites = net.sites.resolve(f"{site}.all")
    if "key" in sites[0].axes:
        raise SiteUnsuitable(f"{site} has a value for each pair of tokens; name one such as z or resid_pre.")
    return "head" in sites[0].whole_axes


def cells(
    net: Network, site: str, saved: Result, places: dict[str, tuple[int, ...]], edit: Callable[[Site], Edit]
) -> tuple[list[Site], list[str], list[Edit]]:
    """The layers of a site, the names of its columns, and an edit for each cell, layer by layer."""
    sites = net.sites.resolve(f"{site}.all")
    if by_head(net, site):
        heads = saved[sites[0]].shape[sites[0].axes.index("head")]
        columns = [f"h{head}" for head in range(heads)]
        return sites, columns, [edit(each.head(head)) for each in sites for head in range(heads)]
    return sites, list(places), [edit(each).at(list(there)) for each in sites for there in places.values()]


def measured(
    net: Network,
    base: Tensor,
    edits: Sequence[Edit | tuple[Edit, ...]],
    contrast: Contrast,
    metric: Metric,
    clean: Tensor,
) -> Tensor:
    """The metric under each edit of the pass over `base`, [edit]."""
    return measured_for(net, base, edits, contrast.asked, metric, clean)[0]


def measured_for(
    net: Network,
    base: Tensor,
    edits: Sequence[Edit | tuple[Edit, ...]],
    answers: Tensor,
    metric: Metric,
    clean: Tensor,
) -> Tensor:
    """The metric of each (answer, against) of answers [answer, 2] under each edit of the pass over `base`, [answer, edit]."""
    found = net.sweep(base, list(edits), lambda logits: metric.read_many(logits[:, -1], answers, clean)[0])
    return found.double().cpu().T


def last_logits(net: Network, ids: Tensor) -> Tensor:
    """Logits [vocab] after the last token."""
    return net.run(ids).logits[0, -1]
