"""One autoencoder for every kind, and for every wiring: autoencoder, transcoder, crosscoder."""

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
from cloche.sparse.saes.kinds import TOPK, Answer, Kind, Memory, Question
from cloche.sparse.saes.provenance import Provenance

_SPARE = 4  # times l0 scores a signal that calibration keeps of each block of signals


@dataclass(frozen=True)
class Wiring:
    """Which sites a dictionary reads and which it reconstructs, by their widths: each has a scale of its own.

    An autoencoder reads one and writes what it read (`writes` None), a crosscoder several (Lindsey et al. 2024), a transcoder
    reads one and writes another (Dunefsky et al. 2024, 2406.11944), with `skip` through a linear map besides (Paulo et al.
    2025, 2501.18823). Where it writes others, a training row is [what is read | what is written].
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...] | None = None
    skip: bool = False

    def __post_init__(self) -> None:
        if not self.reads or min(self.reads + (self.writes or (1,))) < 1 or self.writes == ():
            raise SettingConflict(
                f"{self} names no sites, or one of no width: give the width of each site read and written."
            )
        if self.skip and self.writes is None:
            raise SettingConflict(
                "A skip from a site to itself would explain all of it: leave skip out, or name what is written."
            )

    @property
    def name(self) -> str:
        """What the literature calls it."""
        if len(self.reads) > 1 or len(self.writes or ()) > 1:
            return "crosscoder"
        return "autoencoder" if self.writes is None else "transcoder with a skip" if self.skip else "transcoder"

    @property
    def columns(self) -> int:
        """Of a training row."""
        return sum(self.reads) + sum(self.writes or ())

    def check(self, rows: Tensor) -> None:
        """Refuses training rows of another shape."""
        if rows.ndim != 2 or rows.shape[1] != self.columns:
            raise SignalsShape(
                f"Rows of shape {list(rows.shape)} do not fit {self}, which wants [n, {self.columns}]: put what is read and "
                "what is written side by side."
            )


class SAE(nn.Module):
    """x ~ decode(encode(scale x - b)): a dictionary with a learned encoder that answers as its `kind` says, `l0` features
    active on average.

    `encoder` is [features, width read] and `decoder` [features, width written], its rows of norm one; b is `decoder_bias`.
    `scale` brings raw activations to the size the weights were trained at. It is part of the artefact: `encode` takes raw
    activations and gives values in their units, so scaled and unscaled numbers never meet outside this class. `threshold` (0
    until calibrated) is added to every feature's own: one number that moves the average. `gain` [features] is None but where
    the order in which a TopK chooses is not that of its values, which are the answers times it (some of other libraries).
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
        """Random unit atoms, the encoder tied to them where both are of the same sites. `seed` decides all of it."""
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
        self.own = nn.ParameterDict(
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
        """Of what is reconstructed."""
        return self.decoder.shape[1]

    @property
    def features(self) -> int:
        return self.decoder.shape[0]

    @property
    def centre(self) -> Tensor:
        """What is taken from a scaled input before it is encoded: the decoder's bias, where that is of the same sites."""
        return self.decoder_bias if self.wiring.writes is None else self.read_centre

    @property
    def out_scale(self) -> Tensor:
        """Of what is reconstructed: one number, or one a column."""
        return self.scale if self.wiring.writes is None else self.write_scale

    @property
    def dictionary(self) -> Dictionary:
        """The decoder as a Dictionary in the units of the activations: unit atoms (where one site is written) and a bias."""
        atoms, scale = self.decoder.detach(), self.out_scale
        if scale.ndim:
            atoms = atoms * (scale.mean() / scale)
        return Dictionary(atoms, self.decoder_bias.detach() / scale)

    def blocks(self, columns: Tensor) -> tuple[Tensor, ...]:
        """`columns` [..., width] of what is written, a piece for each site: a crosscoder's decoder, say."""
        return columns.split(self.wiring.writes or self.wiring.reads, dim=-1)

    def check(self, x: Tensor) -> None:
        """Refuses activations this dictionary cannot be about: another width, or NaN and infinities."""
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
                f"{bad:,} of {len(x):,} activations hold NaN or infinite numbers: leave them out, or find where the model "
                "makes them with `cloche verify` and the run's health log."
            )

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(what is read, what is to be reconstructed) of raw training rows [n, columns]."""
        self.wiring.check(rows)
        read = rows[:, : self.encoder.shape[1]]
        return (read, read) if self.wiring.writes is None else (read, rows[:, read.shape[1] :])

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The same, scaled."""
        read, target = self.split(rows)
        scaled = read * self.scale
        return (scaled, scaled) if target is read else (scaled, target * self.out_scale)

    def answer(
        self,
        scaled: Tensor,
        memory: Memory | None = None,
        gather: Callable[[Tensor], Tensor] = lambda answers: answers,
        world: int = 1,
    ) -> tuple[Chosen, Answer]:
        """What the features say to a batch of scaled inputs in training, and in which slots; differentiable."""
        chosen = self.kind.choose(self._question(scaled, memory, gather, world), self._own())
        pre = chosen.encode(scaled, self.centre, self.encoder, self.encoder_bias)
        answer = self.kind.respond(pre, {name: chosen.at(weight) for name, weight in self.own.items()})
        return chosen, answer._replace(values=self._gained(answer.values, chosen))

    def base(self, scaled: Tensor) -> Tensor:
        """The reconstruction [n, width] before any feature speaks: the bias and the skip."""
        bias = self.decoder_bias.expand(len(scaled), -1)
        return bias if self.skip is None else torch.addmm(bias, scaled - self.centre, self.skip.T)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Code:
        """The active features of each raw activation [n, width read]; values in the activations' units, never negative.

        The code has as many slots as the busiest signal needs; slots a signal does not need hold zero.
        """
        self.check(x)
        chosen = self._active(x.to(self.decoder.dtype) * self.scale)
        spoken = self.kind.magnitude(chosen.answers, {n: chosen.at(w) for n, w in self._own().items()})
        indices, values = chosen.padded(self._gained(spoken, chosen))
        return Code(indices, values / self.out_scale.mean(), self.features)

    @torch.no_grad()
    def decode(self, code: Code, read: Tensor | None = None) -> Tensor:
        """[n, width] raw activations from a code; with what was `read`, also what a skip adds to them."""
        decoded = self.dictionary.decode(code)
        if self.skip is None or read is None:
            return decoded
        return decoded + (read * self.scale - self.centre) @ self.skip.T / self.out_scale

    @torch.no_grad()
    def explain(self, rows: Tensor) -> tuple[Code, Tensor, Tensor]:
        """(code, what was to be reconstructed, its reconstruction) of raw training rows [n, columns]; both [n, width]."""
        read, target = self.split(rows)
        code = self.encode(read)
        return code, target, self.decode(code, read)

    def report(self, rows: Tensor | Iterable[Tensor]) -> Report:
        """`sparse.report` for any wiring, on raw training rows [n, columns] or pieces of them."""
        tally = Tally(self.dictionary.atoms)
        for piece in pieces_of(rows):
            code, target, reconstruction = self.explain(piece)
            tally.add(target, reconstruction, code)
        return tally.report()

    def forward(self, x: Tensor) -> Tensor:
        """[n, width] the reconstruction of raw activations, differentiable in the weights but for the choice of features."""
        scaled = x * self.scale
        chosen = self._active(scaled.detach())
        pre = chosen.encode(scaled, self.centre, self.encoder, self.encoder_bias)
        values = self.kind.magnitude(pre, {name: chosen.at(weight) for name, weight in self.own.items()})
        return (self.base(scaled) + chosen.decode(self._gained(values, chosen), self.decoder)) / self.out_scale

    @torch.no_grad()
    def calibrate(self, sample: Tensor) -> float:
        """Sets the threshold so that `l0` features a signal of raw inputs `sample` are active; returns the l0 then.

        A feature cannot be active with a magnitude of zero, so a kind whose features are too silent stays below. TopK, which
        has no threshold, only measures.
        """
        if not self.kind.thresholded:
            return float(self.encode(sample).active.float().mean())
        wanted, low = max(1, round(self.l0 * len(sample))), self.kind.low(self._own())
        strongest = []
        for _, pre in scored(sample * self.scale - self.centre, self.encoder, self.encoder_bias):
            live = (pre - low)[pre > 0]
            spare = max(1, round(_SPARE * self.l0 * len(pre)))
            strongest.append(live.topk(min(wanted, spare, len(live)), sorted=False).values)
        scores = torch.cat(strongest).sort(descending=True).values
        if len(scores):
            last, after = scores[min(wanted, len(scores)) - 1], scores[min(wanted, len(scores) - 1)]
            # Halfway between the last that shall be active and the first that shall not; just below where there is no other.
            self.threshold.copy_((last + after) / 2 if after < last else last - last.abs() * 1e-6)
        return float(self.encode(sample).active.float().mean())

    def save(self, folder: str | Path) -> Path:
        """Writes dictionary.safetensors and dictionary.json to `folder`; `load_sae` reads them back."""
        from cloche.sparse.saes.files import save_sae  # it stands on this file

        return save_sae(self, folder)

    def explain_error(self, scaled: Tensor, error: Tensor, dead: Tensor, k: int) -> Tensor:
        """The auxiliary loss AuxK: what the `dead` features [m] alone, k of them a signal, leave of `error` [n, width].

        Returns the mean square left. Gradients reach the encoder and the decoder rows of the dead features, which is what
        brings them back; the error is a target and gets none.
        """
        centre = self.centre.detach()
        local = select_topk(
            scaled - centre, self.encoder.detach()[dead], self.encoder_bias.detach()[dead], min(k, len(dead))
        )
        choice = Choice(dead[local.indices], local.starts, self.features, local.answers)
        values = choice.encode(scaled, centre, self.encoder, self.encoder_bias).relu()
        return (choice.decode(self._gained(values, choice), self.decoder) - error).square().mean()

    def _gained(self, values: Tensor, chosen: Chosen) -> Tensor:
        return values if self.gain is None else values * chosen.at(self.gain)

    def _own(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.own.items()}

    def _question(
        self, scaled: Tensor, memory: Memory | None, gather: Callable[[Tensor], Tensor], world: int
    ) -> Question:
        centred = (scaled - self.centre).detach()
        asked = centred, self.encoder.detach(), self.encoder_bias.detach(), self.l0
        return Question(*asked, memory or Memory(), gather, world)

    def _active(self, scaled: Tensor) -> Choice:
        question = self._question(scaled, None, lambda answers: answers, 1)
        return self.kind.active(question, self._own(), self.threshold)


def _one_each(widths: tuple[int, ...]) -> Tensor:
    """A scale at its start: one number where all columns share it."""
    return torch.ones(sum(widths)) if len(widths) > 1 else torch.ones(())
