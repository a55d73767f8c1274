"""Lenses in a run: lenses/<name>/lens.safetensors has the maps and lens.json describes them. Reading runs no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import TypedDict

from cloche.data import PackedTokens
from cloche.errors import FileDamaged, FileMissing, InstrumentOption
from cloche.files import sha256_of, to_json
from cloche.interp.dictionaries.features import WINDOW
from cloche.interp.dictionaries.learn import batched_windows
from cloche.interp.lenses.affine import KINDS, Affine, TunedLens
from cloche.interp.lenses.training import DEFAULT, train_lens
from cloche.interp.subject import Subject
from cloche.runs import Run

WEIGHTS, CARD = "lens.safetensors", "lens.json"
FORMAT = 1
LARGEST_CARD = 1 << 20  # bytes


class LensCard(TypedDict):
    """lenses/*/lens.json of a tuned lens: the sites it reads, and the checkpoint and number of tokens it was trained on."""

    format: int
    kind: str
    checkpoint: str
    tokens: int
    width: int
    sites: list[str]
    torch: str
    sha256: str


def save_lens(run: Run, lens: TunedLens, name: str = "") -> Path:
    """Writes a lens to lenses/<name> of a run (by default under the name of its checkpoint), in place of the one there, and
    into the run's manifest; a reader finds the old one or the new one.

    >>> import torch
    >>> import cloche
    >>> from cloche.interp import TunedLens, open_lens, save_lens
    >>> from cloche.interp.lenses import Affine
    >>> run = cloche.Run.create("first", recipe="")
    >>> same = Affine(torch.zeros(1, 2, 2), torch.zeros(1, 2))
    >>> lens = TunedLens({"bias only": Affine(None, same.bias), "ridge map": same, "tuned lens": same}, ("embed",))
    >>> save_lens(run, lens, "mine").as_posix()
    'first/lenses/mine'
    >>> open_lens(run, "mine").sites
    ('embed',)
    """
    name = name or lens.checkpoint or "model"
    tensors: dict[str, Tensor] = {}
    for kind in KINDS:
        each = lens.maps[kind]
        tensors[f"{kind}/bias"] = each.bias
        if each.weight is not None:
            tensors[f"{kind}/weight"] = each.weight
    with run.writing_folder(Path("lenses") / _checked(name)) as folder:
        save_file({key.replace(" ", "_"): value.clone() for key, value in tensors.items()}, folder / WEIGHTS)
        card: LensCard = {
            "format": FORMAT,
            "kind": "tuned",
            "checkpoint": lens.checkpoint,
            "tokens": lens.tokens,
            "width": lens.maps["tuned lens"].bias.shape[1],
            "sites": list(lens.sites),
            "torch": torch.__version__,
            "sha256": sha256_of(folder / WEIGHTS),
        }
        (folder / CARD).write_bytes(to_json(card, indent=1) + b"\n")
    return run.path / "lenses" / name


def open_lens(run: Run, name: str) -> TunedLens:
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
        if (folder / CARD).stat().st_size > LARGEST_CARD:
            raise ValueError("lens.json is too large")
        card = json.loads((folder / CARD).read_bytes())
        if card["format"] != FORMAT or card["kind"] != "tuned":
            raise ValueError(f"it is a {card['kind']!r} lens of format {card['format']}")
        if sha256_of(folder / WEIGHTS) != card["sha256"]:
            raise ValueError("the sha256 of the weights differs")
        return _read(card, load_file(folder / WEIGHTS))
    except Exception as error:  # of the system, JSON, safetensors, or the checks above
        raise FileDamaged(
            f"{folder} cannot be read as a lens ({error}): remove the folder, and the next `cloche look {run.path} "
            "tuned-lens` trains it again."
        ) from error


def _read(card: dict[str, Any], tensors: dict[str, Tensor]) -> TunedLens:
    """Raises for a card or tensors of another form than `save_lens` writes."""
    sites, width = tuple(card["sites"]), card["width"]
    if not all(isinstance(site, str) for site in sites) or not isinstance(card["checkpoint"], str):
        raise ValueError("sites and checkpoint are text")
    vectors, matrices = (len(sites), width), (len(sites), width, width)
    shapes: dict[str, tuple[int, ...]] = {"bias_only/bias": vectors}
    for kind in ("ridge_map", "tuned_lens"):
        shapes |= {f"{kind}/bias": vectors, f"{kind}/weight": matrices}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
        raise ValueError("its tensors do not have the shapes that lens.json states")
    wide = {name: tensor.float() for name, tensor in tensors.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in wide.values()):
        raise ValueError("it contains NaN or infinity")
    maps = {
        kind: Affine(wide.get(f"{kind.replace(' ', '_')}/weight"), wide[f"{kind.replace(' ', '_')}/bias"])
        for kind in KINDS
    }
    return TunedLens(maps, sites, card["checkpoint"], int(card["tokens"]))


def _checked(name: str) -> str:
    if not name or name.startswith(".") or Path(name).name != name or "\\" in name:
        raise InstrumentOption(
            f"{name!r} cannot name a lens: give the name of a folder of RUN/lenses, such as step-000500."
        )
    return name


def lens_of(run: Run, subject: Subject, may_train: bool = True) -> TunedLens:
    """The lens of a run for a checkpoint; trained on windows spread over the run's training text, and kept, if there is none.

    Raises ClocheError if there is none and it `may_train` none, and for a run without text.
    """
    name = subject.checkpoint or "model"
    if (run.path / "lenses" / name).is_dir():
        return open_lens(run, name)
    if not may_train:
        raise FileMissing(
            f"{run.path} has no lens of {name} yet: train it with `cloche look {run.path} tuned-lens --checkpoint {name}`."
        )
    lens = train_lens(subject, training_windows(run, subject, DEFAULT.tokens), DEFAULT)
    save_lens(run, lens, name)
    return lens


def training_windows(run: Run, subject: Subject, count: int) -> list[np.ndarray]:
    """About `count` tokens of a run's training text in batches of windows [batch, length], spread evenly over it."""
    tokens = PackedTokens.open(run.path, "train")
    length = min(WINDOW, subject.net.length or WINDOW, max(1, len(tokens) // 2))
    whole = len(tokens) // length
    places = np.unique(np.linspace(0, whole - 1, max(2, min(count // length, whole))).astype(np.int64))
    return batched_windows(tokens, places, length)
