"""Conversion between an autoencoder in the plain form that other libraries save and an `SAE`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cloche.sparse.saes.kinds import JumpReLU, Kind
from cloche.sparse.saes.module import SAE, Wiring
from cloche.sparse.saes.provenance import Provenance

_SAME = 1e-6  # relative spread below which numbers count as equal: a few roundings of float32
_PIECE = 8_192  # features whose weights are held in float64 at once


@dataclass(frozen=True, eq=False)
class Dense:
    """Of raw activations x: pre = x @ encoder.T + bias (x minus the decoder's bias if `centred`), y = values @ decoder +
    decoder_bias (+ x @ skip.T).

    `encoder` [features, width read], `decoder` [features, width written] with rows of any norm, `skip` [written, read].
    `extra` [features] each: a `threshold` that pre must exceed (also for BatchTopK); or, for Gated, the bias `gate` and the
    `log_gain`, values = relu(exp(log_gain) * (pre - bias) + bias) where pre - bias + gate > 0.
    """

    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    wiring: Wiring
    centred: bool = True
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    skip: Tensor | None = None

    def scaled(self, factor: float) -> Dense:
        """Equivalent weights that multiply activations by `factor` and divide the output by it."""
        return replace(
            self,
            encoder=self.encoder * factor,
            decoder=self.decoder / factor,
            decoder_bias=self.decoder_bias / factor,
        )


@torch.no_grad()
def to_sae(dense: Dense, kind: Kind, l0: float, trained_on: Provenance) -> SAE:
    """Equivalent SAE with unit atoms: its values, in the activations' units, are those of `dense` times the norms of its
    decoder's rows (a row of zeros remains one, with its values).

    A TopK whose rows differ in norm gets a `gain`, which preserves its selection. A BatchTopK whose features end up with
    different thresholds becomes a JumpReLU, which has one per feature.
    """
    norms = dense.decoder.norm(dim=1)
    norms = torch.where(norms > 0, norms, torch.ones_like(norms))
    apart = not kind.thresholded and not _same(norms)
    factor = torch.ones_like(norms) if apart else norms
    threshold = (dense.extra["threshold"] * factor).clamp_min(0) if "threshold" in dense.extra else None
    if threshold is not None and not isinstance(kind, JumpReLU) and not _same(threshold):
        kind = JumpReLU(nested=kind.nested)
    sae = SAE(dense.wiring, len(norms), l0, kind, trained_on=trained_on)
    bias = dense.bias * factor
    if "log_gain" in dense.extra:
        gain = dense.extra["log_gain"]
        bias = bias * torch.exp(-gain)  # in `SAE`, it is added before the gain
        sae.extra["log_gain"].copy_(gain)
        sae.extra["gate_bias"].copy_(dense.extra["gate"] * factor - bias)
    if dense.wiring.writes is None and not dense.centred:  # `SAE` always subtracts the decoder's bias from its input
        bias = bias + _products(dense.encoder, dense.decoder_bias) * factor
    sae.encoder.copy_(dense.encoder * factor[:, None])
    sae.encoder_bias.copy_(bias)
    sae.decoder.copy_(dense.decoder / norms[:, None])
    sae.decoder_bias.copy_(dense.decoder_bias)
    if threshold is not None and "log_threshold" in sae.extra:
        sae.extra["log_threshold"].copy_(threshold.double().log())
    elif threshold is not None:
        sae.threshold.copy_(threshold.mean())
    if apart:
        sae.gain = norms.to(sae.decoder.dtype)
    if sae.skip is not None and dense.skip is not None:
        sae.skip.copy_(dense.skip)
    return sae


@torch.no_grad()
def from_sae(sae: SAE) -> Dense:
    """Plain form of `sae`, which reads and writes one site, with scales and threshold folded into the weights."""
    read, written = sae.scale.double(), sae.out_scale.double()
    rescale = float(read / written)
    bias, decoder_bias = sae.encoder_bias.double(), sae.decoder_bias.double()
    skip = None
    if sae.wiring.writes is not None:
        bias = bias - _products(sae.encoder, sae.read_centre)
        if sae.skip is not None:
            decoder_bias = decoder_bias - _products(sae.skip, sae.read_centre)
            skip = sae.skip * rescale
    extra: dict[str, Tensor] = {}
    low, kind = sae.kind.threshold({name: value.detach() for name, value in sae.extra.items()}), sae.kind
    if kind.saelens == "gated":
        # The threshold is folded into the gate.
        extra = {"gate": (bias - low - sae.threshold) / written, "log_gain": sae.extra["log_gain"]}
        bias = bias * extra["log_gain"].double().exp()
    elif kind.thresholded and not (kind.saelens == "standard" and float(sae.threshold) <= 0):
        extra = {"threshold": ((low + sae.threshold.double()).clamp_min(0) / written).expand(sae.features)}
    decoder = sae.decoder if sae.gain is None else sae.decoder * sae.gain[:, None]
    biases = bias / written, decoder_bias / written
    return Dense(
        sae.encoder * rescale, biases[0], decoder, biases[1], sae.wiring, sae.wiring.writes is None, extra, skip
    )


def _same(numbers: Tensor) -> bool:
    """Whether all are equal, up to rounding."""
    low, high = numbers.aminmax()
    return float(high - low) <= _SAME * float(high.abs())


def _products(rows: Tensor, vector: Tensor) -> Tensor:
    """rows @ vector summed in float64: large terms may cancel."""
    return torch.cat([piece.double() @ vector.double() for piece in rows.split(_PIECE)])
