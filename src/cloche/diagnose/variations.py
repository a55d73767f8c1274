"""The settings that a comparison varies, read from text and combined."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import product

from cloche.errors import RecipeInvalid, SettingConflict, shown

Setting = Mapping[str, str]  # {"optimizer.lr": "0.01"}
MOST = 1000  # combinations
_OPEN, _CLOSED = "([{", ")]}"
FIXED = {"run.seed": "--seeds", "run.steps": "--steps", "run.minutes": "--minutes"}


def read_variations(texts: Sequence[str]) -> dict[str, list[str]]:
    """["optimizer.lr=0.01,0.02"] as {"optimizer.lr": ["0.01", "0.02"]}. Values are split at commas outside brackets and
    quotes, so that they may be whole parts. Raises ClocheError for text of another form.

    >>> from cloche.diagnose import read_variations
    >>> read_variations(["optimizer=AdamW(lr=0.01, clip=2),Muon", "run.batch=4,8"])
    {'optimizer': ['AdamW(lr=0.01, clip=2)', 'Muon'], 'run.batch': ['4', '8']}
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not key or not values:
            raise RecipeInvalid(
                f"--vary {shown(text)}: write it as section.key=value,value, such as optimizer.lr=0.01,0.02."
            )
        if key in FIXED:
            raise SettingConflict(f"--vary {key} cannot be: every setting has the same; give {FIXED[key]} instead.")
        if key in found:
            raise SettingConflict(f"--vary {key} is given twice; list all of its values in one.")
        found[key] = _split(values)
        if "" in found[key]:
            raise RecipeInvalid(f"--vary {shown(text)} has an empty value; leave out the comma before or after it.")
        if len(set(found[key])) < len(found[key]):
            raise SettingConflict(f"--vary {shown(text)} names a value twice; leave one out.")
    return found


def combinations_of(vary: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the values, in order; the first is what the others are compared with.

    >>> from cloche.diagnose import combinations_of
    >>> combinations_of({"optimizer.lr": ["0.01", "0.02"], "run.batch": ["8"]})
    [{'optimizer.lr': '0.01', 'run.batch': '8'}, {'optimizer.lr': '0.02', 'run.batch': '8'}]
    """
    return settings_of([dict(zip(vary, values, strict=True)) for values in product(*vary.values())])


def settings_of(vary: Mapping[str, Sequence[str]] | Sequence[Setting]) -> list[dict[str, str]]:
    """The settings that are compared: every combination of varied values, or those that are listed, {} for the recipe as it is.

    >>> from cloche.diagnose.variations import settings_of
    >>> settings_of([{}, {"run.length": "32", "run.batch": "16"}])
    [{}, {'run.length': '32', 'run.batch': '16'}]
    """
    found = combinations_of(vary) if isinstance(vary, Mapping) else [dict(setting) for setting in vary]
    if len(found) < 2:
        raise SettingConflict("There is nothing to compare: --vary a setting with two or more values.")
    if len(found) > MOST:
        raise SettingConflict(f"--vary gives {len(found):,} combinations, and at most {MOST:,} are trained; vary less.")
    names = [called(setting) for setting in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SettingConflict(f"{shown(twice[0])} is among the settings twice; leave one out.")
    return found


def called(setting: Setting) -> str:
    """A setting as it is typed: "optimizer.lr=0.01 run.batch=8"."""
    return " ".join(f"{key}={value}" for key, value in setting.items()) or "the recipe"


def folder_name(setting: Setting, seed: int) -> str:
    """The name of the folder of a run: readable, allowed on every file system, and different for different settings."""
    whole = called(setting)
    last = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in setting.items()) or "recipe"
    readable = re.sub(r"[^A-Za-z0-9.=_]+", "-", last).strip("-.")[:60]
    return f"{readable}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}-seed{seed}"


def _split(text: str) -> list[str]:
    depth, quote, values = 0, "", [""]
    for i, character in enumerate(text):
        if quote:
            quote = "" if character == quote and text[i - 1] != "\\" else quote
        elif character in "'\"":
            quote = character
        depth += (character in _OPEN) - (character in _CLOSED) if not quote else 0
        if character == "," and depth == 0 and not quote:
            values.append("")
        else:
            values[-1] += character
    if depth or quote:
        raise RecipeInvalid(f"--vary {shown(text)} has a bracket or quote that is not closed; close it.")
    return [value.strip() for value in values]
