"""One autoencoder for every kind in which a threshold, not a count, decides which features are active."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glasshouse.errors import GlasshouseError
from glasshouse.sparse.code import Code
from glasshouse.sparse.sae import Autoencoder, Provenance
from glasshouse.sparse.saes.kinds import Answer, Kind

_ROWS = 1_024  # signals whose answers exist at one time


class SAE(Autoencoder):
    """A dictionary whose encoder answers as its `kind` says, with `l0` features active on average.

    `threshold` (a buffer, 0 until calibrated) is added to every feature's own: one number that moves the average.
    """

    threshold: Tensor

    def __init__(
        self,
        width: int,
        features: int,
        l0: float,
        kind: Kind,
        *,
        seed: int = 0,
        trained_on: Provenance | None = None,
    ) -> None:
        if not 0 < l0 <= features:
            raise GlasshouseError(
                f"An autoencoder of {features:,} features cannot have l0 = {l0:g} of them active: choose l0 above 0 and at "
                f"most {features:,}."
            )
        super().__init__(width, features, seed=seed, trained_on=trained_on)
        self.kind, self.l0 = kind, float(l0)
        self.own = nn.ParameterDict(
            {
                name: nn.Parameter(value, requires_grad=value.ndim > 0)
                for name, value in kind.weights(features, width).items()
            }
        )
        self.register_buffer("threshold", torch.zeros(()))

    def pre(self, scaled: Tensor) -> Tensor:
        """[n, features] encoder (scaled - b) + encoder_bias, differentiable."""
        return torch.addmm(self.encoder_bias, scaled - self.decoder_bias, self.encoder.T)

    def answer(self, scaled: Tensor) -> Answer:
        """What the features say to a batch in training, at the trained scale."""
        return self.kind.train(self.pre(scaled), dict(self.own), self.l0)

    @torch.no_grad()
    def scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(score, magnitude), each [n, features], of raw activations, at the trained scale."""
        return self.kind.score(self.pre(x.to(self.decoder.dtype) * self.scale), dict(self.own))

    @torch.no_grad()
    def encode(self, x: Tensor) -> Code:
        """The active features of each raw activation [n, width]; values in the activations' units, never negative.

        The code has as many slots as the busiest signal needs; slots a signal does not need hold zero.
        """
        self.check(x)
        parts = []
        for rows in x.split(_ROWS):
            score, magnitude = self.scores(rows)
            values = magnitude * (score > self.threshold)
            parts.append(values.topk(max(1, int((values > 0).sum(1).amax())), dim=1))
        slots = max((part.values.shape[1] for part in parts), default=1)
        values, indices = (
            x.new_zeros(len(x), slots, dtype=self.decoder.dtype),
            x.new_zeros(len(x), slots, dtype=torch.int64),
        )
        for start, part in zip(range(0, len(x), _ROWS), parts, strict=True):
            where = slice(start, start + len(part.values)), slice(0, part.values.shape[1])
            values[where], indices[where] = part.values, part.indices
        return Code(indices, values / self.scale, self.features)

    @torch.no_grad()
    def calibrate(self, sample: Tensor) -> float:
        """Sets the threshold so that `l0` features a signal of `sample` [n, width] are active; returns the l0 then.

        A feature cannot be active with a magnitude of zero, so a kind whose features are too silent stays below.
        """
        wanted = max(1, round(self.l0 * len(sample)))
        strongest = []
        for rows in sample.split(_ROWS):
            score, magnitude = self.scores(rows)
            live = score[magnitude > 0]
            strongest.append(live.topk(min(wanted, len(live)), sorted=False).values)
        scores = torch.cat(strongest).sort(descending=True).values
        if len(scores):
            last, after = scores[min(wanted, len(scores)) - 1], scores[min(wanted, len(scores) - 1)]
            # Halfway between the last that shall be active and the first that shall not; just below where there is no other.
            self.threshold.copy_((last + after) / 2 if after < last else last - last.abs() * 1e-6)
        return float(self.encode(sample).active.float().mean())

    def forward(self, x: Tensor) -> Tensor:
        """[n, width] the reconstruction of raw activations, differentiable in the weights but for the choice of features."""
        score, magnitude = self.kind.score(self.pre(x * self.scale), dict(self.own))
        return ((magnitude * (score > self.threshold)) @ self.decoder + self.decoder_bias) / self.scale
