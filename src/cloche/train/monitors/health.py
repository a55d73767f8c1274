"""Health of a network in training, measured in one small forward pass through its named sites."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cloche.model import Network
from cloche.train.monitors.layers import POSITIONS, Gains, moments, participation_ratio, spread
from cloche.train.monitors.records import HealthRecord
from cloche.train.optimizers.moved import squares
from cloche.train.optimizers.stepper import Stepper

ACTIVE = 0.01  # threshold of an active unit, as a share of its layer's RMS activation
DEAD_AFTER = 10  # records over which a unit must be inactive to count as dead


def entropy_share(pattern: Tensor, choices: Tensor) -> Tensor:
    """Entropy of attention rows as a share of the maximum, per head.

    pattern [batch, head, row, choice], choices [row] (see `pattern_rows` of a mixer) -> [head], 0 (one choice takes all) to 1
    (uniform over all). Rows with a single choice are left out.
    """
    telling = choices > 1
    entropy = torch.special.entr(pattern).sum(-1)[..., telling]  # [batch, head, row]
    return (entropy / choices[telling].log()).mean(dim=(0, 2))


def active_units(activation: Tensor) -> Tensor:
    """[batch, position, unit] -> bool of the same shape: above 1% of the layer's RMS activation."""
    size = torch.linalg.vector_norm(activation, dtype=torch.float32) / activation.numel() ** 0.5
    return activation.abs() > ACTIVE * size


class Health:
    """Measures a network in training: call `before` an update, then `record` after it.

    rows: sequences of the batch that are run, without gradient, in fp32; None for as many as have 256 positions, but at most
    half of the batch or two. queries: positions at which attention is measured. optimizer: with one that says how far the
    weights moved (`Stepper.tells`) they are not copied.

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import AdamW, Health, NextToken, Stepper
    >>> net = LM(vocab=20, width=24, body=Stack(2, Block(Attention(2), GLU()))).build(0)
    >>> optimizer, batch = Stepper(net, AdamW(lr=0.01)), torch.randint(20, (2, 17))
    >>> health = Health(net, optimizer=optimizer)
    >>> NextToken().terms(net, batch)["loss"].value.backward()
    >>> health.before()
    >>> optimizer.step()
    >>> record = health.record(1, batch[:, :-1], grad_norm=1.0)
    >>> len(record["resid_variance"]), len(record["update_ratio"]), record["dead_units"]
    (3, 3, [0.0, 0.0])
    """

    def __init__(
        self, net: Network, rows: int | None = None, queries: int = 8, optimizer: Stepper | None = None
    ) -> None:
        self.net, self.rows, self.queries, self.optimizer = net, rows, queries, optimizer
        self.gains = Gains(net)
        self.blocks = list(dict.fromkeys(net.layers))  # a block may serve several iterations
        self.parts = [[net.embed.weight], *([*block.parameters()] for block in self.blocks)]
        self.weights: list[list[Tensor]] = []
        self.norms: list[float] = []
        self.inactive: list[Tensor] = []  # per layer: records since each unit was last active
        self.records = 0

    @torch.no_grad()
    def before(self) -> None:
        """Keeps the norms of the weights, or a copy of them, so that `record` can measure the update."""
        self.norms = self._norms(self._sizes())
        if self.optimizer is None or not self.optimizer.tells:
            self.weights = [[p.clone() for p in part] for part in self.parts]

    @torch.no_grad()
    def record(self, step: int, ids: Tensor, grad_norm: float) -> HealthRecord:
        """One line of health.jsonl, from the first `rows` of token ids [batch, position]."""
        sites, ids, layers = self.net.sites, ids[: self._rows(ids)], self.net.layers
        patterns = [
            [getattr(sites, name)[i] for name in getattr(block.mix, "pattern_reads", ())]
            for i, block in enumerate(layers)
        ]
        acts = list(sites.mlp_act) if "mlp_act" in dir(sites) else []
        with self.gains.measured():
            result = self.net.run(ids, save=[sites.embed, *sites.resid_post, *acts, *itertools.chain(*patterns)])
        stream = [result[sites.embed], *(result[site] for site in sites.resid_post)]
        rows = (torch.arange(1, self.queries + 1, device=ids.device) * ids.shape[1] // self.queries - 1).unique()
        entropy = [
            entropy_share(*block.mix.pattern_rows(rows, *(result[site] for site in reads))).tolist() if reads else []
            for block, reads in zip(layers, patterns, strict=True)
        ]
        units = [site.layer for site in acts]
        active = [active_units(result[site]).flatten(0, -2) for site in acts]  # [token, unit]
        counts = [each.sum(0) for each in active]
        shape = [moments(x) for x in stream]
        weights = self._sizes()
        return {
            "step": step,
            "resid_variance": [variance for variance, _ in shape],
            "attention_entropy": entropy if any(entropy) else [],
            "activation_density": self._by_layer(
                units, [n.sum().item() / each.numel() for n, each in zip(counts, active, strict=True)]
            ),
            "dead_units": self._by_layer(units, self._dead(counts)),
            "logit_norm": torch.linalg.vector_norm(result.logits.float()).item() / result.logits.numel() ** 0.5,
            "grad_norm": grad_norm,
            "update_ratio": self._update_ratio(),
            "weight_norm": self._per_layer(self._norms(weights)),
            "rank": [participation_ratio(spread(x)) for x in stream],
            "kurtosis": [kurtosis for _, kurtosis in shape],
            "gain": self.gains.by_layer(weights),
        }

    def _rows(self, ids: Tensor) -> int:
        """Sequences to run of a batch [batch, position]."""
        if self.rows is not None:
            return self.rows
        return min(math.ceil(POSITIONS / ids.shape[1]), max(2, len(ids) // 2))

    def _by_layer(self, layers: list[int], values: list[float]) -> list[float | None]:
        """One value per layer, None for a layer without units (experts); [] if no layer has any."""
        known = dict(zip(layers, values, strict=True))
        return [known.get(layer) for layer in range(len(self.net.layers))] if known else []

    def _dead(self, counts: list[Tensor]) -> list[float]:
        """Share of units per layer that were active in no token of the last ten records, from in how many each is [unit]."""
        if [len(inactive) for inactive in self.inactive] != [len(n) for n in counts]:  # at first, or some were removed
            self.inactive = [torch.zeros(len(n), dtype=torch.long) for n in counts]  # on the CPU
        self.records += 1
        for inactive, n in zip(self.inactive, counts, strict=True):
            inactive += 1
            inactive[(n > 0).cpu()] = 0
        needed = min(DEAD_AFTER, self.records)
        return [(inactive >= needed).float().mean().item() for inactive in self.inactive]

    def _update_ratio(self) -> list[float]:
        """Norm of the update over the norm of the weights before it: embedding first, then each layer's block."""
        told = None if self.weights or self.optimizer is None else self.optimizer.moved()
        if told is not None:
            moved = [sum((told[p] for p in part if p in told), torch.zeros(())).sqrt().item() for part in self.parts]
        else:
            pairs = [zip(part, old, strict=True) for part, old in zip(self.parts, self.weights, strict=True)]
            moved = [torch.stack([squares(p - o) for p, o in each]).sum().sqrt().item() for each in pairs]
        self.weights = []
        return self._per_layer((torch.tensor(moved) / torch.tensor(self.norms)).tolist())

    def _sizes(self) -> dict[Tensor, float]:
        """Norm of each parameter."""
        weights = list(dict.fromkeys(p for part in self.parts for p in part))
        return dict(zip(weights, torch.stack(list(torch._foreach_norm(weights))).tolist(), strict=True))

    def _norms(self, sizes: Mapping[Tensor, float]) -> list[float]:
        """Norm of the embedding's weights, and of each block's."""
        return [math.hypot(*(sizes[p] for p in part)) for part in self.parts]

    def _per_layer(self, values: list[float]) -> list[float]:
        """Of the embedding and then each layer, from those of the embedding and each block."""
        of_block = dict(zip(self.blocks, values[1:], strict=True))
        return [values[0], *(of_block[block] for block in self.net.layers)]

    def state(self) -> dict[str, Any]:
        """State for `restore`, as JSON."""
        return {"records": self.records, "silent": [inactive.tolist() for inactive in self.inactive]}

    def restore(self, state: dict[str, Any]) -> None:
        self.records = state["records"]
        self.inactive = [torch.tensor(inactive, dtype=torch.long) for inactive in state["silent"]]
