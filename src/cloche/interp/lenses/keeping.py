"""Lenses in a run: lenses/<name>/lens.safetensors has the maps and lens.json describes them. Reading runs no code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NotRequired

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import TypedDict

from cloche.data import PackedTokens
from cloche.errors import FileDamaged, FileMissing, InstrumentOption, shown
from cloche.files import sha256_of, to_json
from cloche.interp.dictionaries.features import WINDOW
from cloche.interp.dictionaries.learn import batched_windows
from cloche.interp.lenses.affine import KINDS, TUNED, Affine, JacobianFit, Lens
from cloche.interp.lenses.jacobian import DEFAULT as JACOBIAN_DEFAULT
from cloche.interp.lenses.jacobian import fit_jacobian
from cloche.interp.lenses.training import DEFAULT, train_lens
from cloche.interp.subject import Subject
from cloche.runs import Run

WEIGHTS, CARD = "lens.safetensors", "lens.json"
FORMAT = 1
LARGEST_CARD = 1 << 20  # bytes


class JacobianCard(TypedDict):
    """What a Jacobian lens was estimated from: see `JacobianFit`."""

    texts: int
    tokens: int
    skip: int
    cotangents: int
    error: list[float]


class LensCard(TypedDict):
    """lenses/*/lens.json of a lens: the sites it reads, and the checkpoint and number of tokens it was trained on."""

    format: int
    kind: Literal["tuned"]
    checkpoint: str
    tokens: int
    width: int
    sites: list[str]
    torch: str
    sha256: str
    kinds: NotRequired[list[str]]  # of maps; without it, those of a tuned lens
    jacobian: NotRequired[JacobianCard]


def save_lens(run: Run, lens: Lens, name: str = "") -> Path:
    """Writes a lens to lenses/<name> of a run (by default under the name of its checkpoint), in place of the one there, and
    into the run's manifest; a reader finds the old one or the new one.

    >>> import torch
    >>> import cloche
    >>> from cloche.interp import Lens, open_lens, save_lens
    >>> from cloche.interp.lenses import Affine
    >>> run = cloche.Run.create("first", recipe="")
    >>> same = Affine(torch.zeros(1, 2, 2), torch.zeros(1, 2))
    >>> lens = Lens({"bias only": Affine(None, same.bias), "ridge map": same, "tuned lens": same}, ("embed",))
    >>> save_lens(run, lens, "mine").as_posix()
    'first/lenses/mine'
    >>> open_lens(run, "mine").sites
    ('embed',)
    """
    name = name or lens.checkpoint or "model"
    tensors: dict[str, Tensor] = {}
    for kind, each in lens.maps.items():
        tensors[_key(kind, "bias")] = each.bias
        if each.weight is not None:
            tensors[_key(kind, "weight")] = each.weight
    with run.writing_folder(Path("lenses") / _checked(name)) as folder:
        save_file({key: value.clone() for key, value in tensors.items()}, folder / WEIGHTS)
        card: LensCard = {
            "format": FORMAT,
            "kind": "tuned",
            "checkpoint": lens.checkpoint,
            "tokens": lens.tokens,
            "width": lens.width,
            "sites": list(lens.sites),
            "torch": torch.__version__,
            "sha256": sha256_of(folder / WEIGHTS),
            "kinds": list(lens.maps),
        }
        if fit := lens.jacobian:
            card["jacobian"] = {**dataclasses.asdict(fit), "error": list(fit.error)}  # type: ignore[typeddict-item]
        (folder / CARD).write_bytes(to_json(card, indent=1) + b"\n")
    return run.path / "lenses" / name


def open_lens(run: Run, name: str) -> Lens:
    """Reads the lens `name` of a run. Raises ClocheError, listing the run's lenses, if there is none of that name, and for
    files that are damaged or do not belong together.

    >>> import cloche
    >>> from cloche.interp import open_lens
    >>> open_lens(cloche.Run.create("first", recipe=""), "mine")
    Traceback (most recent call last):
    cloche.errors.FileMissing: first has no lens 'mine': `cloche look first tuned-lens` trains one.
    """
    folder = run.path / "lenses" / _checked(name)
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in (run.path / "lenses").glob("[!.]*/")))
        hint = f"it has {known}." if known else f"`cloche look {run.path} tuned-lens` trains one."
        raise FileMissing(f"{run.path} has no lens {name!r}: {hint}")
    try:
        return _read(folder)
    except Exception as error:  # of the system, safetensors, or the checks
        why = f"it has no {Path(error.filename).name}" if isinstance(error, FileNotFoundError) else error
        raise FileDamaged(
            f"{folder} cannot be read as a lens ({why}): remove the folder, and the next `cloche look {run.path} "
            "tuned-lens` trains it again."
        ) from error


def _read(folder: Path) -> Lens:
    """Raises for a card or tensors of another form than `save_lens` writes."""
    card = _card(folder)
    if sha256_of(folder / WEIGHTS) != card["sha256"]:
        raise ValueError(f"the sha256 of {WEIGHTS} differs from that in {CARD}")
    sites, width, kinds = tuple(card["sites"]), card["width"], card.get("kinds", list(KINDS[:3]))
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"its kinds of maps, {shown(kinds)}, are unknown")
    shapes: dict[str, tuple[int, ...]] = {}
    for kind in kinds:
        shapes[_key(kind, "bias")] = (len(sites), width)
        if kind != "bias only":
            shapes[_key(kind, "weight")] = (len(sites), width, width)
    tensors = load_file(folder / WEIGHTS)
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
        raise ValueError(f"its tensors do not have the shapes that {CARD} states")
    wide = {name: tensor.float() for name, tensor in tensors.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in wide.values()):
        raise ValueError("it contains NaN or infinity")
    maps = {kind: Affine(wide.get(_key(kind, "weight")), wide[_key(kind, "bias")]) for kind in kinds}
    fit = card.get("jacobian")
    about = JacobianFit(**{**fit, "error": tuple(fit["error"])}) if fit else None  # type: ignore[arg-type]
    return Lens(maps, sites, card["checkpoint"], card["tokens"], about)


def _card(folder: Path) -> LensCard:
    """Raises ValueError for what is not a card of this format."""
    path = folder / CARD
    if path.stat().st_size > LARGEST_CARD:
        raise ValueError(f"{CARD} is too large")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{CARD} is not JSON") from None
    if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{CARD} has format {shown(found['format'])}, and this version of cloche reads {FORMAT}")
    try:
        return TypeAdapter(LensCard).validate_python(found, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{' '.join([CARD, *map(str, first['loc'])])}: {first['msg'].lower()}") from None


def _key(kind: str, what: str) -> str:
    """The name of a tensor."""
    return f"{kind.replace(' ', '_')}/{what}"


def _checked(name: str) -> str:
    if not name or name.startswith(".") or Path(name).name != name or "\\" in name:
        raise InstrumentOption(
            f"{name!r} cannot name a lens: give the name of a folder of RUN/lenses, such as step-000500."
        )
    return name


def lens_of(run: Run, subject: Subject, kinds: Sequence[str], may_train: bool = True) -> Lens:
    """The lens of a run for a checkpoint, with maps of these kinds; those it does not have are trained on windows spread over
    the run's training text, and kept.

    Raises ClocheError if one is missing and it `may_train` none, and for a run without text.
    """
    name = subject.checkpoint or "model"
    lens = open_lens(run, name) if (run.path / "lenses" / name).is_dir() else None
    missing = [kind for kind in kinds if lens is None or kind not in lens.maps]
    if not missing:
        assert lens is not None
        return lens
    if not may_train:
        if lens is not None and TUNED in kinds and TUNED in lens.maps:
            return lens
        raise FileMissing(
            f"{run.path} has no {missing[0]} of {name} yet: train it with `cloche look {run.path} "
            f"{missing[0].lower().replace(' ', '-')} --checkpoint {name}`."
        )
    for kind in missing:
        made = _trained(run, subject, kind)
        lens = made if lens is None else lens | made
    assert lens is not None
    if (run.path / "lenses" / name).is_dir():  # another process may have trained its other maps meanwhile
        lens = open_lens(run, name) | lens
    save_lens(run, lens, name)
    return lens


def _trained(run: Run, subject: Subject, kind: str) -> Lens:
    if kind == TUNED:
        return train_lens(subject, training_windows(run, subject, DEFAULT.tokens), DEFAULT)
    config = JACOBIAN_DEFAULT
    return fit_jacobian(subject, training_windows(run, subject, config.tokens, config.length), config)


def training_windows(run: Run, subject: Subject, count: int, most: int = WINDOW) -> list[np.ndarray]:
    """About `count` tokens of a run's training text in batches of windows [batch, length], spread evenly over it."""
    tokens = PackedTokens.open(run.path, "train")
    length = min(most, subject.net.length or WINDOW, max(1, len(tokens) // 2))
    whole = len(tokens) // length
    places = np.unique(np.linspace(0, whole - 1, max(2, min(count // length, whole))).astype(np.int64))
    return batched_windows(tokens, places, length)
