"""Parts are values: a model is a small frozen tree, and the tree's text form is its recipe, its header and its hash."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from typing import Any, Self

import tomli_w

from cloche.errors import (
    FieldUnknown,
    FileTooLarge,
    PartInvalid,
    PartUnknown,
    RecipeInvalid,
    SettingInvalid,
    SettingRange,
    shown,
)

CLOSE = 0.75  # how alike two names must be (difflib's ratio) for one to be proposed in place of the other

DEEPEST_TREE = 64  # parts within parts
LARGEST_SIZE = 2**31 - 1  # of anything that is counted: what an axis of a tensor can be
SMALLEST, LARGEST = 1.2e-38, 3.4e38  # normal numbers of float32, in which every model can be run


class Part:
    """Base of every value in the tree. Subclasses are frozen dataclasses of at most eight plain fields.

    Fields hold other parts, tuples of parts, or int, float, bool and str; None only where None is the default, so that
    leaving a field out of the text form is never ambiguous.
    """

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dicts, `{"part": class name, field: value, ...}`, with every field written out."""
        out: dict[str, Any] = {"part": type(self).__name__}
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                out[name] = float(value) if hint is float else _plain(value)
        return out

    def check_fields(self, where: str = "model") -> None:
        """Raise ClocheError naming the first field in the tree whose value is not of its annotated type."""
        for name, hint in _hints(type(self)).items():
            value, optional = getattr(self, name), type(None) in typing.get_args(hint)
            if isinstance(value, list | dict):
                raise PartInvalid(
                    f"[{where}.{name}] must be a value that cannot change, such as a tuple, not {shown(value)}."
                )
            if value is not None or not optional:
                _typed(value, hint, f"{where}.{name}")

    def to_toml(self) -> str:
        """The tree as TOML text, which `from_toml` reads back to an equal tree."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Parse `to_toml`'s text. Raises ClocheError naming the place for anything that is not such a tree."""
        import tomllib

        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeInvalid(
                f"This is not TOML ({error}); write the tree as `LM(...).to_toml()` prints it."
            ) from None
        part = part_from_dict(data)
        if not isinstance(part, cls):
            raise PartInvalid(f"Expected the text of a {cls.__name__}, found a {type(part).__name__}.")
        return part

    @property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 of the tree's canonical text."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def part_from_dict(data: dict[str, Any], where: str = "model") -> Any:
    """Build the tree that `to_dict` described; `where` names the place in errors.

    Any imported subclass of Part is known by its class name, so a user's own part needs no registration.

    >>> from cloche.model import RoPE, part_from_dict
    >>> part_from_dict({"part": "RoPE", "theta": 500_000})
    RoPE(theta=500000.0, scaling=None, share=None)
    """
    if where.count(".") > DEEPEST_TREE:
        raise FileTooLarge(f"[{where[:80]}...] is nested more than {DEEPEST_TREE} parts deep; write a flatter tree.")
    if not isinstance(data, dict) or not isinstance(data.get("part"), str):
        raise PartInvalid(f'[{where}] describes no part: it needs a key `part` naming one, such as part = "LM".')
    name = data["part"]
    cls = _part_called(name, where)
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments = {}
    for key, value in data.items():
        if key == "part":
            continue
        if key not in fields:
            raise FieldUnknown(
                f"[{where}] {name} has no field {shown(key)}{_elsewhere(key, data, where) or _nearest(key, fields)}."
            )
        arguments[key] = _typed(value, hints[key], f"{where}.{key}")
    missing = [
        f.name
        for f in fields.values()
        if f.name not in arguments and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise PartInvalid(f"[{where}] {name} needs {' and '.join(missing)}; add it.")
    return cls(**arguments)


def _part_called(name: str, where: str) -> type[Part]:
    known = {cls.__name__ for cls in _subclasses(Part) if dataclasses.is_dataclass(cls)}
    if name not in known:
        raise PartUnknown(
            f"[{where}] names an unknown part {shown(name)} (a part of your own must be imported first){_nearest(name, known)}."
        )
    found = [cls for cls in _subclasses(Part) if cls.__name__ == name and dataclasses.is_dataclass(cls)]
    modules = {cls.__module__ for cls in found}
    if len(modules) > 1:
        places = " and ".join(sorted(modules))
        raise PartUnknown(f"[{where}] names {shown(name)}, and {places} each define a part of that name; rename one.")
    return found[-1]  # a notebook cell run again defines its part again: the newest counts


def _hints(cls: type[Part]) -> dict[str, Any]:
    """Its fields' types by name, in the order of the fields."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _subclasses(cls: type[Part]) -> list[type[Part]]:
    found: list[type[Part]] = []
    for direct in cls.__subclasses__():
        found += [direct, *_subclasses(direct)]
    return found


def _nearest(word: str, known: typing.Iterable[str]) -> str:
    by_lower = {name.lower(): name for name in sorted(known)}
    close = difflib.get_close_matches(word.lower()[:100], by_lower, n=1, cutoff=CLOSE)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else f"; known are {', '.join(by_lower.values())}"


def _elsewhere(key: str, data: dict[str, Any], where: str) -> str:
    """Where in the parts below this one a field of that name is, as a hint; "" where it is nowhere."""
    found, tables = [], [(where, data)]
    while tables:
        place, table = tables.pop(0)
        for name, value in table.items():
            if isinstance(value, dict):
                tables.append((f"{place}.{name}", value))
            if name == key and table is not data:
                found.append(f"{place}.{name}")
    return f"; did you mean {' or '.join(found[:2])}?" if found else ""


def _typed(value: Any, hint: Any, where: str) -> Any:
    """Check one value against its field's annotation; parts inside it are rebuilt from their dicts, or checked in turn."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        matching = [option for option in options if _could_be(value, option)]
        return _typed(value, (matching or options)[0], where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SettingInvalid(f"[{where}] must be a list, not {shown(value)}.")
        return tuple(_typed(item, typing.get_args(hint)[0], f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(hint, type) and issubclass(hint, Part):
        if not isinstance(value, dict | Part):
            raise PartInvalid(f"[{where}] must be a {hint.__name__}, not {shown(value)}.")
        part = part_from_dict(value, where) if isinstance(value, dict) else value
        if not isinstance(part, hint):
            raise PartInvalid(f"[{where}] must be a {hint.__name__}, and {type(part).__name__} is not one.")
        if part is value:
            part.check_fields(where)
        return part
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            listed = ", ".join(map(repr, typing.get_args(hint)))
            raise SettingInvalid(f"[{where}] must be one of {listed}, not {shown(value)}.")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return float(value)
    if isinstance(value, bool) != (hint is bool) or not isinstance(value, hint):
        raise SettingInvalid(f"[{where}] must be of type {hint.__name__}, not {shown(value)}.")
    return value


def _could_be(value: Any, option: Any) -> bool:
    if typing.get_origin(option) is tuple:
        return isinstance(value, list | tuple)
    if isinstance(option, type) and issubclass(option, Part):
        return isinstance(value, dict | Part)
    return isinstance(option, type) and isinstance(value, option)


def positive(part: Part, **values: int | float | None) -> None:
    """Raise unless every named number has its field's type, is finite and above zero, and (a whole one) is no more than a
    tensor's size can be: the check most parts make of themselves. None passes where the field may be None."""
    hints = _hints(type(part))
    for name, value in values.items():
        options = (hints[name], *typing.get_args(hints[name]))
        if value is None and type(None) in options:
            continue
        _typed(value, hints[name], f"{type(part).__name__}.{name}")
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise SettingRange(f"{type(part).__name__}({name}={shown(value)}) must be a finite number above zero.")
        if float not in options and value > LARGEST_SIZE:
            raise SettingRange(f"{type(part).__name__}({name}={shown(value)}) must be at most {LARGEST_SIZE:,}.")
        if not SMALLEST <= value <= LARGEST:
            raise SettingRange(f"{type(part).__name__}({name}={shown(value)}) is outside what float32 holds.")
        if float in options:
            object.__setattr__(part, name, float(value))  # torch takes no whole number beyond 64 bits
