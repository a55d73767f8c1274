"""The signal of a network, forward and backward, layer by layer, on one batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from cloche.model import Network, Result, activation

FLAT = 0.01  # of an activation's steepest slope, below which a unit passes no gradient on
SPAN, POINTS = 8.0, 4001  # of the curve that the steepest slope is read from
QUERIES = 8  # positions at which attention is measured
OFF = 1e-6  # of a layer's RMS activation, below which a unit is off


@dataclass(frozen=True)
class Units:
    """The units of one layer's map. Moments are over tokens and units.

    pre: RMS of their inputs. moment: second moment of their outputs. constant: share of that which is the same for every
    token. flat: share of (token, unit) pairs at which the activation's slope is below 1% of its steepest. off: share of
    units that are off at every token.
    """

    pre: float
    moment: float
    constant: float
    flat: float | None
    off: float


@dataclass(frozen=True)
class Layer:
    """RMS values of the sites of one layer: the stream before and after it, its branches' outputs, and the gradient of the
    loss with respect to the stream after it. entropy: of the attention pattern, as a share of its maximum."""

    before: float
    after: float
    attn: float
    mlp: float
    gradient: float
    entropy: float | None
    units: Units | None


@dataclass(frozen=True)
class Signal:
    """Every layer's signal; the loss of the batch in nats per token, the standard deviation of the logits, and the RMS of
    the embeddings and of the gradient that arrives at them."""

    layers: list[Layer]
    loss: float
    logits: float
    embed: float
    gradient: float
    vocab: int = field(default=0)

    @property
    def growth(self) -> float:
        """RMS of the stream after the last layer, in units of that of the embeddings."""
        return self.layers[-1].after / self.embed if self.embed else math.inf

    @property
    def backward(self) -> float:
        """RMS of the gradient at the embeddings, in units of that after the last layer."""
        return self.gradient / self.layers[-1].gradient if self.layers[-1].gradient else math.inf

    @property
    def surprise(self) -> float:
        """Nats by which the loss is above that of a uniform guess."""
        return self.loss - math.log(self.vocab)


def measure(net: Network, ids: Tensor) -> Signal:
    """The signal of `net` on ids [row, position + 1], with the loss of each next token."""
    sites, layers = net.sites, range(len(net.layers))
    offered = set(dir(sites))
    reads = [[getattr(sites, name)[i] for name in getattr(net.layers[i].mix, "pattern_reads", ())] for i in layers]
    acts = {site.layer: site for site in sites.mlp_act} if "mlp_act" in offered else {}
    pres = {site.layer: site for site in sites.mlp_pre} if "mlp_pre" in offered else {}
    stream = [sites.resid_pre[0], *sites.resid_post]
    save = [*stream, *sites.resid_pre, *sites.attn_out, *sites.mlp_out, *acts.values(), *pres.values()]
    r = net.run(ids[:, :-1], save=[*save, *(site for each in reads for site in each)], grad=True)
    loss = F.cross_entropy(r.logits.flatten(0, 1).float(), ids[:, 1:].flatten())
    gradients = [
        None if g is None else float(_rms(g))
        for g in torch.autograd.grad(loss, [r[site] for site in stream], allow_unused=True)
    ]
    with torch.no_grad():
        found = [
            Layer(
                _rms(r[sites.resid_pre[i]]),
                _rms(r[sites.resid_post[i]]),
                _rms(r[sites.attn_out[i]]),
                _rms(r[sites.mlp_out[i]]),
                gradients[i + 1] or 0.0,
                _entropy(net, i, r, reads[i]),
                _units(net, i, r[pres[i]], r[acts[i]]) if i in acts and i in pres else None,
            )
            for i in layers
        ]
        logits, embed = float(r.logits.float().std()), _rms(r[stream[0]])
    return Signal(found, float(loss.detach()), logits, embed, gradients[0] or 0.0, net.spec.vocab)


def _rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


def _entropy(net: Network, layer: int, r: Result, reads: list[object]) -> float | None:
    """Mean entropy of rows of the pattern as a share of the largest there can be; None if the mixer has no pattern."""
    if not reads:
        return None
    values = [r[site] for site in reads]  # type: ignore[index]
    length = values[0].shape[1]
    rows = (torch.arange(1, QUERIES + 1, device=values[0].device) * length // QUERIES - 1).clamp_min(0).unique()
    pattern, choices = net.layers[layer].mix.pattern_rows(rows, *values)
    several = choices > 1
    share = torch.special.entr(pattern.float()).sum(-1)[..., several] / choices[several].log()
    return float(share.mean()) if share.numel() else None


def _units(net: Network, layer: int, pre: Tensor, act: Tensor) -> Units:
    pre, act = pre.detach().flatten(0, 1).double(), act.detach().flatten(0, 1).double()
    moment = float(act.square().mean())
    mean = act.mean(0).square().mean()
    off = (act.abs() <= OFF * moment**0.5).all(0).double().mean() if moment else torch.ones(())
    name = getattr(net.layers[layer].part.map, "activation", None)
    flat = None if name is None else flat_share(name, pre)
    return Units(_rms(pre), moment, float(mean) / moment if moment else 1.0, flat, float(off))


def flat_share(name: object, x: Tensor) -> float:
    """Share of the inputs at which the slope of an activation is below 1% of its steepest between -8 and 8."""
    f = activation(name)  # type: ignore[arg-type]

    def slope(at: Tensor) -> Tensor:
        with torch.enable_grad():
            at = at.detach().clone().requires_grad_()
            (g,) = torch.autograd.grad(f(at).sum(), at)
        return g.abs()

    steepest = slope(torch.linspace(-SPAN, SPAN, POINTS, dtype=x.dtype, device=x.device)).max()
    return float((slope(x) < FLAT * steepest).double().mean())
