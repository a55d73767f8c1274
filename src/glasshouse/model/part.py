"""Parts are values: a model is a small frozen tree, and the tree's text form is its recipe, its header and its hash."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from typing import Any, Self

import tomli_w

from glasshouse.errors import GlasshouseError


class Part:
    """Base of every value in the tree. Subclasses are frozen dataclasses of at most eight plain fields.

    Fields hold other parts, tuples of parts, or int, float, bool and str; None only where None is the default, so that
    leaving a field out of the text form is never ambiguous.
    """

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dicts, `{"part": class name, field: value, ...}`, with every field written out."""
        out: dict[str, Any] = {"part": type(self).__name__}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None:
                out[field.name] = float(value) if field.type == "float" else _plain(value)
        return out

    def to_toml(self) -> str:
        """The tree as TOML text, which `from_toml` reads back to an equal tree."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Parse `to_toml`'s text. Raises GlasshouseError naming the place for anything that is not such a tree."""
        import tomllib

        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise GlasshouseError(
                f"This is not TOML ({error}); write the tree as `LM(...).to_toml()` prints it."
            ) from None
        part = part_from_dict(data)
        if not isinstance(part, cls):
            raise GlasshouseError(f"Expected the text of a {cls.__name__}, found a {type(part).__name__}.")
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
    """
    if not isinstance(data, dict) or "part" not in data:
        raise GlasshouseError(f'[{where}] describes no part: it needs a key `part` naming one, such as part = "LM".')
    known = {cls.__name__: cls for cls in _subclasses(Part) if dataclasses.is_dataclass(cls)}
    name = data["part"]
    if name not in known:
        raise GlasshouseError(f"[{where}] names an unknown part {name!r}{_nearest(str(name), known)}.")
    cls = known[name]
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments = {}
    for key, value in data.items():
        if key == "part":
            continue
        if key not in fields:
            raise GlasshouseError(f"[{where}] {name} has no field {key!r}{_nearest(key, fields)}.")
        arguments[key] = _typed(value, hints[key], f"{where}.{key}")
    missing = [
        f.name
        for f in fields.values()
        if f.name not in arguments and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise GlasshouseError(f"[{where}] {name} needs {' and '.join(missing)}; add it.")
    return cls(**arguments)


def _subclasses(cls: type[Part]) -> list[type[Part]]:
    found: list[type[Part]] = []
    for direct in cls.__subclasses__():
        found += [direct, *_subclasses(direct)]
    return found


def _nearest(word: str, known: typing.Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _typed(value: Any, hint: Any, where: str) -> Any:
    """Check one plain value against its field's annotation and rebuild parts inside it."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        matching = [option for option in options if _could_be(value, option)]
        return _typed(value, (matching or options)[0], where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise GlasshouseError(f"[{where}] must be a list, not {value!r}.")
        return tuple(_typed(item, typing.get_args(hint)[0], f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(hint, type) and issubclass(hint, Part):
        part = part_from_dict(value, where)
        if not isinstance(part, hint):
            raise GlasshouseError(f"[{where}] must be a {hint.__name__}, and {type(part).__name__} is none.")
        return part
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) != (hint is bool) or not isinstance(value, hint):
        raise GlasshouseError(f"[{where}] must be of type {hint.__name__}, not {value!r}.")
    return value


def _could_be(value: Any, option: Any) -> bool:
    if typing.get_origin(option) is tuple:
        return isinstance(value, list | tuple)
    if isinstance(option, type) and issubclass(option, Part):
        return isinstance(value, dict)
    return isinstance(option, type) and isinstance(value, option)


def positive(part: Part, **values: int | float | None) -> None:
    """Raise unless every named number is above zero: the check most parts make of themselves."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise GlasshouseError(f"{type(part).__name__}({name}={value}) must be above zero.")
