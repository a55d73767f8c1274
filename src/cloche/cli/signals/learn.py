"""`cloche sparse learn`, `encode` and `atoms`: learns dictionaries, encodes signals and draws atoms."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloche.cli.options import LARGEST_SEED, AsJson
from cloche.cli.outputs import AtomsDrawn, CodesWritten, LearnedDictionary
from cloche.cli.streams import emit
from cloche.errors import ClocheError, FileExists, FileMissing, PartUnknown, SettingConflict
from cloche.files import refuse_existing

if TYPE_CHECKING:
    from torch import Tensor

    from cloche.sparse import Dictionary
    from cloche.sparse.learners import Learner

Level = Annotated[
    bool | None,
    typer.Option(
        "--level/--no-level",
        help="Subtract the mean of each signal first; by default for pieces of pictures and series.",
    ),
]
Column = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A column of a table to read as a series, or an array of an .npz file."),
]
DEFAULT_ATOMS, DEFAULT_K = 256, 6


def learn(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures, .npy, .npz or .csv files.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where to write the dictionary.")],
    atoms: Annotated[
        int | None, typer.Option(metavar="N", max=10**7, help=f"Number of atoms; by default {DEFAULT_ATOMS}.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD", help="online, ksvd, itda, or a learner with settings, such as 'KSVD(batch=2000)'."
        ),
    ] = "online",
    k: Annotated[
        int | None, typer.Option("--k", metavar="K", help=f"Atoms per signal, chosen by OMP; by default {DEFAULT_K}.")
    ] = None,
    piece: Annotated[int, typer.Option(metavar="N", help="Side of the pieces cut from pictures and series.")] = 8,
    count: Annotated[
        int, typer.Option(metavar="N", max=10**9, help="Pieces to draw from all files together.")
    ] = 20_000,
    passes: Annotated[
        int | None, typer.Option(metavar="N", max=10_000, help="Passes over the signals (online), or rounds (ksvd).")
    ] = None,
    level: Level = None,
    column: Column = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="SEED", min=0, max=LARGEST_SEED, help="Seed of the pieces that are drawn and of the first atoms."
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Learn a dictionary from pictures, series or tables.

    Draws random pieces of a picture or a series; in a table or a two-dimensional array every row is a signal. Writes
    dictionary.safetensors, dictionary.json and atoms.png.
    """
    from cloche.cli.signals.rows import signals_of

    refuse_existing(out, "choose another --out", files)
    learner = _learner(method, atoms, k, passes, seed)
    used = getattr(getattr(learner, "pursuit", None), "k", None) or 0
    x, sides = signals_of(files, piece, count, column, seed)
    from cloche.sparse import report
    from cloche.sparse.learners import Card, save_dictionary

    level = bool(sides) if level is None else level
    x = (x - x.mean(1, keepdim=True) if level else x).float()
    started = time.perf_counter()
    dictionary, encoder = learner.fit(x)
    took = time.perf_counter() - started
    found = report(encoder, dictionary, x)
    save_dictionary(dictionary, out, Card(sides, level, learner.to_line(), used, len(x)))
    drawn = _drawn(out, dictionary, sides)
    if as_json:
        made: LearnedDictionary = {
            "out": str(out),
            "method": method,
            "atoms": dictionary.size,
            "width": dictionary.width,
            "signals": len(x),
            "sides": list(sides),
            "level": level,
            "picture": drawn,
            "l0": found.l0,
            "fvu": found.fvu,
            "dead_share": found.dead_share,
            "seconds": took,
        }
        emit(made)
        return
    kind = f"pieces of {' x '.join(map(str, sides))}" if sides else f"signals of width {dictionary.width}"
    print(f"{out}: {dictionary.size:,} atoms from {len(x):,} {kind} by {method} in {took:.1f} s.")
    unused = f"{found.dead_share:.1%} of the atoms are unused"
    print(f"{found.l0:.1f} atoms per signal leave {found.fvu:.2%} of the variance; {unused}.")


def _drawn(out: Path, dictionary: Dictionary, sides: tuple[int, ...]) -> str | None:
    """Draws the atoms into the folder and returns the path; reports and returns None if pictures cannot be written here."""
    from cloche.cli.signals.rows import save_picture
    from cloche.sparse import atoms_of, picture
    from cloche.sparse.learners import PICTURE

    try:
        save_picture(out / PICTURE, picture(atoms_of(dictionary, sides)))
    except ClocheError as error:
        print(f"No picture of the atoms was written: {error}", file=sys.stderr)
        return None
    return str(out / PICTURE)


def encode(
    dictionary: Annotated[
        Path, typer.Argument(metavar="DICTIONARY", help="A folder written by `cloche sparse learn`.")
    ],
    signal: Annotated[Path, typer.Argument(metavar="SIGNAL", help="A picture, a .npy or .npz array, or a .csv table.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the code, an .npz file.")],
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="omp, nonnegative-omp, mp, iht, htp, lasso, lars, bpdn, or a pursuit with settings, such as 'FISTA(0.1)'.",
        ),
    ] = "omp",
    k: Annotated[
        int | None, typer.Option("--k", metavar="K", help="Atoms per signal; by default as many as in learning.")
    ] = None,
    residual: Annotated[
        float | None,
        typer.Option(metavar="NORM", help="Largest residual norm of a signal (omp, mp, bpdn); by default 0."),
    ] = None,
    penalty: Annotated[
        float | None, typer.Option(metavar="PENALTY", help="Penalty of the lasso, in units of a correlation.")
    ] = None,
    column: Column = None,
    decoded: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the signals that the code represents.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find sparse codes of a file's signals.

    The code has indices and values, one row per signal (a value of 0 is an unused slot); for pieces of a picture, which are
    cut side by side, also their means and their grid.
    """
    from cloche.cli.signals.rows import Coded, save_code, write_rows

    for path in (out, decoded):
        if path is not None:
            refuse_existing(path, "choose another name", [signal])
    if decoded is not None and os.path.abspath(out) == os.path.abspath(decoded):
        raise FileExists(f"--out and --decoded are both {out}: choose two names.")
    if out.suffix.lower() != ".npz":
        raise SettingConflict(f"{out} is not an .npz file, as codes need: choose another --out.")
    from cloche.part import part_from_line
    from cloche.sparse.learners import load_dictionary
    from cloche.sparse.pursuit import Pursuit

    atoms, card = load_dictionary(dictionary)
    options = {"k": k, "residual": residual, "penalty": penalty}
    pursuit = part_from_line(method, Pursuit, "--method", options, {"k": card.k or None, "residual": 0.0})
    coded = Coded.read(signal, column, card.sides)
    x = coded.rows.to(atoms.atoms.dtype)
    means = x.mean(1, keepdim=True) if card.level else x.new_zeros(len(x), 1)
    code = pursuit.encode(x - means, atoms)
    back = atoms.decode(code) + means
    if decoded is not None:
        write_rows(decoded, coded, back)
    save_code(out, code, means[:, 0], coded)
    left = float((x - back).square().sum() / (x - means).square().sum().clamp_min(1e-30))
    used = float(code.active.double().mean()) if len(x) else 0.0
    if as_json:
        written: CodesWritten = {
            "out": str(out),
            "decoded": str(decoded) if decoded is not None else None,
            "method": method,
            "signals": len(x),
            "l0": used,
            "fvu": left,
        }
        emit(written)
        return
    print(f"{out}: {len(x):,} signals by {method}, {used:.1f} atoms each leave {left:.2%} of the energy.")


def atoms(
    source: Annotated[str, typer.Argument(metavar="DICTIONARY", help="A folder, or a transform, such as curvelet.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the picture.")],
    side: Annotated[
        int, typer.Option(metavar="N", max=4096, help="Side of the pictures that the transform is for.")
    ] = 64,
    as_json: AsJson = False,
) -> None:
    """Draw the atoms of a dictionary.

    All atoms of a learned dictionary, or the middle atom of each band of a transform. Bandlets adapt to a picture; without
    one they are wavelets.
    """
    from cloche.cli.signals.rows import save_picture
    from cloche.sparse import atoms_of, picture
    from cloche.sparse.transforms import fitted

    refuse_existing(out, "choose another --out")
    if Path(source).is_dir():
        from cloche.sparse.learners import load_dictionary

        found, card = load_dictionary(source)
        drawn: Tensor = atoms_of(found, card.sides)
    else:
        try:
            drawn = atoms_of(fitted(source, (side, side)).transform)
        except PartUnknown as error:
            raise FileMissing(f"There is no folder {source}, and no transform of that name: {error}") from None
    save_picture(out, picture(drawn))
    if as_json:
        answer: AtomsDrawn = {"out": str(out), "atoms": len(drawn)}
        emit(answer)
        return
    print(f"{out}: {len(drawn):,} atoms.")


def _learner(method: str, atoms: int | None, k: int | None, passes: int | None, seed: int) -> Learner:
    from cloche.part import part_from_line
    from cloche.sparse.learners import Learner
    from cloche.sparse.pursuit import OMP

    options = {"atoms": atoms, "pursuit": None if k is None else OMP(k=k)}
    defaults = {"atoms": DEFAULT_ATOMS, "pursuit": OMP(k=DEFAULT_K), "seed": seed}
    learner: Learner = part_from_line(method, Learner, "--method", options, defaults)
    return learner if passes is None else learner.lasting(passes)
