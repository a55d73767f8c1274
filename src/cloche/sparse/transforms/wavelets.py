"""Discrete wavelets, orthogonal and biorthogonal, in one and two dimensions, with periodic ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import PartUnknown, SettingConflict, SettingRange
from cloche.missing import extra
from cloche.sparse.transforms.base import Band, Transform, check_shape

WAVELETS_NEED = "Wavelets need PyWavelets"
_EXACT = 1e-9  # tolerated error of a filter bank; PyWavelets tabulates a few filters to fewer digits
_ORIENTATIONS = ("horizontal", "vertical", "diagonal")  # of the structures they answer to, as PyWavelets has them


@dataclass(frozen=True)
class Wavelets(Transform):
    """Wavelet bases (Mallat 1989; Cohen, Daubechies & Feauveau 1992) of signals [n] or images [height, width].

    `name` is any discrete wavelet of PyWavelets whose filters reconstruct exactly. The ends are periodic, so there are as
    many coefficients as samples; they equal pywt.wavedec and wavedec2 with mode "periodization". Each side must be a multiple
    of 2^levels. Bands: "coarse", and a scale: "detail/1" (the finest), or "horizontal/1", "vertical/1", "diagonal/1".

    >>> import torch
    >>> from cloche.sparse.transforms import Wavelets
    >>> transform = Wavelets((32, 32), "db4", levels=2)
    >>> x = torch.rand(32, 32, dtype=torch.float64)
    >>> coefficients = transform.analyse(x)
    >>> torch.allclose(transform.synthesise(coefficients), x), round(transform.redundancy, 2)
    (True, 1.0)
    """

    shape: tuple[int, ...]
    name: str = "db4"
    levels: int = 4
    axes: ClassVar[tuple[int, ...]] = (1, 2)

    @classmethod
    def multiple(cls, settings: dict[str, Any]) -> int:
        return int(2 ** settings["levels"])

    def __post_init__(self) -> None:
        filters(self.name)
        if self.levels < 1:
            raise SettingRange(f"Wavelets cannot have {self.levels} levels: use at least one.")
        check_shape("Wavelets", self.shape, (1, 2), 2**self.levels)

    @cached_property
    def layout(self) -> tuple[Band, ...]:
        found = [Band("coarse", tuple(n >> self.levels for n in self.shape), 0)]
        for scale in range(self.levels, 0, -1):
            sides = tuple(n >> scale for n in self.shape)
            kinds = ("detail",) if len(self.shape) == 1 else _ORIENTATIONS
            found += [Band(f"{kind}/{scale}", sides, scale) for kind in kinds]
        return tuple(found)

    def _analyse(self, x: Tensor) -> Tensor:
        return self._down(x, "dec")

    def _synthesise(self, flat: Tensor) -> Tensor:
        return self._up(flat, "rec")

    def _analyse_adjoint(self, flat: Tensor) -> Tensor:
        return self._up(flat, "dec")

    def _synthesise_adjoint(self, x: Tensor) -> Tensor:
        return self._down(x, "rec")

    def _down(self, x: Tensor, kind: str) -> Tensor:
        pair = filter_pair(self.name, kind, x)
        parts: list[Tensor] = []
        for _ in range(self.levels):
            x, *details = split(x, pair, len(self.shape))
            parts = [detail.flatten(1) for detail in details] + parts
        return torch.cat([x.flatten(1), *parts], dim=1)

    def _up(self, flat: Tensor, kind: str) -> Tensor:
        pair = filter_pair(self.name, kind, flat)
        parts = [
            part.unflatten(1, band.shape)
            for band, part in zip(self.layout, flat.split([band.size for band in self.layout], dim=1), strict=True)
        ]
        x, kinds = parts[0], 2 ** len(self.shape) - 1
        for level in range(self.levels):
            x = join([x, *parts[1 + level * kinds : 1 + (level + 1) * kinds]], pair, len(self.shape))
        return x


@lru_cache
def filters(name: str) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
    """((low, high) of the analysis, (low, high) of the synthesis, turned round so that its adjoint is an analysis)."""
    pywt = extra("pywt", "sparse", WAVELETS_NEED)
    if name not in pywt.wavelist(kind="discrete"):
        raise PartUnknown(
            f"There is no wavelet {name!r}: use one of PyWavelets' discrete ones, such as haar, db4, sym8, coif2, bior4.4."
        )
    wavelet = pywt.Wavelet(name)
    analysis = (tuple(wavelet.dec_lo), tuple(wavelet.dec_hi))
    synthesis = (tuple(wavelet.rec_lo[::-1]), tuple(wavelet.rec_hi[::-1]))
    lost = _lost(analysis, synthesis)
    if lost > _EXACT:
        raise SettingConflict(
            f"The filters of {name!r} lose {lost:.0e} of a signal, so they do not reconstruct it exactly: use another."
        )
    return analysis, synthesis


def _lost(analysis: tuple[tuple[float, ...], ...], synthesis: tuple[tuple[float, ...], ...]) -> float:
    n = 2 * len(analysis[0])
    once = torch.eye(n, dtype=torch.float64)
    down, up = torch.tensor(analysis, dtype=torch.float64), torch.tensor(synthesis, dtype=torch.float64)
    return float((join(split(once, down, 1), up, 1) - once).abs().max())


def filter_pair(name: str, kind: str, like: Tensor) -> Tensor:
    """[2, length] the low and the high filter of the "dec" or the "rec" side, as `like` is."""
    return torch.tensor(filters(name)[0 if kind == "dec" else 1], dtype=like.dtype, device=like.device)


def split(x: Tensor, pair: Tensor, axes: int) -> list[Tensor]:
    """One level: of [n, *sides] the low band and the details, each [n, *sides / 2].

    c_i[k] = sum_j pair_i[j] x[2k + length / 2 - j], periodically.
    """
    if axes == 1:
        return list(_split_last(x, pair).unbind(1))
    rows = _split_last(x, pair)  # [n, 2 along the width, height, width / 2]
    both = _split_last(rows.transpose(-1, -2), pair, lead=2).transpose(
        -1, -2
    )  # [n, along the width, along the height, ...]
    return [both[:, 0, 0], both[:, 0, 1], both[:, 1, 0], both[:, 1, 1]]


def join(parts: list[Tensor], pair: Tensor, axes: int) -> Tensor:
    """The adjoint of `split` with the same filters."""
    if axes == 1:
        return _join_last(torch.stack(parts, 1), pair)
    low, horizontal, vertical, diagonal = (part.transpose(-1, -2) for part in parts)
    both = torch.stack([torch.stack([low, horizontal], 1), torch.stack([vertical, diagonal], 1)], 1)
    rows = _join_last(both, pair, lead=2).transpose(-1, -2)
    return _join_last(rows, pair)


def _split_last(x: Tensor, pair: Tensor, lead: int = 1) -> Tensor:
    """[n.., m, length] -> [n.., 2, m, length / 2] along the last axis; `lead` axes before the new one."""
    n, length = x.shape[-1], pair.shape[1]
    first = length // 2 - (length - 1)
    at = torch.arange(first, first + n - 2 + length, device=x.device) % n
    padded = x[..., at].reshape(-1, 1, n - 2 + length)
    out = F.conv1d(padded, pair.flip(1)[:, None], stride=2)  # [rows, 2, n / 2]
    head, rest = x.shape[:lead], x.shape[lead:-1]
    return out.reshape(*head, rest.numel(), 2, n // 2).transpose(-2, -3).reshape(*head, 2, *rest, n // 2)


def _join_last(c: Tensor, pair: Tensor, lead: int = 1) -> Tensor:
    """The adjoint of `_split_last`: [n.., 2, m, half] -> [n.., m, 2 half]."""
    half, length = c.shape[-1], pair.shape[1]
    head, rest = c.shape[:lead], c.shape[lead + 1 : -1]
    rows = c.reshape(*head, 2, rest.numel(), half).transpose(-2, -3).reshape(-1, 2, half)
    # x[2m + p] = sum_i sum_k c_i[k] pair_i[2k + length/2 - 2m - p]: with t = k - m, an ordinary correlation for each phase p.
    phases, low, high = [], -(length // 4) - 1, length // 2 + 1
    steps = torch.arange(low, high + 1, device=c.device)
    for p in (0, 1):
        tap = 2 * steps + length // 2 - p
        inside = (tap >= 0) & (tap < length)
        phases.append(pair[:, tap.clamp(0, length - 1)] * inside)
    at = torch.arange(low, half + high, device=c.device) % half
    out = F.conv1d(rows[..., at], torch.stack(phases))  # [rows, phase, half]
    return out.transpose(1, 2).reshape(*head, *rest, 2 * half)
