"""Signals of a pursuit: checked, without the bias, and each scaled to size one by a power of two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import DeviceUnavailable, DictionaryMismatch, NotFinite, SignalsShape
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.scaling import exponents, shifted

UNIT = 1e-3  # tolerance of an atom's unit norm
_HUGE = 1e300  # larger than any setting for a signal of size one


@dataclass(frozen=True, eq=False)
class Signals:
    """`rows` [n, d] in the dictionary's precision, whose largest magnitudes lie between one half and one (or are zero); the
    signals are rows * 2^exponent. A code of the rows is one of the signals once its values are scaled back."""

    rows: Tensor
    exponent: Tensor  # [n]

    def __len__(self) -> int:
        return len(self.rows)

    def setting(self, amount: float) -> Tensor:
        """[n] an coefficient given in the signals' units (a penalty, a norm) in those of each row, in float64."""
        told = torch.full((len(self),), float(amount), dtype=torch.float64)
        return shifted(told, -self.exponent.cpu()).clamp_max(_HUGE).to(self.rows.device)

    def unscaled(self, settings: Tensor) -> Tensor:
        """[n] what `setting` would have been given."""
        return shifted(settings, self.exponent)

    def restored(self, code: Code) -> Code:
        """The code of the signals from one of the rows. Raises if its values overflow this precision."""
        values = shifted(code.values.double(), self.exponent).to(code.values.dtype)
        over = ~torch.isfinite(values).all(1)
        under = (code.values != 0).any(1) & ~(values != 0).any(1)
        if bool((over | under).any()):
            raise NotFinite(
                f"The codes of {int((over | under).sum()):,} of {len(self):,} signals have coefficients too "
                f"{'large' if bool(over.any()) else 'small'} for {str(values.dtype).removeprefix('torch.')}: "
                f"scale the signals{', or give the dictionary in float64' if values.dtype == torch.float32 else ''}."
            )
        return Code(code.indices, values, code.size)


def prepare(x: Tensor, dictionary: Dictionary) -> Signals:
    """The signals `x` [n, d] without the bias; raises if they are invalid."""
    _check(x, dictionary)
    atoms = dictionary.atoms
    centred = x.detach().to(torch.promote_types(x.dtype, atoms.dtype))
    if dictionary.bias is not None:
        centred = centred - dictionary.bias.detach().to(centred.dtype)
        if not torch.isfinite(centred).all():
            raise NotFinite("Signals minus the dictionary's bias overflow: scale both.")
    exponent = exponents(centred)
    return Signals(shifted(centred, -exponent).to(atoms.dtype), exponent)


def prepare_on_cpu(x: Tensor, dictionary: Dictionary) -> Signals:
    """`prepare` for a pursuit that is only compiled for a CPU; raises if the signals are elsewhere."""
    signals = prepare(x, dictionary)
    if signals.rows.device.type != "cpu":
        raise DeviceUnavailable(
            f"This pursuit runs only on a CPU, but the signals are on {signals.rows.device}: use FISTA, or move them."
        )
    return signals


def _check(x: Tensor, dictionary: Dictionary) -> None:
    if not isinstance(x, Tensor):
        raise SignalsShape(f"Signals must be a tensor [n, {dictionary.width}], not a {type(x).__name__}.")
    if x.ndim != 2 or x.shape[1] != dictionary.width:
        raise DictionaryMismatch(
            f"Signals of shape {list(x.shape)} do not fit a dictionary of {dictionary.size:,} atoms of width "
            f"{dictionary.width}: give [n, {dictionary.width}], one signal per row."
        )
    if x.device != dictionary.atoms.device:
        raise DeviceUnavailable(
            f"The signals are on {x.device} and the dictionary's atoms on {dictionary.atoms.device}: "
            "move one to the other with .to(device)."
        )
    if x.is_complex():
        raise SignalsShape("The signals are complex numbers, but a pursuit needs real ones: give their real part.")
    if dictionary.atoms.dtype not in (torch.float32, torch.float64):
        raise SignalsShape(
            f"The dictionary's atoms are {dictionary.atoms.dtype}, but a pursuit needs float32 or float64: "
            "give Dictionary(atoms.float())."
        )
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x).all(1)).sum())
        raise NotFinite(f"{bad:,} of {len(x):,} signals are NaN or infinite: leave them out.")
    norms = dictionary.norms
    if not float((norms - 1).abs().max()) <= UNIT:
        raise SignalsShape(
            f"The dictionary is not normalised: its atoms' norms run from {float(norms.min()):.3g} to "
            f"{float(norms.max()):.3g}, so the largest correlation is not the best atom; use Dictionary(D.unit(), D.bias), "
            "without zero atoms."
        )
