"""Checks the files in the root of a run for what their hashes do not show, or where there are no hashes to go by."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from cloche.runs.folder import FORMAT
from cloche.runs.manifest import Entry
from cloche.runs.verification.files import RESTORE, Expected
from cloche.runs.verification.problem import Problem
from cloche.runs.verification.reading import Unreadable, content, json_object
from cloche.runs.verification.tree import FILE, Tree, shown

ALWAYS = ("run.json", "recipe.toml")  # in every run that cloche trained
_FOLDERS = ("data", "dictionaries", "findings", "lenses")
_FILES = ("tokenizer.json", "tokenizer_config.json", "report.html", *ALWAYS)
_TOKEN_BYTES = {"uint16": 2, "uint32": 4}


def _is_date(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).year > 2000
    except (TypeError, ValueError):
        return False


def _is_commands(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(words, list) and all(isinstance(word, str) for word in words) for words in value
    )


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda value: type(value) is int and value == FORMAT, f"{FORMAT}"),
    "cloche": (lambda value: isinstance(value, str), "a version"),
    "created": (_is_date, "a date"),
    "seed": (lambda value: type(value) is int, "a whole number"),
    "versions": (lambda value: isinstance(value, dict), "an object"),
    "host": (lambda value: isinstance(value, dict), "an object"),
    "parent": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "commands": (_is_commands, "a list of command lines"),
}


def check_run(tree: Tree) -> Iterator[Problem]:
    """Whether run.json says what a run must say of itself."""
    try:
        info = json_object(content(tree.root / "run.json"))
    except Unreadable as error:
        yield Problem("run.json", str(error), RESTORE)
        return
    wrong = [
        f"{key} (should be {form})" for key, (fits, form) in _FIELDS.items() if key not in info or not fits(info[key])
    ]
    if wrong:
        yield Problem("run.json", f"has no usable {', '.join(wrong)}", RESTORE)


def is_adopted(tree: Tree) -> bool:
    """Whether run.json says that the model was trained elsewhere: then there is no recipe."""
    try:
        return isinstance(json_object(content(tree.root / "run.json")).get("adopted"), dict)
    except Unreadable:
        return False


def check_recipe(tree: Tree) -> Iterator[Problem]:
    """Whether recipe.toml is TOML."""
    try:
        tomllib.loads(content(tree.root / "recipe.toml").decode())
    except Unreadable as error:
        yield Problem("recipe.toml", str(error), RESTORE)
    except (ValueError, RecursionError) as error:
        yield Problem("recipe.toml", f"is not readable as TOML ({str(error).splitlines()[0][:100]})", RESTORE)


def unlisted(tree: Tree) -> tuple[dict[str, Expected], list[Problem]]:
    """What can still be checked when manifest.json cannot be read: JSON, tensors, and the shards that data.json lists."""
    expected: dict[str, Expected] = {}
    problems: list[Problem] = []
    for path, kind in tree.kinds.items():
        if kind != FILE or (path not in _FILES and path.split("/")[0] not in _FOLDERS):
            continue
        expected.setdefault(path, Expected((), RESTORE, path.endswith("dictionary.safetensors")))
        if not path.endswith(".json"):
            continue
        try:
            document = json_object(content(tree.root / path))
            if path == "data/data.json":
                expected |= _shards(document)
        except Unreadable as error:
            if path not in ALWAYS:
                problems.append(Problem(shown(path), str(error), RESTORE))
    return expected, problems


def _shards(data: dict[str, Any]) -> dict[str, Expected]:
    try:
        size = _TOKEN_BYTES[data["dtype"]]
        shards = [shard for split in data["splits"].values() for shard in split["shards"]]
        return {
            f"data/{shard['file']}": Expected((Entry(shard["tokens"] * size, shard["sha256"]),), RESTORE)
            for shard in shards
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise Unreadable("is not readable as a list of shards") from error
