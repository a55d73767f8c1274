"""Function vectors: what a few heads write after the examples of a task, which carries the task into prompts without any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cloche.errors import InstrumentOption, ModelUnsupported, SiteUnsuitable
from cloche.interp.attribution.writes import has_heads
from cloche.interp.circuits.weights import is_linear
from cloche.interp.steering.shots import FewShot, Prompt, few_shot
from cloche.interp.steering.vectors import SteeringVector, place_of
from cloche.interp.subject import Subject
from cloche.model import Edit, Network, NoNorm, Site
from cloche.tasks import Task

HEADS = 10  # in the vector, as in Todd et al.; a quarter of the model's if that is fewer
ROWS = 16  # prompts in a pass


def function_vector(
    subject: Subject,
    task: Task,
    shots: int = 5,
    prompts: int = 16,
    heads: int | None = None,
    site: str | None = None,
    level: int | None = None,
    seed: int = 0,
) -> SteeringVector:
    """The function vector of a task (Todd et al. 2024, 2310.15213): the sum of the mean outputs of the `heads` heads that most
    restore right answers, to be added at the last token of a prompt. A strength of 1 adds it as it is.

    Its unit is its own norm. See `function_vectors` for how heads are chosen, its options, and the test of the vector against
    shuffled answers. Raises ModelUnsupported if these heads write nothing.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import function_vector
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))
    >>> vector = function_vector(glass, Add(), shots=2, prompts=2, heads=1)
    >>> vector.site, len(vector.card["heads"])
    ('resid_post[0]', 1)
    """
    place = stream_site(subject.net, site)
    made = few_shot(subject, task, shots, prompts, level, 0, seed)
    found = found_heads(subject.net, made, heads)
    card = {
        "method": "function",
        "task": str(task),
        "checkpoint": subject.checkpoint,
        "heads": [str(each) for each in found.chosen(0)],
        "shots": shots,
        "prompts": prompts,
        "level": task.levels[0] if level is None else level,
        "seed": seed,
    }
    vector = found.vector(0)
    if not float(vector.norm()) > 0:
        raise ModelUnsupported(
            f"The heads of this model write nothing after {task}, so it has no function vector here."
        )
    return SteeringVector(vector, str(place), float(vector.norm()), card)


def stream_site(net: Network, site: str | None) -> Site:
    """Where a function vector is added: by default the stream after a third of the layers. Raises SiteUnsuitable for a site
    that is not as wide as the stream."""
    place = place_of(net, site or str(net.sites.resid_post[(len(net.layers) - 1) // 3]))
    width, stream = net.sites.shape(place)[place.axes[-1]], net.embed.weight.shape[1]
    if width != stream:
        raise SiteUnsuitable(
            f"Heads write into the stream, which has width {stream}, and {place} has {width}; choose one such as resid_post[2]."
        )
    return place


@dataclass(frozen=True, eq=False)
class FoundHeads:
    """Heads in the order of the pass. `effects` [draw, head]: how much the mean of each, put into prompts with shuffled
    answers, raises the probability of the right one; the first draw is of the right answers, the others of shuffled ones.
    `written` [draw, head, width]: mean outputs."""

    heads: list[Site]
    effects: Tensor
    written: Tensor
    count: int

    def order(self, draw: int) -> list[int]:
        """The heads with the largest effects."""
        return self.effects[draw].argsort(descending=True, stable=True)[: self.count].tolist()

    def chosen(self, draw: int) -> list[Site]:
        return [self.heads[i] for i in self.order(draw)]

    def vector(self, draw: int, order: Sequence[int] | None = None) -> Tensor:
        """The sum of the mean outputs of the heads with the largest effects, or of those named, [width]."""
        return self.written[draw, list(self.order(draw) if order is None else order)].sum(0)


@torch.no_grad()
def found_heads(net: Network, made: FewShot, count: int | None) -> FoundHeads:
    """Every head's mean output and effect, for right answers and for each draw of shuffled ones; each draw chooses its own
    heads. Raises ModelUnsupported and InstrumentOption."""
    sites = _sites(net)
    means = [_means(net, sites, prompts) for prompts in (made.right, *made.relabelled)]
    heads = [site.head(i) for site, z in zip(sites, means[0][0], strict=True) for i in range(len(z))]
    count = max(1, min(HEADS, len(heads) // 4)) if count is None else count
    if type(count) is not int or not 1 <= count <= len(heads):
        raise InstrumentOption(f"heads={count} must be from 1 to {len(heads)}, the heads that this model has.")
    replaced = [[value for z in each for value in z] for each, _ in means]
    written = torch.stack([torch.cat(each) for _, each in means])
    effects = torch.stack([_effects(net, heads, replaced, prompt) for prompt in made.shuffled]).mean(0)
    return FoundHeads(heads, effects, written.cpu(), count)


def _effects(net: Network, heads: Sequence[Site], means: Sequence[Sequence[Tensor]], prompt: Prompt) -> Tensor:
    """What each head's mean adds to the probability of the answer, [draw, head]; all from one sweep of the last token."""
    last = prompt.ids.shape[1] - 1
    edits = [head.replace(value).at(last) for each in means for head, value in zip(heads, each, strict=True)]
    unchanged = heads[0].scale(1.0).at(last)  # in the same passes, so that rounding is the same

    def read(logits: Tensor) -> Tensor:
        return logits[0, -1].double().softmax(-1)[prompt.answer]

    found = net.sweep(prompt.ids, [unchanged, *edits], read).cpu()
    return (found[1:] - found[0]).view(len(means), len(heads))


def _sites(net: Network) -> list[Site]:
    """z of every layer whose output is a sum over heads."""
    layers = [layer for layer in range(len(net.layers)) if has_heads(net, layer)]
    if not layers:
        raise ModelUnsupported(
            "No layer of this model has heads that its output is a sum of, so it has no function vectors."
        )
    for layer in layers:
        post = getattr(net.layers[layer].part, "post", None)
        if not is_linear(post):
            raise ModelUnsupported(
                f"Layer {layer} has {post} after attention, which is not a sum over heads; function vectors "
                "need RMSNorm, LayerNorm or none there."
            )
    return [net.sites.z[layer] for layer in layers]


def _means(net: Network, sites: Sequence[Site], prompts: Sequence[Prompt]) -> tuple[list[Tensor], list[Tensor]]:
    """Mean z [head, size] and mean output [head, width] of each layer at the last token."""
    values: list[list[Tensor]] = [[] for _ in sites]
    for ids in _batches([prompt.ids for prompt in prompts]):
        result = net.run(ids, save=sites, logits=False)
        for kept, site in zip(values, sites, strict=True):
            kept.append(result[site][:, -1])
    rows = [torch.cat(kept) for kept in values]  # of each layer [prompt, head, size]
    return [z.mean(0) for z in rows], [_written(net, site, z) for site, z in zip(sites, rows, strict=True)]


def _batches(rows: Sequence[Tensor]) -> Iterator[Tensor]:
    """Rows [1, position] of one length together."""
    lengths: dict[int, list[Tensor]] = {}
    for row in rows:
        lengths.setdefault(row.shape[1], []).append(row)
    for some in lengths.values():
        for start in range(0, len(some), ROWS):
            yield torch.cat(some[start : start + ROWS])


def _written(net: Network, site: Site, z: Tensor) -> Tensor:
    """What each head adds to the stream, z W_O, and through the norm after it at each prompt's own scale; the mean over
    prompts [head, width]."""
    block = net.layers[site.layer or 0]
    mix, post = block.mix, getattr(block, "mix_post", None)
    weight = mix.out.weight.detach().unflatten(1, (z.shape[1], -1)).to(z.dtype)  # [width, head, size]
    if post is None or isinstance(block.part.post, NoNorm):
        return torch.einsum("hs,whs->hw", z.mean(0), weight).float()
    norm: Any = post
    each = torch.einsum("phs,whs->phw", z, weight)
    scale = norm.scale(mix.out(z.flatten(1)))[:, None]
    return (norm.divided(each, scale) - norm.divided(torch.zeros_like(each), scale)).mean(0).float()


def added(site: Site, vector: Tensor, ids: Tensor) -> Edit:
    """The edit that adds a vector at the last token of a prompt."""
    return site.add(vector.to(ids.device)).at(ids.shape[1] - 1)
