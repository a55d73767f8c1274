"""Reads TOML within bounds, so that no text can hang, crash or exhaust memory."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from cloche.errors import FileTooLarge, RecipeInvalid, SettingInvalid, shown

LARGEST_FILE = 64_000_000  # characters: enough for the paths of a million files
LONGEST = 10_000  # characters per text
DEEPEST = 32  # nested tables and lists
LARGEST = 2**63 - 1  # TOML integers have 64 bits
_NAME = re.compile(r"[\w-]+")


def read_toml(text: str, where: str) -> dict[str, Any]:
    """The values of TOML text. Raises ClocheError, starting with `where`, if it is not TOML or out of bounds."""
    if len(text) > LARGEST_FILE:
        raise FileTooLarge(f"{where} has {len(text):,} characters, and a recipe has at most {LARGEST_FILE:,}")
    too_deep = f"{where} nests more than {DEEPEST} tables or lists: use fewer levels"
    # Parsing takes time quadratic in the length of a dotted key, so dots are counted first.
    if any(_has_deep_key(line) for line in text.splitlines() if line.count(".") >= DEEPEST):
        raise FileTooLarge(too_deep)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeInvalid(f"{where} is not TOML: {_short(str(error))}") from error
    except RecursionError:
        raise FileTooLarge(too_deep) from None
    except ValueError:  # more digits than Python converts to a number
        raise FileTooLarge(f"{where} has a number of thousands of digits: write numbers of at most 64 bits") from None
    check_plain(values, where)
    return values


def _has_deep_key(line: str) -> bool:
    run = 0
    for part in line.split("."):
        run = run + 1 if _NAME.fullmatch(part.strip(" \t\"'")) else 0
        if run >= DEEPEST:
            return True
    return False


def value_of(text: str, where: str) -> Any:
    """The value of `--set key=text`: parsed if it is TOML ("200", "[1, 2]"), else the text itself."""
    if text.count(".") >= DEEPEST and _has_deep_key(text):
        raise FileTooLarge(f"{where} nests more than {DEEPEST} tables or lists: use fewer levels")
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    except RecursionError:
        raise FileTooLarge(f"{where} nests more than {DEEPEST} tables or lists: use fewer levels") from None
    except ValueError:
        raise FileTooLarge(f"{where} is a number of thousands of digits: give one of at most 64 bits") from None


def check_plain(values: dict[str, Any], where: str) -> None:
    """Raises ClocheError naming the first value that is too deep, too long or too large."""
    left: list[tuple[str, Any, int]] = [("", values, 0)]
    while left:
        place, value, depth = left.pop()
        if isinstance(value, dict | list | tuple):
            if depth > DEEPEST:
                raise FileTooLarge(f"{where} nests more than {DEEPEST} tables or lists: use fewer levels")
            items = value.items() if isinstance(value, dict) else ((f"[{i}]", item) for i, item in enumerate(value))
            left += [(_within(place, str(name)), item, depth + 1) for name, item in items]
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise SettingInvalid(f"{where}: {place} is {shown(value)}, and a number here has at most 64 bits")
        elif isinstance(value, str):
            _check_text(value, f"{where}: {place}")


def _within(place: str, name: str) -> str:
    name = _short(name, 60)
    return f"{place}{'' if name.startswith('[') or not place else '.'}{name}"


def _check_text(text: str, where: str) -> None:
    if len(text) > LONGEST:
        raise FileTooLarge(f"{where} has {len(text):,} characters, and a text here has at most {LONGEST:,}")
    if "\0" in text:
        raise RecipeInvalid(f"{where} = {shown(text)} contains a NUL character: remove it")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise RecipeInvalid(
            f"{where} = {shown(text)} is not UTF-8, as a recipe must be: rename the file, or write it in UTF-8"
        )


def _short(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
