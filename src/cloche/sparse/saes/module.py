"""One module for every kind of autoencoder and every wiring: autoencoder, transcoder, crosscoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cloche.errors import DictionaryMismatch, NotFinite, SettingConflict, SignalsShape
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary, random_atoms
from cloche.sparse.metrics import Report, Tally, pieces_of
from cloche.sparse.saes.choose import scored, select_topk
from cloche.sparse.saes.gathered import Choice, Chosen
from cloche.sparse.saes.kinds import TOPK, BatchStats, FeatureActs, Kind, SelectionInput
from cloche.sparse.saes.provenance import Provenance

_SPARE = 4  # times l0 scores per signal that calibration keeps of each block of signals


@dataclass(frozen=True)
class Wiring:
    """Widths of the sites that a dictionary reads and of those it reconstructs; each site has its own scale.

    An autoencoder reads one site and reconstructs it (`writes` None), a crosscoder several (Lindsey et al. 2024); a
    transcoder reads one and writes another (Dunefsky et al. 2024, 2406.11944), with `skip` also through a linear map
    (Paulo et al. 2025, 2501.18823). If `writes` is given, a training row is [what is read | what is written].

    >>> from cloche.sparse.saes import Wiring
    >>> Wiring((8,)).name, Wiring((8,), (8,)).name, Wiring((8, 8)).name
    ('autoencoder', 'transcoder', 'crosscoder')
    >>> Wiring((8,), (4,)).columns  # of a training row [read | written]
    12
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...] | None = None
    skip: bool = False

    def __post_init__(self) -> None:
        if not self.reads or min(self.reads + (self.writes or (1,))) < 1 or self.writes == ():
            raise SettingConflict(
                f"{self} has no sites, or a width below 1: give the width of each site read and written."
            )
        if self.skip and self.writes is None:
            raise SettingConflict(
                "A skip from a site to itself would explain all of it: remove skip, or name what is written."
            )

    @property
    def name(self) -> str:
        """Its name in the literature."""
        if len(self.reads) > 1 or len(self.writes or ()) > 1:
            return "crosscoder"
        return "autoencoder" if self.writes is None else "transcoder with a skip" if self.skip else "transcoder"

    @property
    def columns(self) -> int:
        """Width of a training row."""
        return sum(self.reads) + sum(self.writes or ())

    def check(self, rows: Tensor) -> None:
        """Raises if the shape of training rows does not fit."""
        if rows.ndim != 2 or rows.shape[1] != self.columns:
            raise SignalsShape(
                f"Rows of shape {list(rows.shape)} do not fit {self}, which needs [n, {self.columns}]: concatenate what is "
                "read and what is written."
            )


class SAE(nn.Module):
    """x ~ decode(encode(scale x - b)): a dictionary with a learned encoder of some `kind`, with `l0` features active
    on average.

    `encoder` is [features, width read] and `decoder` [features, width written], with rows of unit norm; b is `decoder_bias`.
    `scale` brings raw activations to the size at which the weights were trained, and is saved with them: `encode`
    takes raw activations and returns values in their units, so scaled numbers never leave this class. `threshold` (0
    until calibrated) is added to the threshold of every feature, to adjust the average l0. `gain` [features] is None
    except in a TopK of another library that does not select by its values: these are the pre-activations times
    `gain`.

    >>> import torch
    >>> from cloche.sparse.saes import SAE
    >>> sae = SAE(8, 32, l0=4)
    >>> x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    >>> code = sae.encode(x)
    >>> code.indices.shape, code.active.tolist(), sae.decode(code).shape
    (torch.Size([5, 4]), [4, 4, 4, 4, 4], torch.Size([5, 8]))
    >>> torch.allclose(sae.decode(code), sae(x), atol=1e-5)
    True
    """

    gain: Tensor | None
    scale: Tensor
    threshold: Tensor
    read_centre: Tensor
    write_scale: Tensor

    def __init__(
        self,
        width: int | Wiring,
        features: int,
        l0: float,
        kind: Kind = TOPK,
        *,
        seed: int = 0,
        trained_on: Provenance | None = None,
    ) -> None:
        """Starts from random unit atoms drawn with `seed`; the encoder is a copy of them if it reads the sites that
        are written."""
        kind.check(features, l0)
        super().__init__()
        self.wiring = Wiring((width,)) if isinstance(width, int) else width
        self.kind, self.l0, self.trained_on = kind, float(l0), trained_on or Provenance()
        reads, writes = sum(self.wiring.reads), sum(self.wiring.writes or self.wiring.reads)
        rng = torch.Generator().manual_seed(seed)
        atoms = random_atoms(features, writes, rng)
        itself = self.wiring.writes is None
        self.encoder = nn.Parameter(atoms.clone() if itself else random_atoms(features, reads, rng))
        self.encoder_bias = nn.Parameter(torch.zeros(features))
        self.decoder = nn.Parameter(atoms)
        self.decoder_bias = nn.Parameter(torch.zeros(writes))
        self.extra = nn.ParameterDict(
            {
                name: nn.Parameter(value, requires_grad=value.ndim > 0)
                for name, value in kind.weights(features, reads).items()
            }
        )
        self.skip = nn.Parameter(torch.zeros(writes, reads)) if self.wiring.skip else None
        self.register_buffer("gain", None)
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("scale", _one_each(self.wiring.reads))
        if not itself:
            self.register_buffer("read_centre", torch.zeros(reads))
            self.register_buffer("write_scale", _one_each(self.wiring.writes or ()))

    def __repr__(self) -> str:
        reads, writes = " + ".join(map(str, self.wiring.reads)), " + ".join(map(str, self.wiring.writes or ()))
        sites = f"of width {reads}" + (f" to {writes}" if writes else "") + (" with a skip" if self.wiring.skip else "")
        site = f", trained on {self.trained_on.site}" if self.trained_on.site else ""
        return (
            f"SAE({self.kind}, {self.features:,} features {sites}, l0 {self.l0:g}, "
            f"scale {float(self.scale.mean()):.3g}{site})"
        )

    @property
    def width(self) -> int:
        """Width of what is reconstructed."""
        return self.decoder.shape[1]

    @property
    def features(self) -> int:
        return self.decoder.shape[0]

    @property
    def centre(self) -> Tensor:
        """Subtracted from a scaled input before encoding: the decoder's bias, if it reads the sites that are written."""
        return self.decoder_bias if self.wiring.writes is None else self.read_centre

    @property
    def out_scale(self) -> Tensor:
        """Scale of what is reconstructed: one number, or one per column."""
        return self.scale if self.wiring.writes is None else self.write_scale

    @property
    def dictionary(self) -> Dictionary:
        """The decoder as a Dictionary in the units of the activations: unit atoms (if one site is written) and a
        bias."""
        atoms, scale = self.decoder.detach(), self.out_scale
        if scale.ndim:
            atoms = atoms * (scale.mean() / scale)
        return Dictionary(atoms, self.decoder_bias.detach() / scale)

    def blocks(self, columns: Tensor) -> tuple[Tensor, ...]:
        """Splits `columns` [..., width] of what is written by site, such as the rows of a crosscoder's decoder."""
        return columns.split(self.wiring.writes or self.wiring.reads, dim=-1)

    def check(self, x: Tensor) -> None:
        """Raises on activations of another width, and on NaN or infinity."""
        wanted = self.encoder.shape[1]
        if x.ndim != 2 or x.shape[1] != wanted:
            raise DictionaryMismatch(
                f"Activations of shape {list(x.shape)} do not fit this dictionary of width {wanted}"
                f"{f' (trained on {self.trained_on.site})' if self.trained_on.site else ''}: give [n, {wanted}] "
                "activations of the site it was trained on."
            )
        if not torch.isfinite(x).all():
            bad = int((~torch.isfinite(x).all(1)).sum())
            raise NotFinite(
                f"{bad:,} of {len(x):,} activations are NaN or infinite: leave them out, or find where the model "
                "produces them with `cloche verify` and the run's health log."
            )

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(what is read, what is to be reconstructed) of raw training rows [n, columns]."""
        self.wiring.check(rows)
        read = rows[:, : self.encoder.shape[1]]
        return (read, read) if self.wiring.writes is None else (read, rows[:, read.shape[1] :])

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Like `split`, scaled."""
        read, target = self.split(rows)
        scaled = read * self.scale
        return (scaled, scaled) if target is read else (scaled, target * self.out_scale)

    def feature_acts(
        self,
        scaled: Tensor,
        stats: BatchStats | None = None,
        gather: Callable[[Tensor], Tensor] = lambda pre: pre,
        world: int = 1,
    ) -> tuple[Chosen, FeatureActs]:
        """The selected features of a training batch of scaled inputs, and their activations; differentiable."""
        chosen = self.kind.choose(self._selection_input(scaled, stats, gather, world), self._extra())
        pre = chosen.encode(scaled, self.centre, self.encoder, self.encoder_bias)
        acts = self.kind.activate(pre, {name: chosen.at(weight) for name, weight in self.extra.items()})
        return chosen, acts._replace(values=self._with_gain(acts.values, chosen))

    def base(self, scaled: Tensor) -> Tensor:
        """The reconstruction [n, width] without any feature: the bias and the skip."""
        bias = self.decoder_bias.expand(len(scaled), -1)
        return bias if self.skip is None else torch.addmm(bias, scaled - self.centre, self.skip.T)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Code:
        """The active features of raw activations [n, width read], with values in their units, never negative.

        The code has as many slots as the signal with most active features needs; unused slots are zero.
        """
        self.check(x)
        chosen = self._active(x.to(self.decoder.dtype) * self.scale)
        magnitudes = self.kind.magnitude(chosen.pre, {n: chosen.at(w) for n, w in self._extra().items()})
        indices, values = chosen.padded(self._with_gain(magnitudes, chosen))
        return Code(indices, values / self.out_scale.mean(), self.features)

    @torch.no_grad()
    def decode(self, code: Code, read: Tensor | None = None) -> Tensor:
        """[n, width] raw activations from a code; a skip is included if what was `read` is given."""
        decoded = self.dictionary.decode(code)
        if self.skip is None or read is None:
            return decoded
        return decoded + (read * self.scale - self.centre) @ self.skip.T / self.out_scale

    @torch.no_grad()
    def explain(self, rows: Tensor) -> tuple[Code, Tensor, Tensor]:
        """(code, target, reconstruction) of raw training rows [n, columns]; the latter two are [n, width]."""
        read, target = self.split(rows)
        code = self.encode(read)
        return code, target, self.decode(code, read)

    def report(self, rows: Tensor | Iterable[Tensor]) -> Report:
        """`sparse.report` for any wiring, on raw training rows [n, columns] or an iterable of them."""
        tally = Tally(self.dictionary.atoms)
        for piece in pieces_of(rows):
            code, target, reconstruction = self.explain(piece)
            tally.add(target, reconstruction, code)
        return tally.report()

    def forward(self, x: Tensor) -> Tensor:
        """[n, width] the reconstruction of raw activations, differentiable in the weights but for the selection."""
        scaled = x * self.scale
        chosen = self._active(scaled.detach())
        pre = chosen.encode(scaled, self.centre, self.encoder, self.encoder_bias)
        values = self.kind.magnitude(pre, {name: chosen.at(weight) for name, weight in self.extra.items()})
        return (self.base(scaled) + chosen.decode(self._with_gain(values, chosen), self.decoder)) / self.out_scale

    @torch.no_grad()
    def calibrate(self, sample: Tensor) -> float:
        """Sets the threshold so that `l0` features per signal of the raw inputs `sample` are active; returns the l0
        reached.

        A feature with magnitude zero cannot be active, so if too few features have a positive one, l0 stays lower.
        For TopK, which has no threshold, l0 is only measured.
        """
        if not self.kind.thresholded:
            return float(self.encode(sample).active.float().mean())
        wanted, low = max(1, round(self.l0 * len(sample))), self.kind.threshold(self._extra())
        strongest = []
        for _, pre in scored(sample * self.scale - self.centre, self.encoder, self.encoder_bias):
            live = (pre - low)[pre > 0]
            spare = max(1, round(_SPARE * self.l0 * len(pre)))
            strongest.append(live.topk(min(wanted, spare, len(live)), sorted=False).values)
        scores = torch.cat(strongest).sort(descending=True).values
        if len(scores):
            last, after = scores[min(wanted, len(scores)) - 1], scores[min(wanted, len(scores) - 1)]
            # Halfway between the last active one and the first inactive one; just below the last if there is none.
            self.threshold.copy_((last + after) / 2 if after < last else last - last.abs() * 1e-6)
        return float(self.encode(sample).active.float().mean())

    def save(self, folder: str | Path) -> Path:
        """Writes dictionary.safetensors and dictionary.json to `folder`; `load_sae` reads them back."""
        from cloche.sparse.saes.files import save_sae  # it imports this file

        return save_sae(self, folder)

    def explain_error(self, scaled: Tensor, error: Tensor, dead: Tensor, k: int) -> Tensor:
        """The auxiliary loss AuxK: `error` [n, width] reconstructed by the `dead` features [m] alone, k per signal.

        Returns the mean square left. Gradients reach the encoder and decoder rows of the dead features, which revives
        them; `error` is a target and has none.
        """
        centre = self.centre.detach()
        local = select_topk(
            scaled - centre, self.encoder.detach()[dead], self.encoder_bias.detach()[dead], min(k, len(dead))
        )
        choice = Choice(dead[local.indices], local.starts, self.features, local.pre)
        values = choice.encode(scaled, centre, self.encoder, self.encoder_bias).relu()
        return (choice.decode(self._with_gain(values, choice), self.decoder) - error).square().mean()

    def _with_gain(self, values: Tensor, chosen: Chosen) -> Tensor:
        return values if self.gain is None else values * chosen.at(self.gain)

    def _extra(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.extra.items()}

    def _selection_input(
        self, scaled: Tensor, stats: BatchStats | None, gather: Callable[[Tensor], Tensor], world: int
    ) -> SelectionInput:
        centred = (scaled - self.centre).detach()
        asked = centred, self.encoder.detach(), self.encoder_bias.detach(), self.l0
        return SelectionInput(*asked, stats or BatchStats(), gather, world)

    def _active(self, scaled: Tensor) -> Choice:
        batch = self._selection_input(scaled, None, lambda pre: pre, 1)
        return self.kind.active(batch, self._extra(), self.threshold)


def _one_each(widths: tuple[int, ...]) -> Tensor:
    """Initial scale: one number if all columns share it."""
    return torch.ones(sum(widths)) if len(widths) > 1 else torch.ones(())
