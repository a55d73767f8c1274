"""`cloche adopt`: makes a run folder from a model trained elsewhere."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cloche.cli.options import AsJson, Encoding, Field, Glob
from cloche.cli.outputs import AdoptedModel, FilesTaken
from cloche.cli.streams import emit
from cloche.errors import ArgumentInvalid, ModelMissing, RunExists, TokenizerMissing

if TYPE_CHECKING:
    from cloche.cli.progress import Screen
    from cloche.runs import Adopted, Revision


class _Source(NamedTuple):
    """A model folder that becomes a checkpoint: its step, its name, and the folders where it and its tokenizer may be."""

    step: int
    name: str
    folder: Path
    beside: Path  # a folder that may have the tokenizer that several revisions share
    commit: str = ""


def adopt(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A Hugging Face folder, a folder of such folders named by step, or the name of a model on the Hub.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to create.")],
    revisions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REVISION...",
            help="Revisions that become checkpoints: folders in MODEL, or branches on the Hub. If a name contains no step, "
            "add it as in main=143000.",
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH...", help="Text files and folders for lenses, features and dictionaries to read."),
    ] = None,
    glob: Glob = None,
    field: Field = None,
    encoding: Encoding = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the weights instead of linking to them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a run folder from a model trained elsewhere.

    Every command and view then works on it. Weights are reflinked or hard-linked if the file system allows it, so that they
    take no space; the source is never modified. An adopted run has no recipe, logs or optimizer state: `cloche pretrain
    --from` starts a run from it.
    """
    from cloche.cli.progress import Screen
    from cloche.runs import adopt as make
    from cloche.runs import refuse_taken

    screen = Screen(stderr=as_json)
    refuse_taken(out)
    source, found = _from_hub(model, revisions or []) or _from_folder(Path(model).expanduser(), revisions or [])
    _require_steps(found)
    with screen.bar("adopting") as update:
        checked = []
        for done, each in enumerate(found):
            update(done, len(found), f"checking {each.name}")
            checked.append(_checked(each))
        pack = _packing(data, checked[-1].tokenizer, glob, field, encoding, update) if data else None
        made = make(out, source, checked, ["cloche", *sys.argv[1:]], pack, copy)
    _print_outcome(made, source, as_json, screen)


# ---- the models to adopt


def _from_hub(model: str, revisions: list[str]) -> tuple[str, list[_Source]] | None:
    """The revisions of a model on the Hugging Face Hub, fetched into its cache; None if MODEL names a folder."""
    from cloche.model.huggingface import hub

    name = hub.named(model)
    if name is None:
        return None
    repository, _, only = name.partition("@")
    if only and revisions:
        raise ArgumentInvalid(f"{model} already names a revision: leave out --revisions, or @{only}.")
    found = []
    for wanted in revisions or [only or "main"]:
        step, revision = _named_step(wanted, alone=not revisions)
        folder = hub.fetch(f"{repository}@{revision}" if revision != "main" or only else repository)
        commit = folder.name if folder.parent.name == "snapshots" else ""
        found.append(_Source(step, revision, folder, folder, commit))
    return f"hf://{repository}", found


def _from_folder(folder: Path, revisions: list[str]) -> tuple[str, list[_Source]]:
    from cloche.missing import check_name, no_model
    from cloche.runs import revisions_in

    check_name(folder)
    if (folder / "run.json").is_file():
        raise RunExists(f"{folder} is already a run: open it with `cloche open {folder}`.")
    source, is_model = os.path.abspath(folder), (folder / "config.json").is_file()
    if revisions:
        found = []
        for wanted in revisions:
            step, name = _named_step(wanted)
            if not (folder / name / "config.json").is_file():
                known = ", ".join(revisions_in(folder)) or "none with a step in its name"
                raise ModelMissing(f"{folder} has no model folder {name}: choose from {known}.")
            found.append(_Source(step, name, folder / name, folder))
        return source, found
    if is_model:
        step, name = _named_step(folder.resolve().name, alone=True)
        return source, [_Source(step, name, folder, folder)]
    within = revisions_in(folder)
    if not within:
        raise no_model(folder)
    return source, [_Source(step, name, folder / name, folder) for name, step in within.items()]


def _named_step(revision: str, alone: bool = False) -> tuple[int, str]:
    """(step, name) of a revision such as "step1000" or "main=143000". If it is the only one (`alone`), the step may be
    missing: 0."""
    from cloche.runs import step_in

    name, equals, step = revision.rpartition("=")
    if equals and name and step.isdecimal() and len(step) < 16:
        return int(step), name
    found = step_in(revision)
    if found is None and not alone:
        raise ArgumentInvalid(f"The revision {revision!r} has no step: add it, as in {revision}=143000.")
    return found or 0, revision


def _require_steps(found: list[_Source]) -> None:
    found.sort(key=lambda each: each.step)
    for one, other in pairwise(found):
        if one.step == other.step:
            raise ArgumentInvalid(
                f"The revisions {one.name} and {other.name} both have step {one.step:,}: leave one of them out."
            )


def _checked(source: _Source) -> Revision:
    """Checks that a revision loads: a supported family, complete and finite weights, small enough for memory, with a
    tokenizer. Raises ClocheError otherwise."""
    from cloche.glass import Glass
    from cloche.model import load_network, weight_files
    from cloche.runs import Revision
    from cloche.text import Tokenizer

    homes = [home for home in (source.folder, source.beside) if (home / "tokenizer.json").is_file()]
    if not homes:
        raise TokenizerMissing(
            f"{source.folder} has no tokenizer.json, without which no text can be read: put that of this model there "
            "(transformers' AutoTokenizer writes it with save_pretrained)."
        )
    Glass(load_network(source.folder), Tokenizer.load(homes[0]), source.name)
    weights = tuple(weight_files(source.folder))
    return Revision(source.step, source.name, source.folder, weights, homes[0], source.commit)


# ---- text


def _packing(
    data: list[Path],
    tokenizer: Path,
    glob: str | None,
    field: str | None,
    encoding: str | None,
    update: Callable[[float, float, str], None],
) -> Callable[[Path], object]:
    """A function that packs the text into a folder with the model's own tokenizer."""
    from cloche.data import prepare
    from cloche.text import Tokenizer

    how: dict[str, Any] = {"glob": glob, "encoding": encoding} | ({"field": field} if field else {})

    def pack(folder: Path) -> object:
        return prepare(
            data,
            folder,
            vocab=Tokenizer.load(tokenizer),
            on_progress=lambda stage, done, total: update(done, total, f"{stage} {done / 1e6:.0f} MB"),
            **how,
        )

    return pack


# ---- the end


def _print_outcome(made: Adopted, source: str, as_json: bool, screen: Screen) -> None:
    checkpoints = [checkpoint.name for checkpoint in made.run.checkpoints()]
    taken: list[FilesTaken] = [{"how": how, "files": made.files[how], "bytes": made.bytes[how]} for how in made.files]
    if as_json:
        answer: AdoptedModel = {
            "run": str(made.run.path),
            "source": source,
            "checkpoints": checkpoints,
            "taken": taken,
            "data": (made.run.path / "data").is_dir(),
        }
        emit(answer)
        return
    ways = {"reflink": "as reflinks", "hard link": "as hard links", "copy": "copied"}
    each = "; ".join(
        f"{t['files']:,} {'file' if t['files'] == 1 else 'files'} of {t['bytes']:,} bytes {ways[t['how']]}"
        for t in taken
    )
    which = (
        f"{len(checkpoints):,} checkpoints, {checkpoints[0]} to {checkpoints[-1]}"
        if checkpoints[1:]
        else checkpoints[0]
    )
    screen.print(f"{made.run.path}: {which} ({each})")
    screen.print(f"Next:\n  cloche open {shlex.quote(str(made.run.path))}")
