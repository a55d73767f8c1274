"""Base of all learners: interface, validation of signals, and initial atoms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import (
    CorpusEmpty,
    DeviceUnavailable,
    DictionaryMismatch,
    NotFinite,
    SettingConflict,
    SettingRange,
    SignalsShape,
)
from cloche.part import Part
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.pursuit.base import Pursued

Signals = Tensor | np.ndarray | Iterable[Tensor | np.ndarray]

ALIKE = 0.99  # |cosine| above which one of two atoms is redundant
_SILENT = 1e-6  # share of the typical norm below which a signal counts as zero


class Learner(Part, ABC):
    """Algorithm that fits a dictionary to signals: an array [n, d], or a stream of such pieces.

    The atoms have unit norm; the encoder is the pursuit used for learning, over the dictionary. Fields named `atoms`,
    `pursuit` and `seed` are set by the options of `cloche sparse learn`.

    >>> from cloche.sparse import isotropic_noise
    >>> from cloche.sparse.learners import KSVD, Learner
    >>> from cloche.sparse.pursuit import OMP
    >>> learner = KSVD(8, OMP(k=2), rounds=2)
    >>> dictionary, encoder = learner.fit(isotropic_noise(200, 4))
    >>> isinstance(learner, Learner), dictionary.atoms.shape
    (True, torch.Size([8, 4]))
    """

    renamed = {"online": "OnlineDictionaryLearning", "ksvd": "KSVD", "itda": "ITDA"}  # noqa: RUF012 (a ClassVar of Part)

    @abstractmethod
    def fit(self, signals: Signals) -> tuple[Dictionary, Pursued]:
        """Returns the dictionary and its encoder. Raises if signals are not finite numbers [n, d], or too few."""

    def lasting(self, passes: int) -> Learner:
        """The same learner with this many passes over the signals."""
        raise SettingConflict(f"{type(self).__name__} reads every signal once: leave out --passes.")


def checked(piece: Tensor | np.ndarray, width: int | None = None, seen: int = 0) -> Tensor:
    """The piece as a tensor [n, d] in float32, or float64 where it is that; `seen` signals came before it."""
    tensor = torch.from_numpy(piece) if isinstance(piece, np.ndarray) and piece.dtype.kind in "iuf" else piece
    if not isinstance(tensor, Tensor) or tensor.ndim != 2 or tensor.is_complex() or tensor.shape[1] == 0:
        what = f"{list(piece.shape)} of {piece.dtype}" if hasattr(piece, "shape") else type(piece).__name__
        raise SignalsShape(f"Signals to learn from are {what}: give real numbers [n, d], one signal per row.")
    if width is not None and tensor.shape[1] != width:
        raise SignalsShape(
            f"A piece of the signals after {seen:,} has width {tensor.shape[1]}, and those before it {width}: give "
            "pieces of one width."
        )
    if tensor.device.type != "cpu":
        raise DeviceUnavailable(
            f"Dictionaries are learned on a CPU, but the signals are on {tensor.device}: move them."
        )
    tensor = tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()
    finite = torch.isfinite(tensor).all(1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise NotFinite(f"Signal {seen + bad:,} is NaN or infinite: leave such signals out.")
    return tensor


def gathered(signals: Signals) -> Tensor:
    """[n, d] all signals, including those of a stream, for learners that need several passes."""
    if isinstance(signals, (Tensor, np.ndarray)):
        return checked(signals)
    pieces: list[Tensor] = []
    for piece in signals:
        pieces.append(checked(piece, pieces[0].shape[1] if pieces else None, sum(map(len, pieces))))
    if not pieces:
        raise CorpusEmpty("There are no signals to learn a dictionary from: the stream was empty.")
    return torch.cat(pieces)


def shuffled(x: Tensor, batch: int, passes: int, seed: int) -> Iterator[Tensor]:
    """`passes` shuffled passes over x [n, d], nearly equal batches of at most `batch` rows."""
    rng = torch.Generator().manual_seed(seed)
    for _ in range(passes):
        for rows in torch.randperm(len(x), generator=rng).chunk(-(-len(x) // batch)):
            yield x[rows]


def streamed(pieces: Iterable[Tensor | np.ndarray], first: int, batch: int) -> Iterator[Tensor]:
    """The rows of a stream in order, `first` of them at once and then at most `batch` at a time; each is read once."""
    held: list[Tensor] = []
    rows, seen, wanted = 0, 0, max(first, batch)
    for piece in pieces:
        held.append(checked(piece, held[0].shape[1] if held else None, seen))
        seen, rows = seen + len(piece), rows + len(piece)
        while rows >= wanted:
            joined = torch.cat(held)
            yield joined[:wanted]
            held, rows, wanted = [joined[wanted:]], rows - wanted, batch
    if rows:
        yield torch.cat(held)


def check_count(name: str, count: int) -> None:
    """Raises if a count is below one."""
    if count < 1:
        raise SettingRange(f"{name} is {count}, but must be one or more: choose another {name}.")


def first_atoms(x: Tensor, atoms: int, seed: int) -> Tensor:
    """[atoms, d] unit signals drawn at random without replacement, among those that are not zero."""
    norms = torch.linalg.vector_norm(x, dim=1)
    usable = (norms > _SILENT * norms.square().mean().sqrt()).nonzero()[:, 0] if len(x) else torch.zeros(0).long()
    usable = usable[torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))]
    chosen: Tensor = x.new_zeros(0, x.shape[1])
    for rows in usable.split(max(atoms, 1)):
        if len(chosen) == atoms:
            break
        some = F.normalize(x[rows], dim=1)
        fresh = new_directions(some, chosen)
        chosen = torch.cat([chosen, some[fresh]])[:atoms]
    if len(chosen) < atoms:
        raise SignalsShape(
            f"{atoms:,} atoms cannot be learned from {len(x):,} signals with {len(chosen):,} distinct directions: use fewer "
            "atoms, or give more signals."
        )
    return chosen


def new_directions(candidates: Tensor, atoms: Tensor, alike: float = ALIKE) -> Tensor:
    """Indices of the unit `candidates` [n, d] whose |cosine| to `atoms` and to the candidates taken before is below `alike`."""
    near = (candidates @ atoms.T).abs() >= alike
    allowed = ~near.any(1)
    between = (candidates @ candidates.T).abs() >= alike
    between.fill_diagonal_(False)
    for row in (between.triu(1) & allowed[:, None]).any(1).nonzero()[:, 0].tolist():
        if allowed[row]:
            allowed[between[row] & (torch.arange(len(allowed)) > row)] = False
    return allowed.nonzero()[:, 0]


def started_from(start: Dictionary, atoms: int, x: Tensor) -> Tensor:
    """[atoms, d] a copy of the atoms of `start`, of norm one, in the precision of the signals."""
    if start.atoms.shape != (atoms, x.shape[1]):
        raise DictionaryMismatch(
            f"The dictionary to start from is {list(start.atoms.shape)}, but {atoms:,} atoms of width {x.shape[1]} are to be "
            "learned: start from a dictionary of that shape."
        )
    return start.unit().detach().to(x.dtype).clone()


def superfluous(dictionary: Dictionary, energy: Tensor) -> Tensor:
    """[N] whether an atom duplicates another one with more `energy` [N]."""
    alike = (dictionary.gram.abs() > ALIKE).fill_diagonal_(False)
    if not bool(alike.any()):
        return torch.zeros(dictionary.size, dtype=torch.bool)
    rank = energy.argsort(descending=True, stable=True).argsort()
    return (alike & (rank[None, :] < rank[:, None])).any(1)


def worst_explained(x: Tensor, dictionary: Dictionary, code: Code, kept: Tensor, count: int) -> Tensor:
    """[<= count, d] directions of the signals that `code` explains worst, distinct from each other and from `kept` [m, d]."""
    left = torch.linalg.vector_norm(x - dictionary.decode(code), dim=1)
    rows = left.topk(min(len(x), 4 * count)).indices
    candidates = F.normalize(x[rows[left[rows] > 0]], dim=1)
    return candidates[new_directions(candidates, kept)][:count]
