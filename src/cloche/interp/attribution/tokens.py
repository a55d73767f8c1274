"""Gradient attributions of an answer to the tokens of its prompt."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Passage, Provenance, Table, Tokens
from cloche.errors import InstrumentOption, ModelUnsupported
from cloche.interp.attribution.agreement import pearson
from cloche.interp.attribution.slopes import gradients_of, slopes
from cloche.interp.metrics import LOGIT_DIFFERENCE, Metric
from cloche.interp.patching.cells import Contrast, contrasts, last_logits
from cloche.interp.significance import Answers
from cloche.interp.subject import Subject, spell
from cloche.model import Network
from cloche.tasks import Task

Method = Literal["integrated", "input_x_gradient", "relevance", "gradient_norm"]
METHODS: tuple[Method, ...] = ("integrated", "input_x_gradient", "relevance", "gradient_norm")


def token_attribution(
    subject: Subject,
    task: Task,
    method: Method = "integrated",
    steps: int = 16,
    metric: Metric = LOGIT_DIFFERENCE,
    level: int | None = None,
    seed: int = 0,
) -> Finding:
    """How much each token of one prompt contributes to its answer, by gradients at the embeddings.

    With x the embeddings of the clean prompt, b those of its corrupted twin and m the metric: "integrated" is (x - b) . the
    mean of dm/dx on the straight line from b to x, at `steps` points of Gauss-Legendre quadrature (Sundararajan et al. 2017),
    whose sum is m(x) - m(b); `gap` is what it misses of that, as a share. "input_x_gradient" is (x - b) . dm/dx at x, the same
    to first order, "relevance" the same in the frozen linear model (RelP, see `relevance_patching`), and "gradient_norm" the
    norm of dm/dx, which has no sign and no sum. All are in the table, with the correlation of the first two; where they
    differ, the model is not linear between the prompts, and gradients at the prompt mislead. The null is the corrupted
    prompt as its own baseline: exactly 0; `p` is the share of 99 pairs of random tokens in place of the answers whose m
    differs between the prompts by no less (no figure if m reads no answer).

    `arrays`: each method [position]; without relevance, and with a note, where a part does not say what of it is held fixed.
    Raises InstrumentOption for steps outside 1 to 256 and a metric without a gradient, ArgumentInvalid where the metric is
    the same on both prompts, and TaskInvalid where the tokenizer cannot express the task.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import token_attribution
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> finding = token_attribution(cloche.Glass(net, cloche.train_bpe(["a"], vocab=259)), Add())
    >>> finding.figures["gap"] < 0.01, finding.arrays["integrated"].shape
    (True, (4,))
    """
    if method not in METHODS:
        raise InstrumentOption(f"method={method!r} is not an attribution; it is one of {', '.join(METHODS)}.")
    if not 1 <= steps <= 256:
        raise InstrumentOption(f"steps={steps} must be between 1 and 256 points of quadrature.")
    net = subject.net
    (contrast, *_) = contrasts(subject, task, 1, level, seed)
    words = spell(subject.tokenizer, contrast.clean[0].tolist())
    others = spell(subject.tokenizer, contrast.corrupted[0].tolist())
    with torch.no_grad():
        clean = last_logits(net, contrast.clean)
        x, baseline = (_embeddings(net, ids) for ids in (contrast.clean, contrast.corrupted))
    found = _attributions(net, contrast, metric, clean, (x, baseline), steps)
    null = _attributions(net, contrast, metric, clean, (baseline, baseline), steps)["integrated"].abs().max()
    ((_, numbers),) = slopes(net, [contrast], [net.sites.embed], metric, "noise")
    total, notes = float(numbers.ends), []
    answers = Answers.of(subject, [contrast], seed)
    with torch.no_grad():
        both = torch.stack([last_logits(net, ids) for ids in (contrast.clean, contrast.corrupted)])
        ends = metric.read_many(both, answers.pairs[0], clean).double().cpu()
    gap = abs(float(found["integrated"].sum()) - total) / abs(total)
    try:
        ((_, numbers),) = slopes(net, [contrast], [net.sites.embed], metric, "noise", linear=True)
        found["relevance"] = -numbers.first_order(net.sites.embed)[0].sum(-1).cpu()
    except ModelUnsupported as error:
        if method == "relevance":
            raise
        notes.append(f"There is no relevance: {error}")
    values = found[method]
    best = int(values.abs().argmax())
    figures = {"largest": float(values[best]), "total": total, "gap": gap}
    figures |= answers.p((ends[0] - ends[1])[None, :, None], either=True)
    figures["agreement"] = pearson(found["integrated"], found["input_x_gradient"])
    data = {
        "task": str(task),
        "method": method,
        "steps": steps,
        "metric": str(metric),
        "tokens": words,
        "baseline": others,
        "notes": notes,
    }
    named = method.replace("_", " ")
    summary = (
        f"The token {best} ({words[best]!r}, {others[best]!r} in the corrupted prompt) contributes {figures['largest']:.3g} by "
        f"{named} to the {metric} of {total:.3g} between the prompts, the most; integrated gradients miss {gap:.2%} of their "
        f"sum, and input times gradient correlates with them at {figures['agreement']:.2f}."
    )
    about = Provenance("token-attribution", subject.checkpoint, seed=seed)
    panels = _panels(found, words, others, method)
    return Finding(about, summary, figures, data, found, {"largest": float(null)}, panels)


def _embeddings(net: Network, ids: Tensor) -> Tensor:
    """The site `embed` [position, width] of ids [1, position]."""
    site = net.sites.embed
    return net.run(ids, save=[site], logits=False)[site][0]


def _attributions(
    net: Network, contrast: Contrast, metric: Metric, clean: Tensor, ends: tuple[Tensor, Tensor], steps: int
) -> dict[str, Tensor]:
    """Every method's value of each token, [position]."""
    x, baseline = ends
    points, weights = np.polynomial.legendre.leggauss(steps)
    places = [*((points + 1) / 2).tolist(), 1.0]  # on the line from baseline to x; the last is x itself
    gradients = _gradients(
        net, contrast, metric, clean, torch.stack([baseline + place * (x - baseline) for place in places])
    )
    change = (x - baseline).double()
    mean = torch.einsum("s,spw->pw", torch.tensor(weights / 2, device=x.device), gradients[:-1])
    return {
        "integrated": (change * mean).sum(-1).cpu(),
        "input_x_gradient": (change * gradients[-1]).sum(-1).cpu(),
        "gradient_norm": gradients[-1].norm(dim=-1).cpu(),
    }


def _gradients(net: Network, contrast: Contrast, metric: Metric, clean: Tensor, points: Tensor) -> Tensor:
    """dm/dx at each of the embeddings [point, position, width], in double precision; the points are rows of one batch."""
    ids = contrast.clean.expand(len(points), -1)
    with torch.enable_grad():
        values = points.detach().clone().requires_grad_()
        result = net.run(ids, edits=[net.sites.embed.replace(values)], grad=True)
        read = [metric.read(row[-1], contrast.answer, contrast.against, clean) for row in result.logits]
        (gradients,) = gradients_of(metric, torch.stack(read), [values])
    return gradients.double()


def _panels(found: dict[str, Tensor], words: list[str], others: list[str], method: Method) -> tuple[Tokens, Table]:
    values = tuple(abs(value) for value in found[method].tolist())
    passage = Passage("clean prompt", tuple(words), values)
    methods = [name for name in METHODS if name in found]
    rows: list[tuple[str | float, ...]] = [
        (str(i), word, other, *(float(found[name][i]) for name in methods))
        for i, (word, other) in enumerate(zip(words, others, strict=True))
    ]
    columns = ("position", "token", "corrupted", *(name.replace("_", " ") for name in methods))
    forms: list[Form] = ["number", "token", "token", *["number"] * len(methods)]  # type: ignore[list-item]
    return Tokens(f"Contribution of each token ({method.replace('_', ' ')}, size)", (passage,)), Table(
        "By every method", columns, tuple(rows), tuple(forms)
    )
