"""Mixture of experts: a router sends each token to a few maps of many."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cloche.errors import SettingConflict, SettingRange
from cloche.model.context import Context
from cloche.model.declare import Linear, Module, freeze
from cloche.model.maps.mlp import GLU, Gates, Map
from cloche.model.sites.declared import each_token
from cloche.model.sites.recorder import NULL_RECORDER, Adjoint, Recorder
from cloche.part import positive

if TYPE_CHECKING:
    from cloche.model.sites.proof import Proof

ROUTER_SCALE = (
    0.1  # of the usual initial deviation: routing begins nearly even (Switch Transformer, 2101.03961, section 2.4)
)
MOST_EXPERTS = 10_000


@dataclass(frozen=True)
class MoE(Map):
    """The sum of the `active` likeliest of `experts` maps, each times its probability under the router's softmax.

    normalise: the probabilities of the chosen ones sum to one (Mixtral, 2401.04088). The site `router` holds the logits the
    choice is made from; sites inside an expert, which sees some tokens only, have no name. The auxiliary loss "balance" is
    experts * sum over them of (tokens sent there / tokens) * (mean probability): `active` where all get the same (2101.03961).

    >>> from cloche import LM, Attention, Block, Stack
    >>> from cloche.model import GLU, MoE
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), MoE(experts=4, active=2, expert=GLU(hidden=16))))).build(seed=0)
    >>> net.run([[1, 2, 3]], save=["router[0]"])["router[0]"].shape
    torch.Size([1, 3, 4])
    """

    experts: int
    active: int
    expert: Map = GLU()
    normalise: bool = True
    router_bias: bool = False
    counts = ("experts",)

    def __post_init__(self) -> None:
        positive(self, experts=self.experts, active=self.active)
        if self.active > self.experts:
            raise SettingConflict(f"MoE(experts={self.experts}, active={self.active}): no more than all can be active.")
        if self.experts > MOST_EXPERTS:
            raise SettingRange(f"MoE(experts={self.experts}) must be at most {MOST_EXPERTS:,} experts.")

    def resolved(self, width: int) -> MoE:
        return dataclasses.replace(self, expert=self.expert.resolved(width))

    def build(self, width: int, std: float) -> Module:
        return _MoE(self, width, std)

    def prove(self, x: Tensor, proof: Proof) -> Tensor | None:
        logits = proof("router", proof.linear("router", x))
        # The choice as the pass makes it, in float32: what is equal there may differ in float64.
        chosen = logits.float().softmax(-1).topk(self.active, -1).indices
        shares = logits.softmax(-1).gather(-1, chosen)
        shares = shares / shares.sum(-1, keepdim=True) if self.normalise else shares
        out = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            here = (chosen == expert).any(-1)  # [batch, position]
            update = proof.unrecorded().through(self.expert, x[here], f"experts.{expert}")
            if update is None:
                return None
            out[here] += update * shares[chosen == expert][:, None]
        return out

    def idle_weights(self, width: int) -> int:
        with torch.device("meta"):
            expert = self.expert.build(width, 1.0)
        each = sum(parameter.numel() for parameter in expert.parameters() if parameter.dim() == 2)
        return (self.experts - self.active) * (each + self.expert.idle_weights(width))


class _MoE(Module):
    def __init__(self, part: MoE, width: int, std: float) -> None:
        super().__init__()
        self.active, self.normalise = part.active, part.normalise
        self.declare_site("router", each_token(expert=part.experts))
        self.router = Linear(width, part.experts, ROUTER_SCALE * width**-0.5, part.router_bias)
        # Even shares of n experts add to a deviation of sqrt(n) share.
        share = 1 / part.active if part.normalise else 1 / part.experts
        each = std / (share * part.active**0.5)
        self.experts = nn.ModuleList(part.expert.build(width, each) for _ in range(part.experts))

    def _probabilities(self, x: Tensor, context: Context, layer: int) -> Tensor:
        # Rounded to bf16 a choice between near equals would fall otherwise (selective precision, 2101.03961, section 2.4).
        with torch.autocast(x.device.type, enabled=False):
            logits = self.router(x.to(self.router.weight.dtype))
        logits = context.record("router", layer, logits)  # [batch, position, expert]
        return logits.float().softmax(-1)

    def weights(self, probabilities: Tensor) -> Tensor:
        """[..., expert]: what each expert's output is multiplied by, 0 for those that are not chosen."""
        shares, chosen = probabilities.topk(self.active, -1)
        if self.normalise:
            shares = shares / shares.sum(-1, keepdim=True)
        return torch.zeros_like(probabilities).scatter(-1, chosen, shares)

    def forward(self, x: Tensor, context: Context, layer: int) -> tuple[Tensor, dict[str, Tensor]]:
        probabilities = self._probabilities(x, context, layer)
        weights = self.weights(probabilities)
        inside = context.recorded_by(NULL_RECORDER)
        mixed = self._all if torch.compiler.is_compiling() else self._chosen
        out = mixed(x.flatten(0, -2), weights.flatten(0, -2).to(x.dtype), inside, layer).view_as(x)
        losses = {}
        if torch.is_grad_enabled():
            sent = (weights > 0).flatten(0, -2).float().mean(0)
            losses["balance"] = len(self.experts) * (sent * probabilities.flatten(0, -2).mean(0)).sum()
        return out, losses

    def frozen(self, x: Tensor, context: Context, layer: int, gates: Gates) -> tuple[Tensor, Adjoint]:
        """See `Module`: which experts are chosen and their weights are held fixed."""
        inside, rows = context.recorded_by(NULL_RECORDER), x.flatten(0, -2)
        weights = self.weights(self._probabilities(x, context, layer)).flatten(0, -2).to(x.dtype)
        out, chosen = torch.zeros_like(rows), list[tuple[Tensor, Tensor, Adjoint]]()
        for expert, weight in zip(self.experts, weights.unbind(-1), strict=True):
            tokens = weight.nonzero()[:, 0]
            if len(tokens):
                update, backward = freeze(expert, rows[tokens], inside, layer, gates)
                out.index_add_(0, tokens, update * weight[tokens, None])
                chosen.append((tokens, weight[tokens, None], backward))

        def backward_all(dy: Tensor, record: Recorder) -> Tensor:
            along = dy.flatten(1, -2)  # [cotangent, token, width]
            dx = torch.zeros_like(along)
            for tokens, share, backward in chosen:
                dx.index_add_(1, tokens, backward(along[:, tokens] * share, NULL_RECORDER))
            return dx.view_as(dy)

        return out.view_as(x), backward_all

    def _chosen(self, x: Tensor, weights: Tensor, inside: Context, layer: int) -> Tensor:
        """Each expert on its own tokens: x [token, width], weights [token, expert]."""
        out = torch.zeros_like(x)
        for expert, weight in zip(self.experts, weights.unbind(-1), strict=True):
            tokens = weight.nonzero()[:, 0]
            if len(tokens):
                update, _ = expert(x[tokens], inside, layer)
                out.index_add_(0, tokens, update.to(x.dtype) * weight[tokens, None])
        return out

    def _all(self, x: Tensor, weights: Tensor, inside: Context, layer: int) -> Tensor:
        """The same with every expert on every token: one graph, whatever is chosen."""
        updates = torch.stack([expert(x, inside, layer)[0] for expert in self.experts], -2)  # [token, expert, width]
        return (updates * weights[..., None]).sum(-2)
