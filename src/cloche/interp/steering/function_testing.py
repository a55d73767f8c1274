"""Function vectors as a finding: which heads carry a task, and what their vector does without examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Heatmap, Lines, Panel, Provenance, Series, Table
from cloche.interp.significance import p_value
from cloche.interp.steering.functions import FoundHeads, added, found_heads, stream_site
from cloche.interp.steering.shots import Prompt, few_shot
from cloche.interp.subject import Subject
from cloche.model import Network, Site
from cloche.tasks import Task

NULLS = 20  # draws of shuffled answers, and of random heads
LISTED = 15  # heads in the table
ANSWERS = ("log_probability", "accuracy")
FIGURES = ("gain", "accuracy", "largest_effect")
SHUFFLED, RANDOM = "vectors of shuffled answers, mean", "vectors of random heads, mean"


@torch.no_grad()
def function_vectors(
    subject: Subject,
    task: Task,
    shots: int = 5,
    prompts: int = 16,
    heads: int | None = None,
    site: str | None = None,
    level: int | None = None,
    seed: int = 0,
) -> Finding:
    """Which heads carry a task from its examples to the answer, and whether what they write is enough without any examples
    (function vectors, Todd et al. 2024, 2310.15213).

    Over `prompts` prompts with `shots` answered questions before the one that is asked, every head's mean z at the last
    token. Its effect: how much that mean, put in the place of the head's value at the last token of prompts with shuffled
    answers, raises the probability of the right answer's first token; exact, in one sweep per prompt. The vector is the sum
    of the mean outputs z W_O of the `heads` heads with the largest effects (by default 10, at most a quarter of them all). It
    is added at `site` (by default the stream after a third of the layers) at the last token of held-out questions
    without examples.

    `gain`: log-probability of the right answer with the vector minus that without, nats. The null: 20 vectors from prompts
    with shuffled answers, each with heads chosen by their own effects, and 20 vectors of random other heads at equal norm;
    `p` is the share of these 40 that gain no less. Both are needed: right and shuffled answers differ a little in any
    network, in a direction that may happen to help. Where a model answers from the form of the examples alone, shuffled
    answers carry as much, and p is large.

    `arrays`: effects [head] (heads in the order of `data`), vector [width], shuffled and random [draw], the gains of the nulls.
    Raises what `cloche.interp.function_vector` raises; heads that write nothing gain 0.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import function_vectors
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> finding = function_vectors(cloche.Glass(net, cloche.train_bpe(["a"], vocab=259)), Add(), shots=2, prompts=2)
    >>> finding.data["chosen"][0] in finding.data["heads"], finding.arrays["vector"].shape
    (True, (32,))
    """
    net, place = subject.net, stream_site(subject.net, site)
    made = few_shot(subject, task, shots, prompts, level, NULLS, seed)
    found = found_heads(net, made, heads)
    vector = found.vector(0)
    nulls = [found.vector(1 + draw) for draw in range(NULLS)]
    nulls += [_of_norm(each, vector) for each in _random_heads(found, seed)]
    alone = _answered(net, made.alone, place, [torch.zeros_like(vector), vector, *nulls])
    along = list(net.sites.resid_post)
    by_layer = torch.stack([_answered(net, made.alone, each, [vector])[0] for each in along]) - alone[0]
    gain, shuffled, random = (alone[1:, 0] - alone[0, 0]).split([1, NULLS, NULLS])
    rows = {
        "no examples": alone[0],
        "no examples, with the vector": alone[1],
        SHUFFLED: alone[2 : 2 + NULLS].mean(0),
        RANDOM: alone[2 + NULLS :].mean(0),
        f"{shots} examples": _answers(net, made.test),
        f"{shots} examples with shuffled answers": _answers(net, made.test_shuffled),
    }
    largest = found.effects.amax(1)
    figures = dict(zip(FIGURES, (float(gain), float(alone[1, 1]), float(largest[0])), strict=True))
    null = dict(
        zip(FIGURES, (float(shuffled.mean()), float(rows[SHUFFLED][1]), float(largest[1:].mean())), strict=True)
    )
    data = {
        "task": str(task),
        "site": str(place),
        "shots": shots,
        "prompts": prompts,
        "held_out": len(made.alone),
        "heads": [str(each) for each in found.heads],
        "chosen": [str(each) for each in found.chosen(0)],
        "answers": {name: dict(zip(ANSWERS, row.tolist(), strict=True)) for name, row in rows.items()},
        "gain_by_layer": {str(each): row[0] for each, row in zip(along, by_layer.tolist(), strict=True)},
    }
    arrays = {"effects": found.effects[0], "vector": vector, "shuffled": shuffled, "random": random}
    figures, null = figures | {"p": p_value(float(gain), torch.cat([shuffled, random]))}, null | {"p": 0.5}
    about = Provenance("function-vectors", subject.checkpoint, seed=seed)
    panels = _panels(data, found, {SHUFFLED: float(shuffled.max()), RANDOM: float(random.max())})
    return Finding(about, _summary(data, figures, null), figures, data, arrays, null, panels)


def _of_norm(vector: Tensor, like: Tensor) -> Tensor:
    """A vector at the norm of another; zero stays zero."""
    norm = vector.norm()
    return vector * (like.norm() / norm) if float(norm) > 0 else vector


def _random_heads(found: FoundHeads, seed: int) -> list[Tensor]:
    """Sums of the mean outputs of random heads that are not in the vector."""
    chosen = set(found.order(0))
    others = [i for i in range(len(found.heads)) if i not in chosen] or list(chosen)
    draw = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(others), generator=draw)[: found.count].tolist() for _ in range(NULLS)]
    return [found.vector(0, [others[i] for i in order]) for order in orders]


def _answered(net: Network, prompts: Sequence[Prompt], site: Site, vectors: Sequence[Tensor]) -> Tensor:
    """Log-probability of the right answer and accuracy with each vector at the last token, [vector, 2]."""

    def measured(prompt: Prompt) -> Tensor:
        edits = [added(site, vector, prompt.ids) for vector in vectors]
        return net.sweep(prompt.ids, edits, lambda logits: _read(logits[0, -1], prompt.answer))

    return torch.stack([measured(prompt) for prompt in prompts]).mean(0).cpu()


def _answers(net: Network, prompts: Sequence[Prompt]) -> Tensor:
    """Log-probability and accuracy, [2]."""
    return torch.stack([_read(net.run(prompt.ids).logits[0, -1], prompt.answer) for prompt in prompts]).mean(0).cpu()


def _read(logits: Tensor, answer: int) -> Tensor:
    probabilities = logits.double().log_softmax(-1)
    return torch.stack([probabilities[answer], (probabilities.argmax() == answer).double()])


def _summary(data: dict[str, Any], figures: dict[str, float], null: dict[str, float]) -> str:
    before, count = data["answers"]["no examples"], len(data["chosen"])
    heads = (
        data["chosen"][0] if count == 1 else f"{data['chosen'][0]} and {count - 1} other head{'s' if count > 2 else ''}"
    )
    return (
        f"The mean output of {heads} after {data['shots']} examples of {data['task']}, added at {data['site']} to questions "
        f"without examples, changes the log-probability of the right answer by {figures['gain']:+.2f} nats (vectors of "
        f"shuffled answers {null['gain']:+.2f}, p = {figures['p']:.2g}) and the accuracy from {before['accuracy']:.0%} to "
        f"{figures['accuracy']:.0%}."
    )


def _panels(data: dict[str, Any], found: FoundHeads, largest: dict[str, float]) -> list[Panel]:
    start = data["answers"]["no examples"]["log_probability"]
    rows: list[tuple[str | float | None, ...]] = []
    for name, row in data["answers"].items():
        rows.append((name, row["log_probability"], row["log_probability"] - start, row["accuracy"]))
        if name in largest:
            rows.append((name.replace("mean", "largest gain"), start + largest[name], largest[name], None))
    forms: tuple[Form, ...] = ("number", "number", "number", "percent")
    columns = ("prompt", "log-probability (nats)", "gain", "accuracy")
    return [
        Table(f"Held-out questions of {data['task']}", columns, tuple(rows), forms),
        _heatmap(found),
        _heads_table(found),
        Lines(
            "Gain of the vector by the layer it is added at",
            tuple(data["gain_by_layer"]),
            (Series("gain", tuple(data["gain_by_layer"].values())),),
            "site",
            "nats",
        ),
    ]


def _heatmap(found: FoundHeads) -> Heatmap:
    """Effects by layer and head, the last layer on top."""
    layers = sorted({site.layer for site in found.heads if site.layer is not None}, reverse=True)
    effect = {
        (site.layer, site.head_index): value for site, value in zip(found.heads, found.effects[0].tolist(), strict=True)
    }
    most = 1 + max(site.head_index or 0 for site in found.heads)
    values = tuple(tuple(effect.get((layer, head)) for head in range(most)) for layer in layers)
    title = "What each head's mean adds to the probability of the right answer"
    return Heatmap(title, tuple(f"z[{layer}]" for layer in layers), tuple(f"h{head}" for head in range(most)), values)


def _heads_table(found: FoundHeads) -> Table:
    """The heads with the largest effects, beside their effects with shuffled answers."""
    order, chosen = found.effects[0].argsort(descending=True, stable=True)[:LISTED].tolist(), set(found.order(0))
    norms = found.written[0].norm(dim=-1)
    rows = tuple(
        (
            str(found.heads[i]),
            float(found.effects[0, i]),
            float(found.effects[1:, i].mean()),
            float(norms[i]),
            "yes" if i in chosen else "",
        )
        for i in order
    )
    columns = ("head", "effect", "effect with shuffled answers", "norm of its output", "in the vector")
    return Table("The heads with the largest effects", columns, rows)
