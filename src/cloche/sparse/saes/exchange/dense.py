"""An autoencoder in the plain terms that other libraries save, and the same one in ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cloche.sparse.saes.kinds import BatchTopK, Gated, JumpReLU, Kind, ReLU, TopK
from cloche.sparse.saes.module import SAE, Wiring
from cloche.sparse.saes.provenance import Provenance

_SAME = 1e-6  # relative spread below which one number stands for all features: a few roundings of float32
_PIECE = 8_192  # features whose weights are held in float64 at once


@dataclass(frozen=True, eq=False)
class Dense:
    """Of raw activations x: pre = x @ encoder.T + bias (x less the decoder's bias where `centred`), y = values @ decoder +
    decoder_bias (+ x @ skip.T).

    `encoder` [features, width read], `decoder` [features, width written] with rows of any norm, `skip` [written, read]. `own`
    [features] each: a `threshold` that pre must pass, also of a whole batch; or, for Gated, the bias `gate` and the `log_gain`,
    values = relu(exp(log_gain) * (pre - bias) + bias) where pre - bias + gate > 0.
    """

    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    wiring: Wiring
    centred: bool = True
    own: Mapping[str, Tensor] = field(default_factory=dict)
    skip: Tensor | None = None

    def scaled(self, factor: float) -> Dense:
        """The same for activations that it takes times `factor`, and gives back undone."""
        return replace(
            self,
            encoder=self.encoder * factor,
            decoder=self.decoder / factor,
            decoder_bias=self.decoder_bias / factor,
        )


@torch.no_grad()
def to_sae(dense: Dense, kind: Kind, l0: float, trained_on: Provenance) -> SAE:
    """The same autoencoder with atoms of norm one, so that its values are in the activations' units: those of `dense` times
    the norms of its decoder's rows (a row of zeros stays one, with its values).

    A TopK whose rows differ in norm keeps the order it chooses by, and has a `gain`. A BatchTopK whose features end up with
    different thresholds becomes a JumpReLU, which has one a feature.
    """
    norms = dense.decoder.norm(dim=1)
    norms = torch.where(norms > 0, norms, torch.ones_like(norms))
    apart = isinstance(kind, TopK) and not _same(norms)
    factor = torch.ones_like(norms) if apart else norms
    threshold = (dense.own["threshold"] * factor).clamp_min(0) if "threshold" in dense.own else None
    if isinstance(kind, BatchTopK) and threshold is not None and not _same(threshold):
        kind = JumpReLU(nested=kind.nested)
    sae = SAE(dense.wiring, len(norms), l0, kind, trained_on=trained_on)
    bias = dense.bias * factor
    if isinstance(kind, Gated):
        gain = dense.own["log_gain"]
        bias = bias * torch.exp(-gain)  # ours is added before the gain
        sae.own["log_gain"].copy_(gain)
        sae.own["gate_bias"].copy_(dense.own["gate"] * factor - bias)
    if dense.wiring.writes is None and not dense.centred:  # ours always takes the decoder's bias from what it reads
        bias = bias + _products(dense.encoder, dense.decoder_bias) * factor
    sae.encoder.copy_(dense.encoder * factor[:, None])
    sae.encoder_bias.copy_(bias)
    sae.decoder.copy_(dense.decoder / norms[:, None])
    sae.decoder_bias.copy_(dense.decoder_bias)
    if isinstance(kind, JumpReLU) and threshold is not None:
        sae.own["log_threshold"].copy_(threshold.double().log())
    elif threshold is not None:
        sae.threshold.copy_(threshold.mean())
    if apart:
        sae.gain = norms.to(sae.decoder.dtype)
    if sae.skip is not None and dense.skip is not None:
        sae.skip.copy_(dense.skip)
    return sae


@torch.no_grad()
def from_sae(sae: SAE) -> Dense:
    """`sae`, of one site read and one written, with its scales and its threshold inside the weights."""
    read, written = sae.scale.double(), sae.out_scale.double()
    rescale = float(read / written)
    bias, decoder_bias = sae.encoder_bias.double(), sae.decoder_bias.double()
    skip = None
    if sae.wiring.writes is not None:
        bias = bias - _products(sae.encoder, sae.read_centre)
        if sae.skip is not None:
            decoder_bias = decoder_bias - _products(sae.skip, sae.read_centre)
            skip = sae.skip * rescale
    own: dict[str, Tensor] = {}
    low, kind = sae.kind.low({name: value.detach() for name, value in sae.own.items()}), sae.kind
    if isinstance(kind, Gated):
        # What must be passed moves from the threshold to the gate.
        own = {"gate": (bias - low - sae.threshold) / written, "log_gain": sae.own["log_gain"]}
        bias = bias * own["log_gain"].double().exp()
    elif kind.thresholded and not (isinstance(kind, ReLU) and float(sae.threshold) <= 0):
        own = {"threshold": ((low + sae.threshold.double()).clamp_min(0) / written).expand(sae.features)}
    decoder = sae.decoder if sae.gain is None else sae.decoder * sae.gain[:, None]
    biases = bias / written, decoder_bias / written
    return Dense(sae.encoder * rescale, biases[0], decoder, biases[1], sae.wiring, sae.wiring.writes is None, own, skip)


def _same(numbers: Tensor) -> bool:
    """Whether one number stands for all."""
    low, high = numbers.aminmax()
    return float(high - low) <= _SAME * float(high.abs())


def _products(rows: Tensor, vector: Tensor) -> Tensor:
    """rows @ vector summed in float64: the two may be large where their sum is not."""
    return torch.cat([piece.double() @ vector.double() for piece in rows.split(_PIECE)])
