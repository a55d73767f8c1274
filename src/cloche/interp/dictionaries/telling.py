"""Which features are worth a look first."""

from __future__ import annotations

import torch
from torch import Tensor

from cloche.errors import ModelUnsupported
from cloche.interp.dictionaries.firings import Firings
from cloche.model import LayerNorm, Network, NoNorm

FEWEST = 32  # firings below which nothing can be said of a feature
DENSEST = 0.05  # share of tokens above which a feature is of everything
ALIKE = 0.7  # cosine above which two features count as one for the eye


def logit_effects(net: Network, directions: Tensor, typical: Tensor) -> Tensor:
    """[N, vocab] what adding each direction [N, width] to the last residual stream adds to the logits, in nats.

    The direct path: through the final norm, its scale frozen at the mean over the `typical` last residuals [n, width], and the
    unembedding, before any cap of the logits. What all logits share is taken out, as the softmax does. Raises ClocheError
    for a final norm without a gain.
    """
    if isinstance(net.spec.norm, NoNorm):
        effects = directions @ net.unembed_weight().detach().T
        return effects.sub_(effects.mean(1, keepdim=True))
    if not hasattr(net.final_norm, "gain"):
        raise ModelUnsupported(
            f"The final norm is a {type(net.spec.norm).__name__}, through which nothing has a direct effect that is linear; "
            "effects on the logits are known for RMSNorm, LayerNorm and NoNorm."
        )
    if isinstance(net.spec.norm, LayerNorm):
        directions = directions - directions.mean(-1, keepdim=True)
        typical = typical - typical.mean(-1, keepdim=True)
    scale = typical.square().mean(-1).rsqrt().mean()
    gain: Tensor = net.final_norm.gain.detach()  # type: ignore[operator]
    effects = (directions * gain * scale) @ net.unembed_weight().detach().T
    return effects.sub_(effects.mean(1, keepdim=True))


def kurtosis(x: Tensor) -> Tensor:
    """[N] fourth moment over the squared second along the last axis: 3 for Gaussian rows, large where few entries stand out."""
    centred = x - x.mean(-1, keepdim=True)
    return centred.pow(4).mean(-1) / centred.square().mean(-1).square().clamp_min(1e-30)


def specificity(firings: Firings, vocab: int) -> Tensor:
    """[features] how few tokens a feature is about, in nats: the entropy of tokens in the text less that under the feature.

    Tokens are weighed by how strongly it fires. Of the token it fires on and the one that follows, the larger counts: a feature
    may be of what was said or of what comes. Two tokens' worth of the text at large is mixed in, so that a feature seen rarely
    does not look specific by chance.
    """
    here = firings.where
    there = (here + 1).clamp_max(len(firings.tokens) - 1)
    return torch.maximum(_divergence(firings, here, vocab), _divergence(firings, there, vocab))


def _divergence(firings: Firings, where: Tensor, vocab: int) -> Tensor:
    """[features] Kullback-Leibler divergence of the tokens at `where`, weighed by the firings, from the text's own."""
    base = torch.bincount(firings.tokens, minlength=vocab).double()
    base = (base + 0.5) / (base.sum() + 0.5 * vocab)
    pairs, inverse = torch.unique(firings.owner * vocab + firings.tokens[where], return_inverse=True)
    mass = torch.zeros(len(pairs), dtype=torch.float64).index_add_(0, inverse, firings.values.double())
    owner, token = pairs // vocab, pairs % vocab
    total = firings.sum(firings.values)
    evidence = firings.sum(torch.ones_like(firings.values))
    shrink = evidence / (evidence + 2)
    share = mass / total[owner] * shrink[owner]
    information = share * (share / base[token]).clamp_min(1e-300).log()
    return torch.zeros(firings.features, dtype=torch.float64).index_add_(0, owner, information)


def telling_order(firings: Firings, effects: Tensor | None, atoms: Tensor, count: int) -> list[int]:
    """At most `count` features, most telling first.

    A feature is a candidate when it fires at least 32 times and on at most 5% of the tokens. Candidates are ranked by the mean
    of three percentile ranks: how specific its tokens are (`specificity`), how few tokens it speaks for (`kurtosis` of its
    effect on the logits, where that is known), and how much it carries (the squares of its firings, summed: its share of what
    is explained). Of two whose atoms [N, width] have a cosine above 0.7 only the better is listed.
    """
    counts = firings.starts.diff()
    candidates = ((counts >= FEWEST) & (counts <= DENSEST * len(firings.tokens))).nonzero().squeeze(1)
    vocab = int(firings.tokens.max()) + 1 if effects is None else effects.shape[1]
    scores = [specificity(firings, vocab)[candidates], firings.sum(firings.values.double().square())[candidates]]
    if effects is not None:
        scores.append(kurtosis(effects[candidates]).double())
    score = torch.stack([_percentile_rank(values) for values in scores]).mean(0)
    chosen: list[int] = []
    for feature in candidates[score.argsort(descending=True, stable=True)].tolist():
        if len(chosen) == count:
            break
        if not chosen or float((atoms[chosen] @ atoms[feature]).max()) < ALIKE:
            chosen.append(feature)
    return chosen


def _percentile_rank(values: Tensor) -> Tensor:
    """[n] each value's place among all, 0 to 1."""
    order = values.argsort(stable=True)
    place = torch.empty(len(values), dtype=torch.float64)
    place[order] = (
        torch.linspace(0, 1, len(values), dtype=torch.float64) if len(values) > 1 else place.new_ones(len(values))
    )
    return place
