"""Errors for what is missing: a model in the folder that was named, a file to read, or the package of an extra."""

from __future__ import annotations

import difflib
import os
import stat
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cloche.errors import ClocheError, ExtraMissing, FileMissing, FileUnreadable, ModelMissing, PathInvalid, shown

# Models whose owner may be left out on the Hub.
OWNERS = {
    "gpt2": "openai-community",
    "gpt2-medium": "openai-community",
    "gpt2-large": "openai-community",
    "gpt2-xl": "openai-community",
    "distilgpt2": "distilbert",
}
LISTED = 5


def extra(module: str, name: str, purpose: str) -> Any:
    """Import a module that only the extra `name` installs. Raises ExtraMissing if it is not installed; `purpose` begins the
    sentence.

    >>> from cloche.missing import extra
    >>> extra("no_such_package", "images", "Pictures need Pillow")
    Traceback (most recent call last):
    cloche.errors.ExtraMissing: Pictures need Pillow: pip install 'cloche[images]'.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ExtraMissing(f"{purpose}: pip install 'cloche[{name}]'.") from error


def check_name(where: object) -> None:
    """Raise for a text that no file system accepts as a name."""
    text = str(where)
    if "\0" in text or len(text) > 4096 or any(len(part.encode("utf-8", "replace")) > 255 for part in Path(text).parts):
        raise PathInvalid(f"There is no folder {shown(text, 60)}: no folder can have such a name.")


def no_model(folder: Path) -> ClocheError:
    """The error for a folder without a model: what is in it, similar names, and how to name a model of the Hub."""
    name = shown(str(folder))[1:-1]
    if folder.is_file():
        return ModelMissing(
            f"{name} is a file; name the folder that it is in: {shown(str(folder.parent.resolve()))[1:-1]}."
        )
    if folder.is_dir():
        inside = _models(folder)
        if inside:
            hint = f"there are models in it: name {_either([str(folder / n) for n in inside])}."
        else:
            hint = "name a run, a checkpoint or a Hugging Face folder."
        return ModelMissing(
            f"{name} contains no model, neither run.json (a run) nor config.json (a checkpoint); {hint}"
        )
    return FileMissing(f"There is no folder {name}{_near(folder)}{_hub(folder)}.")


def nearest(where: str) -> str:
    """The end of an error about a name that is neither a folder nor a model of the Hub: the most similar folder."""
    near = _near(Path(where))
    return near if "nearest" in near else ""


def _near(folder: Path) -> str:
    """Folders beside the missing one: the one with the most similar name, else all of them."""
    parent = folder.parent
    while not parent.is_dir() and parent != parent.parent:
        folder, parent = parent, parent.parent
    try:
        names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return ""
    if close := difflib.get_close_matches(folder.name, names, n=1):
        return f" (the nearest name is {parent / close[0]})"
    where = "here" if str(parent) == "." else f"in {parent}"
    if not names:
        return f" (no folders are {where})"
    return f" (folders {where}: {', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''})"


def _hub(folder: Path) -> str:
    """How to load the model from the Hub, if the name could be the name of one."""
    if folder.is_absolute() or len(folder.parts) != 1:
        return ""
    owner = OWNERS.get(folder.name)
    name = f'"{owner}/{folder.name}"' if owner else '"owner/name"'
    if find_spec("huggingface_hub") is None:
        return f"; a model of the Hugging Face Hub is named {name}, once pip install 'cloche[hub]' is done"
    return f"; a model of the Hugging Face Hub is named {name}"


def _models(folder: Path) -> list[str]:
    """Names of the subfolders that contain models: checkpoints of a run, or runs."""
    found: list[str] = []
    try:
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and any((entry / name).is_file() for name in ("run.json", "config.json")):
                found.append(entry.name)
    except OSError:
        return []
    return found[-LISTED:]


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def require_file(path: str | Path, what: str) -> os.stat_result:
    """The status of a file to read. Raises FileMissing where there is none, and FileUnreadable for a folder, or for a pipe
    or a device, which may never end. `what` is the file that is wanted: "a file of questions"."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL character
        raise FileMissing(f"There is no file {shown(str(path))}; write the path of {what}.") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        raise FileUnreadable(f"{path} is a folder or a device; write the path of {what}.")
    return found


def unreadable(path: str | Path, error: OSError | UnicodeDecodeError) -> FileUnreadable:
    """The error for a file that the system refuses to read, or that is not the text it should be."""
    if isinstance(error, UnicodeDecodeError):
        return FileUnreadable(f"{path} is not UTF-8 text ({error}); save it as UTF-8.")
    return FileUnreadable(f"{shown(str(path))} cannot be read ({error.strerror}); copy it there again.")
