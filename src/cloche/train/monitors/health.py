"""The vital signs of a network in training, from one small forward pass through its named sites."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cloche.model import Network
from cloche.model.mixers.attention import DotProduct
from cloche.model.mixers.masks import Mask

ACTIVE = 0.01  # a unit is active above this share of its layer's RMS activation
MEMORY = 10  # records over which a unit must stay silent to be called dead


def attention_entropy(q: Tensor, k: Tensor, mask: Mask, rows: Tensor, mix: DotProduct | None = None) -> Tensor:
    """Entropy of the attention of the sampled query `rows`, as a share of the largest possible, one number a head.

    q [batch, position, head, size], k [batch, position, kv head, size] -> [head], 0 (one key takes all) to 1 (uniform over
    the keys the mask shows). mix: the layer's attention, whose scale, cap and sinks count; a sink is one more key. Rows that
    see a single key have no say. The full pattern is never formed.
    """
    groups = q.shape[2] // k.shape[2]
    scores = torch.einsum("brhd,bkhd->bhrk", q[:, rows], k.repeat_interleave(groups, dim=2)).float()
    scores = scores * ((mix.scale if mix is not None else None) or q.shape[-1] ** -0.5)
    if mix is not None:
        scores = mix.shaped(scores)
    visible = mask.allows(rows[:, None], torch.arange(k.shape[1], device=k.device)[None, :])  # [row, key]
    scores = scores.masked_fill(~visible, -torch.inf)
    pattern = scores.softmax(-1) if mix is None else mix.pattern(scores)
    entropy = torch.special.entr(pattern).sum(-1)  # [batch, head, row]
    keys = visible.sum(-1)
    if getattr(mix, "sinks", None) is not None:
        entropy = entropy + torch.special.entr((1 - pattern.sum(-1)).clamp(min=0))
        keys = keys + 1
    telling = keys > 1
    return (entropy[..., telling] / keys[telling].log()).mean(dim=(0, 2))


def active_units(activation: Tensor) -> Tensor:
    """[batch, position, unit] -> bool of the same shape: above 1% of the layer's RMS activation."""
    return activation.abs() > ACTIVE * activation.pow(2).mean().sqrt()


class Health:
    """Measures a network every so many steps: `before` the update, then `record` after it.

    `rows` sequences of the step's batch are run without gradient in fp32; `queries` positions a head stand for its attention.
    """

    def __init__(self, net: Network, rows: int = 2, queries: int = 8) -> None:
        self.net, self.rows, self.queries = net, rows, queries
        self.parts = [[net.embed.weight], *([*layer.parameters()] for layer in net.layers)]
        self.weights: list[list[Tensor]] = []
        self.silent: list[Tensor] = []  # by layer: records since each unit was last active
        self.records = 0

    @torch.no_grad()
    def before(self) -> None:
        """Remembers the weights, so that `record` can tell how far the update moved them."""
        self.weights = [[p.clone() for p in part] for part in self.parts]

    @torch.no_grad()
    def record(self, step: int, ids: Tensor, grad_norm: float) -> dict[str, Any]:
        """One line of health.jsonl, for token ids [batch, position] of which the first rows are used."""
        sites, ids = self.net.sites, ids[: self.rows]
        offered = [name for name in ("q", "k", "mlp_act") if name in dir(sites)]
        saves = [sites.embed, sites.resid_post.all, *(getattr(sites, name).all for name in offered)]
        result = self.net.run(ids, save=saves)
        stream = [result[sites.embed], *(result[site] for site in sites.resid_post)]
        queries = torch.arange(1, self.queries + 1, device=ids.device) * ids.shape[1] // self.queries - 1
        mixers = [self.net.layers[site.layer].mix for site in sites.q] if "q" in offered else []
        entropy = [
            attention_entropy(result[q], result[k], mix.part.mask, queries.unique(), mix)
            for q, k, mix in zip(
                sites.q if "q" in offered else [], sites.k if "k" in offered else [], mixers, strict=True
            )
        ]
        units = [site.layer for site in sites.mlp_act] if "mlp_act" in offered else []
        active = [active_units(result[site]) for site in (sites.mlp_act if units else [])]
        return {
            "step": step,
            "resid_variance": [x.float().var().item() for x in stream],
            "attention_entropy": [head.tolist() for head in entropy],
            "activation_density": self._by_layer(units, [a.float().mean().item() for a in active]),
            "dead_units": self._by_layer(units, self._dead(active)),
            "logit_norm": result.logits.float().pow(2).mean().sqrt().item(),
            "grad_norm": grad_norm,
            "update_ratio": self._update_ratio(),
        }

    def _by_layer(self, layers: list[int], values: list[float]) -> list[float | None]:
        """One value a layer, None for a layer of experts among others of units; nothing where no layer has any."""
        known = dict(zip(layers, values, strict=True))
        return [known.get(layer) for layer in range(len(self.net.layers))] if known else []

    def _dead(self, active: list[Tensor]) -> list[float]:
        """The share of each layer's units that were active in no token of the last ten records."""
        self.silent = self.silent or [torch.zeros(a.shape[-1], dtype=torch.long) for a in active]  # on the CPU
        self.records += 1
        for silent, a in zip(self.silent, active, strict=True):
            silent += 1
            silent[a.any(dim=(0, 1)).cpu()] = 0
        needed = min(MEMORY, self.records)
        return [(silent >= needed).float().mean().item() for silent in self.silent]

    def _update_ratio(self) -> list[float]:
        """Norm of the update over the norm of the weights before it; embedding first, then each layer."""
        ratios = []
        for part, old in zip(self.parts, self.weights, strict=True):
            moved = torch.stack([(p - o).norm() for p, o in zip(part, old, strict=True)]).norm()
            weight = torch.stack([o.norm() for o in old]).norm()
            ratios.append((moved / weight).item())
        self.weights = []
        return ratios

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON."""
        return {"records": self.records, "silent": [silent.tolist() for silent in self.silent]}

    def restore(self, state: dict[str, Any]) -> None:
        self.records = state["records"]
        self.silent = [torch.tensor(silent, dtype=torch.long) for silent in state["silent"]]
