"""Direct logit attribution on one prompt: what each component adds to a logit difference, beside what is lost without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Provenance
from cloche.errors import InstrumentOption, ModelUnsupported, PromptInvalid, TokenizerMissing
from cloche.interp.attribution.agreement import pearson, sign_errors
from cloche.interp.attribution.contributions import contribution_panels
from cloche.interp.attribution.readouts import reading, readout
from cloche.interp.attribution.removal import Ablation, Part, both_removed
from cloche.interp.attribution.writes import BY, Branch, By, Group, Pass, branches, sites_of
from cloche.interp.significance import p_value, random_pairs
from cloche.interp.subject import Subject, encode, spell

ABLATIONS: tuple[Ablation, ...] = ("zero", "mean", "none")
ABLATED = 200  # components ablated and listed, the largest first; the others are summed
OPPOSED = 3  # components of each sign that are ablated in pairs
UNEXPLAINED = 0.05  # share of what the components add up to that rounding in half precision can explain


@torch.no_grad()
def logit_attribution(
    subject: Subject,
    prompt: Any,
    token: Any = None,
    against: Any = None,
    by: By = "component",
    position: int = -1,
    ablate: Ablation = "zero",
    seed: int = 0,
) -> Finding:
    """What each component adds directly to the logit of `token` minus that of `against` at a position, and what is lost
    without it (Elhage et al. 2021; Wang et al. 2022).

    The stream is a sum, so with the scale of the final norm frozen at its value there the difference is a sum over components,
    plus a constant (biases of the norm and of the head). by="component": embeddings, attention and MLP output of each layer;
    "head": attention by heads, z W_O, and the output's bias; "neuron": MLP outputs by neurons, in a mixture of experts
    those of the experts the token was sent to; "expert": by those experts. A branch with a norm after it is divided with
    the scale of that norm frozen; soft-capped logits are those before the cap. `token` and `against` are texts of one
    token or ids; by default the likeliest token and the next.

    Direct contributions mislead where a later component erases what an earlier one wrote: both are large, and neither matters
    (2310.07325). So each is ablated at the position ("zero", or "mean" over the positions of the prompt; all else is computed
    again): `ablated` is the fall of the difference, `agreement` its correlation with the direct contributions, `sign_errors`
    the share of the large ones whose ablation has the other sign or no effect. The largest of opposite signs are ablated in
    pairs. Of neurons, the 200 largest are listed and ablated. `direct_attribution` is the mean over the prompts of a task.

    The null is the same at 99 pairs of random tokens: `p` is the share of them whose largest contribution is no smaller.
    `arrays`: direct, ablated and null (root mean square over the random pairs) [component]. `data`: components (their
    number), names of those listed, rest (the sum of the others), constant, total (the sum of all), difference, and opposed.
    Raises InstrumentOption for a text of several tokens, and ModelUnsupported where the stream is not the sum of its
    components.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import logit_attribution
    >>> glass = cloche.Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> finding = logit_attribution(glass, [1, 2, 3], token=5, against=6)
    >>> finding.data["names"]
    ['token embedding', 'attn_out[0]', 'mlp_out[0]', 'attn_out[1]', 'mlp_out[1]']
    >>> sum_of_all = finding.arrays["direct"].sum() + finding.data["constant"]
    >>> bool(abs(sum_of_all - finding.figures["difference"]) < 1e-5)
    True
    """
    if by not in BY:
        raise InstrumentOption(f"by={by!r} is not a way to divide the model; it is one of {', '.join(BY)}.")
    if ablate not in ABLATIONS:
        raise InstrumentOption(f"ablate={ablate!r} is not an ablation; it is one of {', '.join(ABLATIONS)}.")
    net = subject.net
    text, tokens = encode(subject, prompt)
    place = _place(position, len(tokens))
    result = net.run([tokens], save=sites_of(net, by), logits=False)
    stream = result[net.sites.resid_post[-1]][0, place]
    pairs = _pairs(subject, net.unembed(net.final_norm(stream)), token, against, seed)
    made = Pass(
        by, net, torch.tensor([tokens], device=stream.device), place, result, readout(net, stream.double(), *pairs)
    )
    reads = reading(net, *pairs)
    clean = reads.unembed(net.final_norm(stream)).double()  # [pair]
    found = attributed(made)
    check_sum(found, float(clean[0]))
    opposed = [] if ablate == "none" else _opposed(found.parts)
    falls, together = None, []
    if ablate != "none":
        edits = [*([part.removed(place, ablate)] for part in found.parts), *both_removed(made, opposed, ablate)]
        measured = clean - reads.sweep(made.ids, edits, lambda logits: logits[0, place].double())  # [element, pair]
        falls, together = measured[: len(found.parts)], measured[len(found.parts) :, 0].tolist()
    figures, null = _figures(found, falls, clean)
    words = spell(subject.tokenizer, [int(pairs[0][0]), int(pairs[1][0])])
    data = {
        "prompt": text,
        "position": place,
        "token": words[0],
        "against": words[1],
        "by": by,
        "ablate": ablate,
        "components": found.count,
        "names": [part.name for part in found.parts],
        "constant": found.constant,
        "difference": float(clean[0]),
        "total": found.total,
        "rest": found.rest,
        "opposed": [[a.name, b.name, fall] for (a, b), fall in zip(opposed, together, strict=True)],
        "notes": result.notes,
    }
    direct = torch.stack([part.direct for part in found.parts])  # [part, pair]
    arrays = {"direct": direct[:, 0], "null": direct[:, 1:].square().mean(1).sqrt()}
    if falls is not None:
        arrays["ablated"] = falls[:, 0]
    about = Provenance("logit-attribution", subject.checkpoint, result.plan.hash, seed)
    panels = contribution_panels(data, arrays)
    return Finding(about, _summary(data, arrays, figures), figures, data, arrays, null, panels)


def _summary(data: dict[str, Any], arrays: dict[str, Tensor], figures: dict[str, float]) -> str:
    best = int(arrays["direct"].abs().argmax())
    direct = float(arrays["direct"][best])
    said = (
        f"{data['names'][best]} adds {direct:.3g} to the {figures['difference']:.3g} by which the logit of {data['token']!r} "
        f"exceeds that of {data['against']!r} (position {data['position']}), the most of {data['components']:,} components; "
        f"differences of random tokens have a larger one in {figures['p']:.0%} of draws"
    )
    if "ablated" not in arrays:
        return said + "."
    return (
        f"{said}; without it ({data['ablate']} ablation) the difference falls by {float(arrays['ablated'][best]):.3g}, and "
        f"{figures['sign_errors']:.0%} of the large contributions have an ablation effect of the other sign or none."
    )


# ---- what is asked


def _place(position: int, length: int) -> int:
    if not -length <= position < length:
        raise PromptInvalid(f"position={position} is outside the prompt, which has positions 0 to {length - 1}.")
    return position % length


def _pairs(subject: Subject, logits: Tensor, token: Any, against: Any, seed: int) -> tuple[Tensor, Tensor]:
    """The pair that is asked for and DRAWS random ones: tokens [pair], and those they are compared with."""
    vocab = len(logits)
    if vocab < 2:
        raise ModelUnsupported("This model has a single token, so no logit differs from another.")
    order = logits.topk(2).indices.tolist()
    first = None if token is None else token_id(subject, token, "token")
    second = None if against is None else token_id(subject, against, "against")
    if first is None:
        first = next(i for i in order if i != second)
    if second is None:
        second = next(i for i in order if i != first)
    tokens, compared = torch.cat([torch.tensor([[first, second]]), random_pairs(subject, seed)]).to(logits.device).T
    return tokens, compared


def token_id(subject: Subject, token: Any, name: str) -> int:
    """The id of a token given as its text or its id."""
    vocab = subject.net.spec.vocab
    if isinstance(token, str) and subject.tokenizer is not None:
        ids = subject.tokenizer.encode(token)
        if len(ids) != 1:
            pieces = ", ".join(map(repr, spell(subject.tokenizer, ids)))
            raise InstrumentOption(
                f"{name}={token!r} must be one token, and it is {len(ids)} ({pieces}); give one of them."
            )
        return int(ids[0])
    if isinstance(token, str) and not token.isdecimal():
        raise TokenizerMissing(f"This model has no tokenizer to read {name}={token!r} with; give a token's id.")
    if isinstance(token, bool) or not isinstance(token, int | str):
        raise InstrumentOption(f"{name}={token!r} must be a token's text or its id.")
    if not 0 <= int(token) < vocab:
        raise PromptInvalid(f"{name}={token} is outside the vocabulary, 0 to {vocab - 1}.")
    return int(token)


# ---- what is found


@dataclass(frozen=True, eq=False)
class Attributed:
    """Components in the order of the pass. largest [pair]: the largest size of any; total: what everything adds up to; rest:
    the sum of those not listed; size: the sum of all sizes; count: of all components."""

    parts: list[Part]
    largest: Tensor
    constant: float
    total: float
    rest: float
    size: float
    count: int


def attributed(made: Pass) -> Attributed:
    """One branch after the other; of neurons the largest are kept, because a model has many."""
    most = ABLATED if made.by == "neuron" else None
    constants = made.readout.constants
    found, kept = list[tuple[Branch, Group, int]](), list[Tensor]()
    unlisted, unlisted_size, count, largest = 0.0, 0.0, 0, torch.zeros_like(constants)
    for branch in branches(made):
        constants = constants + branch.constants
        for group in branch.groups:
            count, direct = count + len(group.names), group.direct
            chosen: Sequence[int] = range(len(group.names))
            if most is not None and len(group.names) > most:
                largest = torch.maximum(largest, direct.abs().amax(1))
                order = direct[0].abs().topk(len(group.names)).indices
                others, first = direct[0, order[most:]], order[:most].sort().values
                unlisted, unlisted_size = unlisted + float(others.sum()), unlisted_size + float(others.abs().sum())
                chosen, direct = first.tolist(), direct[:, first]  # a view would keep those of every neuron
            found += [(branch, group, i) for i in chosen]
            kept.append(direct)
    all_kept = torch.cat(kept, 1)
    largest = torch.maximum(largest, all_kept.abs().amax(1))
    own = all_kept[0]
    everything, size = unlisted + float(own.sum()), unlisted_size + float(own.abs().sum())
    listed: Sequence[int] = range(len(found))
    if most is not None and len(found) > most:
        listed = own.abs().topk(most).indices.sort().values.tolist()
    columns, rest = all_kept.unbind(1), everything - float(own[list(listed)].sum())
    parts = [_part(*found[i], columns[i]) for i in listed]
    return Attributed(parts, largest, float(constants[0]), everything + float(constants[0]), rest, size, count)


def _part(branch: Branch, group: Group, index: int, direct: Tensor) -> Part:
    return Part(group.names[index], branch, index, group.write, group.usual, direct)


def check_sum(found: Attributed, difference: float) -> None:
    if abs(found.total - difference) > UNEXPLAINED * (found.size + abs(difference)):
        raise ModelUnsupported(
            f"The components of this model add up to {found.total:.4g} of a logit difference of {difference:.4g}: its residual "
            "stream is not the sum of its sites embed, attn_out and mlp_out; use activation patching instead."
        )


def _opposed(parts: Sequence[Part]) -> list[tuple[Part, Part]]:
    """The largest positive components, each with each of the largest negative ones."""
    order = sorted(parts, key=lambda part: float(part.direct[0]))
    down = [part for part in order[:OPPOSED] if part.direct[0] < 0]
    up = [part for part in reversed(order[-OPPOSED:]) if part.direct[0] > 0]
    return [(a, b) for a in up for b in down]


def _figures(found: Attributed, falls: Tensor | None, clean: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of the pair that was asked for, and their mean over the random ones."""
    own, drawn = found.largest[0], found.largest[1:]
    figures = {"largest": float(own), "difference": float(clean[0])}
    null = {"largest": float(drawn.mean()), "difference": float(clean[1:].abs().mean())}
    if falls is not None:
        direct = torch.stack([part.direct for part in found.parts])
        alike = [pearson(a, b) for a, b in zip(direct.T, falls.T, strict=True)]
        wrong = [sign_errors(a, b) for a, b in zip(direct.T, falls.T, strict=True)]
        figures |= {"agreement": alike[0], "sign_errors": wrong[0]}
        null |= {"agreement": fmean(alike[1:]), "sign_errors": fmean(wrong[1:])}
    figures["p"] = p_value(float(own), drawn)
    return figures, null | {"p": 0.5}
