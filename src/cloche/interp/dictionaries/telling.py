"""Ranks features: which are worth a look first."""

from __future__ import annotations

import torch
from torch import Tensor

from cloche.errors import ModelUnsupported
from cloche.interp.dictionaries.firings import Firings
from cloche.model import LayerNorm, Network, NoNorm

FEWEST = 32  # firings below which a feature is not ranked
DENSEST = 0.05  # share of tokens above which a feature is too dense to be specific
ALIKE = 0.7  # cosine above which two features count as duplicates


def logit_effects(net: Network, directions: Tensor, typical: Tensor) -> Tensor:
    """[N, vocab] direct effect on the logits, in nats, of adding each direction [N, width] to the last residual stream.

    The direct path: through the final norm, its scale frozen at the mean over the `typical` last residuals [n, width], and
    the unembedding, before any cap of the logits. The mean over the vocabulary is subtracted, because the softmax ignores
    it. Raises ClocheError for a final norm without a gain.
    """
    if isinstance(net.spec.norm, NoNorm):
        effects = directions @ net.unembed_weight().detach().T
        return effects.sub_(effects.mean(1, keepdim=True))
    if not hasattr(net.final_norm, "gain"):
        raise ModelUnsupported(
            f"The final norm is a {type(net.spec.norm).__name__}, through which no direct effect is linear; direct effects "
            "on the logits need RMSNorm, LayerNorm or NoNorm."
        )
    if isinstance(net.spec.norm, LayerNorm):
        directions = directions - directions.mean(-1, keepdim=True)
        typical = typical - typical.mean(-1, keepdim=True)
    scale = typical.square().mean(-1).rsqrt().mean()
    gain: Tensor = net.final_norm.gain.detach()  # type: ignore[operator]
    effects = (directions * gain * scale) @ net.unembed_weight().detach().T
    return effects.sub_(effects.mean(1, keepdim=True))


def kurtosis(x: Tensor) -> Tensor:
    """[N] fourth moment over the squared second along the last axis: 3 for Gaussian rows, large if few entries stand out."""
    centred = x - x.mean(-1, keepdim=True)
    return centred.pow(4).mean(-1) / centred.square().mean(-1).square().clamp_min(1e-30)


def specificity(firings: Firings, vocab: int) -> Tensor:
    """[features] specificity to tokens, in nats: the divergence of the tokens under a feature from those of the text.

    Tokens are weighted by the activation. The larger of two values counts: of the token it is active on, and of the next
    token, because a feature may be about either. Two tokens' worth of the text's own distribution is mixed in, so that a
    rare feature does not look specific by chance.
    """
    here = firings.where
    there = (here + 1).clamp_max(len(firings.tokens) - 1)
    return torch.maximum(_divergence(firings, here, vocab), _divergence(firings, there, vocab))


def _divergence(firings: Firings, where: Tensor, vocab: int) -> Tensor:
    """[features] Kullback-Leibler divergence of the tokens at `where`, weighted by the firings, from those of the text."""
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

    A feature is a candidate if it is active at least 32 times and on at most 5% of the tokens. Candidates are ranked by the
    mean of three percentile ranks: how specific its tokens are (`specificity`), how few tokens it promotes (`kurtosis` of
    its effect on the logits, if that is known), and how much it explains (sum of squared activations). Of two whose atoms
    [N, width] have a cosine above 0.7, only the better one is listed.
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
    """[n] percentile rank of each value, 0 to 1."""
    order = values.argsort(stable=True)
    place = torch.empty(len(values), dtype=torch.float64)
    place[order] = (
        torch.linspace(0, 1, len(values), dtype=torch.float64) if len(values) > 1 else place.new_ones(len(values))
    )
    return place
