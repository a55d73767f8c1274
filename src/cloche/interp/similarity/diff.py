"""What changed from one model to another: losses token by token, weights, activations, lenses and shared features."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Provenance
from cloche.errors import CorpusEmpty
from cloche.interp.similarity.diff_panels import feature_panels, text_panels, weight_panels
from cloche.interp.similarity.texts import TextChanges, text_changes
from cloche.interp.similarity.weights import Moved, by_part, moved
from cloche.interp.subject import Subject, check_vocabulary, spell, windows_of
from cloche.model import Network
from cloche.sparse import SAE

HALVES = 200  # random halves of the text
RESAMPLES = 1_000
OFTEN = 5  # occurrences from which a token's mean change is listed
LISTED = 12
PROMOTED = 4  # tokens named for a direction


def model_diff(
    subject: Subject,
    windows: Iterable[Any],
    other: Subject,
    reseeded: Subject | None = None,
    sae: SAE | None = None,
    seed: int = 0,
) -> Finding:
    """What changed from a model to `other`: a later checkpoint, a fine-tune, or any model with the same tokens.

    On `windows` (batches of ids [batch, position], or texts): the loss of each token, the tokens and passages whose
    loss changed most, and per layer the distance of the residual streams and the KL between the two logit lenses. Of two
    models of one tree, also how far each parameter moved, whether it moved in one direction (the share of the squared
    change in its leading singular direction), and the tokens that this direction writes or reads. `sae`: a crosscoder of
    both models, whose features are ranked by the share of their decoder's norm that is in the other model (0.5 is shared).

    `loss_change` is the mean, other minus model, in nats per token (negative: the other predicts the text better), with a 95%
    bootstrap interval over windows. The null is that between the model and `reseeded`, a run that differs in nothing but its
    seed; without one, for the loss, the usual difference between random halves of the text, and 0 for the rest, as for
    equal models. Models of other sizes are compared by their losses alone.

    `arrays`: losses [2, token], distance and lens [site]. Raises InstrumentOption for models of different vocabularies, and
    CorpusEmpty for texts without a second token.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import model_diff
    >>> spec = LM(64, 32, Stack(2, Block(Attention(4), GLU())))
    >>> one, two = Glass(spec.build(seed=0)), Glass(spec.build(seed=0))
    >>> text = torch.randint(64, (4, 32), generator=torch.Generator().manual_seed(0))
    >>> with torch.no_grad():
    ...     _ = two.net.layers[1].mix.out.weight.mul_(2)
    >>> model_diff(one, [text], two).data["moved"][0]["name"]
    'body.layers.1.mix.out.weight'
    """
    a, b = subject.net, other.net
    check_vocabulary(a, b, "other")
    batches = [batch for batch in windows_of(subject, windows) if batch.shape[1] > 1]
    if not batches:
        raise CorpusEmpty("The texts to compare models on have no second token to predict; give more text.")
    found = text_changes(a, b, batches)
    changes = moved(a, b) if a.spec.resolved() == b.spec.resolved() else []
    figures, null = _figures(found, changes, a, b, seed), _halves(found, seed)
    if reseeded is not None:
        check_vocabulary(a, reseeded.net, "reseeded")
        again = text_changes(a, reseeded.net, batches)
        alike = a.spec.resolved() == reseeded.net.spec.resolved()
        null = _figures(again, moved(a, reseeded.net) if alike else [], a, reseeded.net, seed)
    data = {
        "other": other.checkpoint,
        "reseeded": None if reseeded is None else reseeded.checkpoint,
        "tokens": sum(each.shape[1] for each in found.loss),
        "sites": found.sites,
        "moved": [_record(each, subject) for each in changes],
        "parts": [] if not changes else [list(row) for row in by_part(changes, a, b)],
        "by_token": _by_token(found, subject),
    }
    arrays = {
        "losses": torch.cat(found.loss, 1),
        "distance": torch.tensor(found.distance),
        "lens": torch.tensor(found.lens),
    }
    about = Provenance("model-diff", subject.checkpoint, seed=seed)
    panels = [*text_panels(found, data, subject), *weight_panels(data), *feature_panels(sae)]
    return Finding(about, _summary(data, figures, null), figures, data, arrays, null, panels)


# ---- figures


def _figures(found: TextChanges, changes: list[Moved], a: Network, b: Network, seed: int) -> dict[str, float]:
    low, high = _interval(found, seed)
    figures = {"loss_change": _mean_change(found.loss), "loss_low": low, "loss_high": high}
    if found.sites:
        figures |= {"distance": fmean(found.distance), "lens": fmean(found.lens)}
    if changes:
        pairs = [(p.detach(), q.detach()) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
        change = sum(float((q.double() - p.double()).square().sum()) for p, q in pairs)
        size = sum(float(p.double().square().sum()) for p, _ in pairs)
        figures["moved"] = (change / size) ** 0.5 if size else float(change > 0)
    return figures


def _mean_change(losses: Sequence[Tensor]) -> float:
    """Over all tokens of windows [2, position]."""
    return sum(float((each[1] - each[0]).sum()) for each in losses) / sum(each.shape[1] for each in losses)


def _interval(found: TextChanges, seed: int) -> tuple[float, float]:
    """95% of bootstrap resamples of the windows, or of the tokens of a single one."""
    sums = [(float((each[1] - each[0]).sum()), each.shape[1]) for each in found.loss]
    if len(sums) == 1:
        sums = [(float(change), 1) for change in found.loss[0][1] - found.loss[0][0]]
    draw = random.Random(seed)
    means = []
    for _ in range(RESAMPLES):
        drawn = draw.choices(sums, k=len(sums))
        means.append(sum(change for change, _ in drawn) / sum(count for _, count in drawn))
    means.sort()
    return means[round(0.025 * (RESAMPLES - 1))], means[round(0.975 * (RESAMPLES - 1))]


def _halves(found: TextChanges, seed: int) -> dict[str, float]:
    """The usual difference of the mean change between random halves of the text (of its tokens if it is one window)."""
    pieces = found.loss if len(found.loss) > 1 else list(found.loss[0].split(1, 1))
    draw, gaps = random.Random(seed), []
    for _ in range(HALVES if len(pieces) > 1 else 0):
        order = draw.sample(pieces, len(pieces))
        half = len(order) // 2
        gaps.append(_mean_change(order[:half]) - _mean_change(order[half:]))
    null = {"loss_change": pstdev(gaps) if gaps else 0.0}
    return null | dict.fromkeys(("distance", "lens", "moved"), 0.0)


def _by_token(found: TextChanges, subject: Subject) -> list[list[Any]]:
    """(token, occurrences, mean change) of the tokens that are read often, those that changed most first."""
    target = torch.cat([ids[1:].cpu() for ids in found.ids])
    change = torch.cat([each[1] - each[0] for each in found.loss]).double()
    count = torch.bincount(target)
    mean = torch.bincount(target, weights=change) / count.clamp(min=1)
    often = (count >= OFTEN).nonzero()[:, 0]
    order = often[mean[often].abs().argsort(descending=True)][:LISTED].tolist()
    words = spell(subject.tokenizer, order)
    return [[word, int(count[i]), float(mean[i])] for word, i in zip(words, order, strict=True)]


def _record(each: Moved, subject: Subject) -> dict[str, Any]:
    return {
        "name": each.name,
        "layer": each.layer,
        "part": each.part,
        "relative": each.relative,
        "cosine": each.cosine,
        "leading": each.leading,
        "tokens": _promoted(each, subject),
    }


@torch.no_grad()
def _promoted(each: Moved, subject: Subject) -> list[str]:
    """Tokens at both ends of the direction that a parameter moved in, as the head reads it."""
    net = subject.net
    if each.layer is None or each.direction is None or len(each.direction) != net.spec.width:
        return []
    scores = net.unembed_weight().detach().float() @ each.direction.to(net.embed.weight.device)
    order = scores.argsort(descending=True).tolist()
    return spell(subject.tokenizer, [*order[:PROMOTED], *order[-PROMOTED:]])


def _summary(data: dict[str, Any], figures: dict[str, float], null: dict[str, float]) -> str:
    way = "less" if figures["loss_change"] < 0 else "more"
    against = (
        f"{data['reseeded']}: {null['loss_change']:.2g}"
        if data["reseeded"]
        else f"random halves: {null['loss_change']:.2g}"
    )
    said = (
        f"{data['other'] or 'The other model'} has {abs(figures['loss_change']):.3g} nats per token {way} loss "
        f"({figures['loss_low']:.2g} to {figures['loss_high']:.2g}; {against}) over {data['tokens']:,} tokens"
    )
    if not data["moved"]:
        return said + "; the models are of different trees, so weights are not compared."
    first = data["moved"][0]
    if not first["relative"]:
        return said + "; no parameter differs."
    one = "" if first["leading"] is None else f", {first['leading']:.0%} of its change in one direction"
    return f"{said}; {first['name']} moved most, by {first['relative']:.1%} of its norm{one}."
