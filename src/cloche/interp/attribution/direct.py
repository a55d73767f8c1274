"""Direct logit attribution: what each component writes towards the answer, beside what the model loses without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Heatmap, Panel, Provenance, Table
from cloche.errors import ArgumentInvalid, ModelUnsupported
from cloche.interp.patching.cells import Contrast, contrasts
from cloche.interp.subject import Subject
from cloche.model import Edit, Network, Result, Site
from cloche.tasks import Task

By = Literal["component", "head"]
WORST = 1e-3  # relative error of the sum, beyond which the stream is not the sum of the components
TOP = 20  # rows in the table
Direct = Callable[[Tensor], Tensor]


@torch.no_grad()
def direct_attribution(
    subject: Subject, task: Task, by: By = "component", pairs: int = 8, level: int | None = None, seed: int = 0
) -> Finding:
    """What every component adds to the logit difference of a task's answers directly, through the final norm and the
    unembedding alone (nostalgebraist 2020; Elhage et al. 2021).

    A component c contributes N(c) . (u_answer - u_against), with N the final norm at its true scale on the clean prompt's last
    token, centring included. The embedding, each attention output and each MLP output (after a post-norm where there is
    one), and a constant from biases, sum to the logit difference before any cap: `error` is the largest relative error of that
    sum over the prompts. by="head" divides attention outputs into heads, z W_O of each.

    Beside each is its ablation: what the model loses of the difference with the component zero at all positions. The two
    differ where later layers read the component, and where one component erases what another writes: a large direct effect
    of one sign that a later one takes back shows nothing when both are ablated (2310.07325). The null is an untrained
    model of the same parts. `arrays`: direct [pair, component] and ablated [pair, component]. Raises ModelUnsupported where the
    stream is not the sum of its components.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import direct_attribution
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> finding = direct_attribution(cloche.Glass(net, cloche.train_bpe(["a"], vocab=259)), Add(), pairs=2)
    >>> finding.data["components"], finding.figures["error"] < 1e-5
    (['embed', 'attn_out[0]', 'mlp_out[0]', 'attn_out[1]', 'mlp_out[1]', 'constant'], True)
    """
    if by not in ("component", "head"):
        raise ArgumentInvalid(f"by={by!r} is not a division of the model; it is component or head.")
    net = subject.net
    found = contrasts(subject, task, pairs, level, seed)
    names, direct, total, error = _measured(net, found, by)
    edits = [_ablation(net, name) for name in names]
    ablated = torch.stack([_ablated(net, contrast, edits) for contrast in found])
    untrained = net.spec.build(seed=seed + 1).to(net.embed.weight.device).eval()
    null = float(_measured(untrained, found, by)[1].mean(0).abs().max())
    mean = direct.mean(0)
    best = int(mean.abs().argmax())
    figures = {"largest": float(mean[best].abs()), "total": total, "error": error}
    data = {
        "task": str(task),
        "by": by,
        "pairs": len(found),
        "components": names,
        "direct": mean.tolist(),
        "ablated": [None if edit is None else float(a) for edit, a in zip(edits, ablated.mean(0), strict=True)],
    }
    summary = (
        f"{names[best]} adds {float(mean[best]):.3g} directly to the logit difference of {total:.3g}, the most of {len(names)} "
        f"components, and the model loses {float(ablated.mean(0)[best]):.3g} without it, over {len(found)} "
        f"{'prompt' if len(found) == 1 else 'prompts'} of {task}."
    )
    about = Provenance("direct-attribution", subject.checkpoint, seed=seed)
    arrays = {"direct": direct, "ablated": ablated}
    return Finding(about, summary, figures, data, arrays, {"largest": null}, _panels(net, names, direct, ablated, by))


def _measured(net: Network, found: list[Contrast], by: By) -> tuple[list[str], Tensor, float, float]:
    """Names of the components, contributions [pair, component], the mean logit difference, and the worst relative error."""
    rows, totals, worst, names = [], [], 0.0, [""]
    for contrast in found:
        sites = [net.sites.embed, *(site for name in ("attn_out", "mlp_out", "z") for site in _all(net, name))]
        final = net.sites.final_norm
        saved = net.run(contrast.clean, save=[*sites, net.sites.resid_post[-1], final])
        towards = net.unembed_weight()[contrast.answer].double() - net.unembed_weight()[contrast.against].double()
        direct, constant = _through(net.final_norm, saved[net.sites.resid_post[-1]][0, -1], towards)
        bias = getattr(net.unembed, "bias", None)
        constant += 0.0 if bias is None else float(bias[contrast.answer] - bias[contrast.against])
        names, values = _contributions(net, saved, direct, by)
        total = float(saved[final][0, -1].double() @ towards)
        total += 0.0 if bias is None else float(bias[contrast.answer] - bias[contrast.against])
        row = torch.tensor([*values, constant])
        size = max(abs(total), float(row.abs().max()), 1e-12)
        worst = max(worst, abs(float(row.sum()) - total) / size)
        rows.append(row)
        totals.append(total)
    if worst > WORST:
        raise ModelUnsupported(
            f"The components of this model miss its logit difference by {worst:.1%}, so its stream is not their sum; use "
            "activation_patching."
        )
    return [*names, "constant"], torch.stack(rows), sum(totals) / len(totals), worst


def _all(net: Network, name: str) -> list[Site]:
    return net.sites.resolve(f"{name}.all") if name in dir(net.sites) else []


def _ablation(net: Network, name: str) -> Edit | None:
    """The edit that takes a component away; None for the embedding, biases and the constant."""
    if name in ("embed", "constant") or name.endswith(" bias"):
        return None
    layer, _, head = name.partition(" head ")
    (site,) = net.sites.resolve(layer)
    return (site.head(int(head)) if head else site).zero()


def _through(norm: Any, stream: Tensor, towards: Tensor) -> tuple[Direct, float]:
    """How a component [width] reaches the difference of two logits through the frozen norm of `stream`, and what an empty
    one contributes."""
    if hasattr(norm, "divided"):
        scale = norm.scale(stream[None])[0]

        def frozen(c: Tensor) -> Tensor:
            return norm.divided(c[None], scale)[0].double()
    else:

        def frozen(c: Tensor) -> Tensor:
            return norm(c[None])[0].double()

    empty = frozen(torch.zeros_like(stream))
    return lambda c: (frozen(c) - empty) @ towards, float(empty @ towards)


def _contributions(net: Network, saved: Result, direct: Direct, by: By) -> tuple[list[str], list[float]]:
    """Every component's name and contribution, in the order of the pass."""
    names, values = ["embed"], [float(direct(saved[net.sites.embed][0, -1]))]
    for layer, block in enumerate(net.layers):
        for name in ("attn_out", "mlp_out"):
            site = next((each for each in _all(net, name) if each.layer == layer), None)
            if site is None:
                continue
            if by == "head" and name == "attn_out" and hasattr(block.mix, "out"):
                heads, rest = _heads(net, block, saved, layer, direct)
                names += [f"z[{layer}] head {head}" for head in range(len(heads))]
                values += heads
                if abs(rest) > 0:
                    names.append(f"attn_out[{layer}] bias")
                    values.append(rest)
            else:
                names.append(str(site))
                values.append(float(direct(saved[site][0, -1])))
    return names, values


def _heads(net: Network, block: Any, saved: Result, layer: int, direct: Direct) -> tuple[list[float], float]:
    """What each head of a layer contributes, and the output's bias, through the post-norm at its scale if there is one."""
    mix, z = block.mix, saved[net.sites.z[layer]][0, -1]  # [head, head size]
    matrices = mix.out.weight.unflatten(1, z.shape).transpose(0, 1)  # [head, width, head size]
    outputs = torch.einsum("hws,hs->hw", matrices, z.to(matrices.dtype))
    bias = mix.out.bias if mix.out.bias is not None else torch.zeros_like(outputs[0])
    post = getattr(block, "mix_post", None)
    if post is not None:
        scale = post.scale((outputs.sum(0) + bias)[None])[0]
        nothing = post.divided(torch.zeros_like(bias)[None], scale)[0]
        outputs = torch.stack([post.divided(each[None], scale)[0] - nothing for each in outputs])
        bias = post.divided(bias[None], scale)[0]
    return [float(direct(each)) for each in outputs], float(direct(bias)) if bool(bias.any()) else 0.0


def _ablated(net: Network, contrast: Contrast, edits: list[Edit | None]) -> Tensor:
    """What is lost of the logit difference without each component, [component]; 0 for those that are not ablated."""

    def read(logits: Tensor) -> Tensor:
        return logits[0, -1, contrast.answer].float() - logits[0, -1, contrast.against].float()

    whole = float(read(net.run(contrast.clean).logits))
    values = net.sweep(contrast.clean, [edit for edit in edits if edit is not None], read).double().cpu()
    lost = iter((whole - values).tolist())
    return torch.tensor([0.0 if edit is None else next(lost) for edit in edits])


def _panels(net: Network, names: list[str], direct: Tensor, ablated: Tensor, by: By) -> list[Panel]:
    mean, spread, lost = direct.mean(0), direct.std(0, correction=0), ablated.mean(0)
    order = mean.abs().argsort(descending=True)[:TOP].tolist()
    rows = tuple((names[i], float(mean[i]), float(spread[i]), float(lost[i])) for i in order)
    forms: tuple[Form, ...] = ("number", "number", "number", "number")
    columns = ("component", "direct", "spread over prompts", "lost without it")
    panels: list[Panel] = [Table("The largest contributions to the logit difference", columns, rows, forms)]
    heads = [i for i, name in enumerate(names) if " head " in name]
    if by == "head" and heads:
        layers = list(dict.fromkeys(names[i].partition(" ")[0] for i in heads))
        most = max(int(names[i].rpartition(" ")[2]) for i in heads) + 1
        grid = {names[i]: float(mean[i]) for i in heads}
        values = tuple(tuple(grid.get(f"{layer} head {h}") for h in range(most)) for layer in reversed(layers))
        panels.append(
            Heatmap(
                "Direct contribution of each head", tuple(reversed(layers)), tuple(f"h{h}" for h in range(most)), values
            )
        )
    return panels
