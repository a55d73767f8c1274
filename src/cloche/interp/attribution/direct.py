"""Direct logit attribution over the prompts of a task, beside what the model loses without each component."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Panel, Provenance, Table
from cloche.errors import InstrumentOption
from cloche.interp.attribution.components import attributed, check_sum
from cloche.interp.attribution.contributions import head_map
from cloche.interp.attribution.readouts import reading, readout
from cloche.interp.attribution.writes import Pass, sites_of
from cloche.interp.patching.cells import Contrast, contrasts
from cloche.interp.significance import Answers, untrained
from cloche.interp.subject import Subject
from cloche.model import Edit, Network
from cloche.tasks import Task

By = Literal["component", "head"]
TOP = 20  # rows in the table


@torch.no_grad()
def direct_attribution(
    subject: Subject, task: Task, by: By = "component", pairs: int = 8, level: int | None = None, seed: int = 0
) -> Finding:
    """What every component adds to the logit difference of a task's answers directly, through the final norm and the
    unembedding alone (nostalgebraist 2020; Elhage et al. 2021).

    It is `logit_attribution` of each clean prompt's last token, averaged. A component c contributes N(c) . (u_answer -
    u_against), with N the final norm at its true scale, centring included; embeddings, attention and MLP outputs and a
    constant from biases sum to the logit difference before any cap. `error` is the largest relative error of that sum over
    the prompts. by="head" divides attention outputs into heads.

    Beside each is its ablation: what the model loses of the difference with the component zero at all positions. The two
    differ where later layers read the component, and where one component erases what another writes: a large direct effect
    of one sign that a later one takes back shows nothing when both are ablated (2310.07325). The null is an untrained
    model of the same parts. `p`: share of 99 random renamings of the answers' tokens (among
    themselves, or with fewer than 4 as any tokens) for which the largest mean contribution, of either sign, is no smaller.
    `arrays`: direct [pair, component] and ablated [pair, component]. Raises ModelUnsupported where the stream is not the sum
    of its components.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import direct_attribution
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> finding = direct_attribution(cloche.Glass(net, cloche.train_bpe(["a"], vocab=259)), Add(), pairs=2)
    >>> finding.data["components"], finding.figures["error"] < 1e-5
    (['token embedding', 'attn_out[0]', 'mlp_out[0]', 'attn_out[1]', 'mlp_out[1]', 'constant'], True)
    """
    if by not in ("component", "head"):
        raise InstrumentOption(f"by={by!r} is not a division of the model; it is component or head.")
    net = subject.net
    found = contrasts(subject, task, pairs, level, seed)
    others = Answers.of(subject, found, seed)
    names, direct, differences, by_answer = _measured(net, found, by, others)
    edits = [_ablation(net, name) for name in names]
    ablated = torch.stack([_ablated(net, contrast, edits) for contrast in found])
    other = untrained(net.spec, net.embed.weight.device, seed)
    null = float(_measured(other, found, by)[1].mean(0).abs().max())
    mean, lost, total = direct.mean(0), ablated.mean(0), float(differences.mean())
    largest = torch.maximum(differences.abs(), direct.abs().amax(1)).clamp(min=1e-12)
    error = float(((direct.sum(1) - differences).abs() / largest).max())
    best = int(mean.abs().argmax())
    figures = {"largest": float(mean[best].abs()), "total": total, "error": error} | others.p(by_answer, either=True)
    data = {
        "task": str(task),
        "by": by,
        "pairs": len(found),
        "components": names,
        "direct": mean.tolist(),
        "ablated": [None if edit is None else float(fall) for edit, fall in zip(edits, lost, strict=True)],
    }
    summary = (
        f"{names[best]} adds {float(mean[best]):.3g} directly to the logit difference of {total:.3g}, the most of {len(names)} "
        f"components, and the model loses {float(lost[best]):.3g} without it, over {len(found)} "
        f"{'prompt' if len(found) == 1 else 'prompts'} of {task}."
    )
    about = Provenance("direct-attribution", subject.checkpoint, seed=seed)
    arrays = {"direct": direct, "ablated": ablated}
    return Finding(about, summary, figures, data, arrays, {"largest": null}, _panels(names, direct, lost, by))


def _measured(
    net: Network, found: list[Contrast], by: By, others: Answers | None = None
) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """Names of the components and the constant, contributions [pair, component], and the logit differences [pair]; and of
    components alone the contributions with each of the answers, [pair, answer, component]."""
    rows, differences, names = [], [], list[str]()
    by_answer = []
    for i, contrast in enumerate(found):
        pair = (contrast.asked if others is None else others.pairs[i]).unbind(1)
        place = contrast.clean.shape[1] - 1
        result = net.run(contrast.clean, save=sites_of(net, by), logits=False)
        stream = result[net.sites.resid_post[-1]][0, place]
        made = Pass(by, net, contrast.clean, place, result, readout(net, stream.double(), *pair))
        parts = attributed(made)
        differences.append(float(reading(net, *pair).unembed(net.final_norm(stream))[0]))
        check_sum(parts, differences[-1])
        by_answer.append(torch.stack([part.direct for part in parts.parts], 1).cpu())
        names = [part.name for part in parts.parts]
        rows.append(
            torch.tensor([*(float(part.direct[0]) for part in parts.parts), parts.constant], dtype=torch.float64)
        )
    return (
        [*names, "constant"],
        torch.stack(rows),
        torch.tensor(differences, dtype=torch.float64),
        torch.stack(by_answer),
    )


def _ablation(net: Network, name: str) -> Edit | None:
    """The edit that takes a component away; None for embeddings, biases and the constant."""
    if not name.startswith(("attn_out[", "mlp_out[", "z[")) or name.endswith(" bias"):
        return None
    (site,) = net.sites.resolve(name)
    return site.zero()


def _ablated(net: Network, contrast: Contrast, edits: list[Edit | None]) -> Tensor:
    """What is lost of the logit difference without each component, [component]; 0 for those that are not ablated."""

    def read(logits: Tensor) -> Tensor:
        return logits[0, -1, contrast.answer].float() - logits[0, -1, contrast.against].float()

    whole = float(read(net.run(contrast.clean).logits))
    values = net.sweep(contrast.clean, [edit for edit in edits if edit is not None], read).double().cpu()
    lost = iter((whole - values).tolist())
    return torch.tensor([0.0 if edit is None else next(lost) for edit in edits], dtype=torch.float64)


def _panels(names: list[str], direct: Tensor, lost: Tensor, by: By) -> list[Panel]:
    mean, spread = direct.mean(0), direct.std(0, correction=0)
    order = mean.abs().argsort(descending=True)[:TOP].tolist()
    rows = tuple((names[i], float(mean[i]), float(spread[i]), float(lost[i])) for i in order)
    forms: tuple[Form, ...] = ("number",) * 4
    columns = ("component", "adds directly", "spread over prompts", "lost without it")
    table = Table("The largest contributions to the logit difference", columns, rows, forms)
    return [table, head_map(names, mean.tolist())] if by == "head" else [table]
