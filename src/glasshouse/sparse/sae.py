"""What all sparse autoencoders are, and the TopK one, which keeps the k strongest features of each signal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glasshouse.errors import GlasshouseError
from glasshouse.sparse.code import Code
from glasshouse.sparse.dictionary import Dictionary
from glasshouse.sparse.gathered import Choice, decode_chosen, encode_chosen
from glasshouse.sparse.select import select_topk


@dataclass(frozen=True)
class Provenance:
    """What a dictionary was trained on: the site and checkpoint its activations came from, and how many there were."""

    site: str | None = None
    checkpoint: str | None = None
    tokens: int = 0


class Autoencoder(nn.Module, ABC):
    """x ~ decode(encode(scale x - b)): a dictionary with a learned encoder.

    `encoder` and `decoder` are [features, width], the decoder's rows of norm one; b is `decoder_bias` [width]. `scale`
    brings raw activations to the size the weights were trained at. It is part of the artefact: `encode` takes raw
    activations and gives values in their units, so scaled and unscaled numbers never meet outside this class.
    """

    scale: Tensor

    def __init__(self, width: int, features: int, *, seed: int = 0, trained_on: Provenance | None = None) -> None:
        """Random unit atoms, the encoder tied to them at the start. `seed` decides all of it."""
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        atoms = F.normalize(torch.randn(features, width, generator=rng), dim=1)
        self.trained_on = trained_on or Provenance()
        self.encoder = nn.Parameter(atoms.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(features))
        self.decoder = nn.Parameter(atoms)
        self.decoder_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    @property
    def width(self) -> int:
        return self.decoder.shape[1]

    @property
    def features(self) -> int:
        return self.decoder.shape[0]

    @property
    def dictionary(self) -> Dictionary:
        """The decoder as a Dictionary in the units of the activations: unit atoms and a bias."""
        return Dictionary(self.decoder.detach(), self.decoder_bias.detach() / self.scale)

    def check(self, x: Tensor) -> None:
        """Refuses activations this dictionary cannot be about: another width, or NaN and infinities."""
        if x.ndim != 2 or x.shape[1] != self.width:
            raise GlasshouseError(
                f"Activations of shape {list(x.shape)} do not fit this dictionary of width {self.width}"
                f"{f' (trained on {self.trained_on.site})' if self.trained_on.site else ''}: give [n, {self.width}] "
                "activations of the site it was trained on."
            )
        if not torch.isfinite(x).all():
            bad = int((~torch.isfinite(x).all(1)).sum())
            raise GlasshouseError(
                f"{bad:,} of {len(x):,} activations hold NaN or infinite numbers: leave them out, or find where the model "
                "makes them with `glasshouse verify` and the run's health log."
            )

    @abstractmethod
    def encode(self, x: Tensor) -> Code:
        """The features of each raw activation [n, width]; values in the activations' units, never negative."""

    @torch.no_grad()
    def decode(self, code: Code) -> Tensor:
        """[n, width] raw activations from a code."""
        return self.dictionary.decode(code)

    def save(self, folder: str | Path) -> Path:
        """Writes dictionary.safetensors and dictionary.json to `folder`; `load_sae` reads them back."""
        from glasshouse.sparse.store import save_sae  # it stands on this file

        return save_sae(self, folder)

    def reconstruct_error(self, scaled: Tensor, error: Tensor, dead: Tensor, k: int) -> Tensor:
        """The auxiliary loss AuxK: how well the `dead` features [m] alone, k of them a signal, explain `error` [n, width].

        Returns the unexplained share of the error (mean square over mean square). Gradients reach the encoder and the
        decoder rows of the dead features, which is what brings them back; the error is a target and gets none.
        """
        centred = scaled - self.decoder_bias.detach()
        weight, bias = self.encoder.detach()[dead], self.encoder_bias.detach()[dead]
        local, values = select_topk(centred, weight, bias, min(k, len(dead)))
        choice = Choice(dead[local], self.features)
        values = encode_chosen(centred, self.encoder, self.encoder_bias, values, choice).relu()
        explained = decode_chosen(values, self.decoder, choice)
        return (explained - error).square().mean() / error.square().mean().clamp_min(1e-12)


class TopKSAE(Autoencoder):
    """x ~ decode(topk(relu(encoder (scale x - b) + encoder_bias))): Gao et al. 2024 (2406.04093)."""

    def __init__(
        self, width: int, features: int, k: int, *, seed: int = 0, trained_on: Provenance | None = None
    ) -> None:
        if not 1 <= k <= features:
            raise GlasshouseError(
                f"A TopK autoencoder of {features:,} features cannot keep k = {k:,}: choose k between 1 and {features:,}."
            )
        super().__init__(width, features, seed=seed, trained_on=trained_on)
        self.k = k

    @torch.no_grad()
    def encode(self, x: Tensor) -> Code:
        """The k strongest features of each raw activation [n, width]; values in the activations' units, never negative."""
        self.check(x)
        centred = x.to(self.decoder.dtype) * self.scale - self.decoder_bias
        indices, values = select_topk(centred, self.encoder, self.encoder_bias, self.k)
        return Code(indices, values.relu_() / self.scale, self.features)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width] the reconstruction of raw activations, differentiable in the weights."""
        reconstruction, _ = self.reconstruct(x * self.scale)
        return reconstruction / self.scale

    def reconstruct(self, scaled: Tensor) -> tuple[Tensor, Code]:
        """The differentiable pass at the trained scale: `scaled` [n, width] -> (its reconstruction, the code used)."""
        centred = scaled - self.decoder_bias
        indices, values = select_topk(centred.detach(), self.encoder.detach(), self.encoder_bias.detach(), self.k)
        choice = Choice(indices, self.features)
        values = encode_chosen(centred, self.encoder, self.encoder_bias, values, choice).relu()
        reconstruction = decode_chosen(values, self.decoder, choice) + self.decoder_bias
        return reconstruction, Code(indices, values.detach(), self.features)
