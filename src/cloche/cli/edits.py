"""Edits written as text on the command line: `z[2].head(1).zero()`, `resid_post[3].scale(0.5).at(new)`.

A direction is a feature of a dictionary with a weight: `resid_post[2].add(4 * resid_post_2[17])`,
`resid_post[2].project_out(resid_post_2[17])`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloche.errors import EditInvalid, FeatureUnknown

if TYPE_CHECKING:
    from cloche.model import Edit, Network, Sites

_EDIT = re.compile(
    r"(?P<site>.+?)\.(?P<kind>zero|scale|add|project_out)\((?P<value>[^()]*)\)(?:\.at\((?P<where>.*)\))?"
)
_STEERING = re.compile(r"(?P<path>.+):(?P<strength>[^:()]*)(?:\.at\((?P<where>.*)\))?")
_FEATURE = re.compile(r"(?:(?P<weight>[-+.\deE]+)\s*\*\s*)?(?P<name>[\w.-]+)\[(?P<index>\d+)\]")
EXAMPLES = "z[2].head(1).zero(), resid_post[3].scale(0.5).at(new) or resid_post[2].add(4 * DICTIONARY[17])"


def parse_edit(text: str, run: Path, sites: Sites | None = None) -> Edit:
    """The edit that `text` describes, with the dictionaries of the run and the sites of the model, if given. Raises
    ClocheError for any other text."""
    from cloche.model import site

    match = _EDIT.fullmatch(text.strip())
    if not match:
        raise EditInvalid(f"{text!r} is not an edit; write one like {EXAMPLES}.")
    place = site(match["site"]) if sites is None else sites.resolve(match["site"])[0]
    kind, value = match["kind"], match["value"].strip()
    if kind == "zero":
        edit = place.zero()
    elif kind == "scale":
        edit = place.scale(_number(value, text))
    else:
        direction = _direction(value, text, run)
        edit = place.add(direction) if kind == "add" else place.project_out(direction)
    return edit if match["where"] is None else edit.at(_positions(match["where"].strip(), text))


def _number(value: str, text: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise EditInvalid(f"{value!r} in {text!r} is not a number; write one such as 0.5.") from None


def parse_feature(text: str) -> tuple[str, int]:
    """The dictionary and the feature that a text such as mine[17] names. Raises EditInvalid for any other text."""
    match = _FEATURE.fullmatch(text.strip())
    if not match or match["weight"]:
        raise EditInvalid(f"{text!r} is not a feature; write one like DICTIONARY[17].")
    return match["name"], int(match["index"])


def _direction(value: str, text: str, run: Path) -> Any:
    """A feature's unit direction times its weight, [width]."""
    match = _FEATURE.fullmatch(value)
    if not match:
        raise EditInvalid(f"{value!r} in {text!r} is not a direction; write one like 4 * DICTIONARY[17].")
    from cloche.interp import open_dictionary
    from cloche.runs import Run

    atoms, index = open_dictionary(Run.open(run), match["name"]).decoder.detach(), int(match["index"])
    if index >= len(atoms):
        raise FeatureUnknown(f"{match['name']} has no feature {index}; it has features 0 to {len(atoms) - 1}.")
    return _number(match["weight"] or "1", text) * atoms[index]


def _positions(where: str, text: str) -> int | slice | str | list[int]:
    if where.strip("\"'") in ("last", "new"):
        return where.strip("\"'")
    try:
        if ":" in where:
            return slice(*(int(bound) if bound.strip() else None for bound in where.split(":")))
        numbers = [int(part) for part in where.strip("[]").split(",")]
    except (ValueError, TypeError):
        raise EditInvalid(f"{where!r} in {text!r} is not a position; write last, new, 3, 2:5 or [1, 4].") from None
    return numbers if where.startswith("[") else numbers[0] if len(numbers) == 1 else numbers


def parse_steering(text: str, net: Network) -> list[Edit]:
    """The edits of FILE:STRENGTH, at every position, or with .at(POSITIONS) behind it."""
    from cloche.interp import load_vector

    match = _STEERING.fullmatch(text.strip())
    if not match:
        raise EditInvalid(
            f"{text!r} is not a vector with its strength; write FILE:STRENGTH, such as happy.safetensors:0.5, or "
            "with positions happy.safetensors:0.5.at(-1:)."
        )
    edits = load_vector(match["path"]).edits(net, _number(match["strength"], text))
    where = match["where"]
    return edits if where is None else [edit.at(_positions(where.strip(), text)) for edit in edits]
