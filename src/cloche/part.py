"""Parts are values: a model is a small frozen tree, and the tree's text is its recipe, its checkpoint header and its hash."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import itertools
import json
import math
import types
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Self

import tomli_w

from cloche.errors import (
    FieldUnknown,
    FileTooLarge,
    PartInvalid,
    RecipeInvalid,
    SettingConflict,
    SettingInvalid,
    SettingRange,
    shown,
)
from cloche.part_text import (
    Call,
    find_class,
    import_parts,
    known_names,
    named_fields,
    nearest,
    read_line,
    renamed,
    text_name,
)

__all__ = [
    "LARGEST",
    "LARGEST_SIZE",
    "SMALLEST",
    "Part",
    "import_parts",
    "part_from_dict",
    "part_from_line",
    "positive",
    "settings_from_line",
]

DEEPEST_TREE = 64  # parts within parts
LARGEST_SIZE = 2**31 - 1  # of any count: the largest size of a tensor's axis
LARGEST_INTEGER = 2**63  # what neither a tensor nor TOML can hold
SMALLEST, LARGEST = 1.2e-38, 3.4e38  # normal numbers of float32, in which every model can run


class Part:
    """Base class of every choosable value. Subclasses are frozen dataclasses of at most eight plain fields.

    Fields hold other parts, tuples of parts, or int, float, bool and str; None only if None is the default, so that a field
    left out of the text is never ambiguous. `renamed` of a base maps former names of its parts, and other spellings of them
    in text, to their names now, or to whole lines.

    >>> from cloche import Attention, RoPE
    >>> part = Attention(heads=4, position=RoPE(theta=500_000))
    >>> part.to_line()
    'Attention(heads=4, position=RoPE(theta=500000.0), mask=Causal, bias=False)'
    """

    renamed: ClassVar[dict[str, str]] = {}
    reads_files: ClassVar[bool] = False  # of this machine: no request to a server may name it, or a part that holds it
    counts: ClassVar[tuple[str, ...]] = ()  # fields that say how many modules are built of the parts below this one

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dicts, `{"part": name, field: value, ...}`, with every field written out.

        The name is the class's; for a part of another package it includes the module, as in `my_parts:Muon`.
        """
        out: dict[str, Any] = {"part": text_name(type(self))}
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
                raise PartInvalid(f"[{where}.{name}] must be an immutable value, such as a tuple, not {shown(value)}.")
            if value is not None or not optional:
                _typed(value, hint, f"{where}.{name}")

    def to_toml(self) -> str:
        """The tree as TOML text, which `from_toml` reads back to an equal tree."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Parse the text of `to_toml`. Raises ClocheError naming the place of whatever is not such a tree."""
        import tomllib

        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeInvalid(
                f"This is not TOML ({error}); write the tree as `LM(...).to_toml()` prints it."
            ) from None
        return part_from_dict(data, base=cls)

    def to_line(self) -> str:
        """The tree as one line, such as `BatchTopK(nested=[256, 1024])`, which `part_from_line` reads back to an equal tree."""
        given = {name: getattr(self, name) for name in _hints(type(self))}
        return _line(text_name(type(self)), given, Part.to_line)

    def __str__(self) -> str:
        """The line without fields that have their default, for sentences and tables."""
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(type(self))  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
            and (field.default_factory is dataclasses.MISSING or getattr(self, field.name) != field.default_factory())
        }
        return _line(text_name(type(self)), given, str)

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


def _line(name: str, given: dict[str, Any], of_part: Callable[[Any], str]) -> str:
    def written(value: Any) -> str:
        if isinstance(value, tuple):
            return f"[{', '.join(map(written, value))}]"
        return of_part(value) if isinstance(value, Part) else repr(value)

    fields = ", ".join(f"{key}={written(value)}" for key, value in given.items() if value is not None)
    return f"{name}({fields})" if fields else name


def part_from_dict(data: dict[str, Any], where: str = "model", base: type[Any] | None = None) -> Any:
    """Build the tree that `to_dict` described, which must be a `base`; `where` names the place in errors.

    Any imported subclass of Part is known by its class name, so a user's own part needs no registration.

    >>> from cloche.model import RoPE, part_from_dict
    >>> part_from_dict({"part": "RoPE", "theta": 500_000})
    RoPE(theta=500000.0, scaling=None, share=None)
    """
    if not isinstance(data, dict) or not isinstance(data.get("part"), str):
        example = (known_names(base) if base and where != "model" else []) or ["LM"]
        raise PartInvalid(
            f'[{where}] does not describe a part: add a key `part` with its name, such as part = "{example[0]}".'
        )
    named = {key: value for key, value in data.items() if key != "part"}
    return _built(Call(data["part"], (), named), base or Part, where)


def part_from_line(
    text: str,
    base: type[Any],
    where: str = "value",
    options: dict[str, Any] | None = None,
    defaults: dict[str, Any] | None = None,
) -> Any:
    """Build the part that one line of text describes, which must be a `base`; `where` names the place in errors.

    The line is a name, or a name with settings in parentheses as in Python; values without a name go to the fields in
    order. Nothing in it is executed. `options` are fields given by other options of a command (None: not given); `defaults`
    apply to fields of those names that are not given otherwise. Raises ClocheError for an unknown name or field, or a value
    that is not of its type.

    >>> from cloche.model import Scaling
    >>> from cloche.part import part_from_line
    >>> part_from_line("LinearScaling(2)", Scaling)
    LinearScaling(factor=2.0)
    """
    cls, settings = settings_from_line(text, base, where)
    fields = [field.name for field in dataclasses.fields(cls)]
    for name, value in (options or {}).items():
        if value is None:
            continue
        if name not in fields:
            raise SettingConflict(
                f"{cls.__name__} has no setting for --{name}, only {', '.join(fields)}: leave it out."
            )
        if name in settings:
            raise SettingConflict(f"{name} is in {where} and given as --{name}: leave one out.")
        settings[name] = value
    there = {name: value for name, value in (defaults or {}).items() if name in fields and value is not None}
    return _made(cls, there | settings, where, list(options or ()))


def settings_from_line(text: str, base: type[Any], where: str = "value") -> tuple[Any, dict[str, Any]]:
    """The class that one line of text names, and the checked values of the fields it gives; nothing is built yet."""
    return _read(read_line(text, where), base, where)


def _built(call: Call, base: type[Any], where: str) -> Any:
    return _made(*_read(call, base, where), where)


def _read(call: Call, base: type[Any], where: str) -> tuple[Any, dict[str, Any]]:
    if where.count(".") > DEEPEST_TREE:
        raise FileTooLarge(f"[{where[:80]}...] is nested more than {DEEPEST_TREE} parts deep; write a flatter tree.")
    if other := renamed(base).get(call.name):
        meant = read_line(other, where)
        call = Call(meant.name, call.given or meant.given, meant.named | call.named)
    cls = find_class(call.name, base, where)
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    arguments = {}
    for key, value in named_fields(call, [f.name for f in fields.values() if not f.kw_only], where).items():
        if key not in fields:
            hint = _elsewhere(key, call.named, where) or nearest(key, fields)
            if key in inspect.get_annotations(cls):
                hint = "; write @dataclass(frozen=True) above the class."
            raise FieldUnknown(f"[{where}] {cls.__name__} has no field {shown(key)}{hint}")
        arguments[key] = _typed(value, hints[key], f"{where}.{key}", read=True)
    return cls, arguments


def _made(cls: Any, arguments: dict[str, Any], where: str, options: list[str] | None = None) -> Any:
    missing = [
        f"--{f.name}" if f.name in (options or ()) else f.name
        for f in dataclasses.fields(cls)
        if f.init and f.name not in arguments and f.default is f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise PartInvalid(f"[{where}] {cls.__name__} needs {' and '.join(missing)}; give it.")
    return cls(**arguments)


def _hints(cls: type[Part]) -> dict[str, Any]:
    """The types of a part's fields by name, in the order of the fields."""
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise PartInvalid(
            f"A field of {cls.__name__} has a type that is not defined at run time ({error}); import it outside of `if "
            "TYPE_CHECKING:`."
        ) from None
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _elsewhere(key: str, data: dict[str, Any], where: str) -> str:
    """A hint naming the nested parts that have a field of that name; "" if none does."""
    found, tables = [], [(where, data)]
    while tables:
        place, table = tables.pop(0)
        for name, value in table.items():
            if isinstance(value, dict):
                tables.append((f"{place}.{name}", value))
            if name == key and table is not data:
                found.append(f"{place}.{name}")
    return f"; did you mean {' or '.join(found[:2])}?" if found else ""


def _typed(value: Any, hint: Any, where: str, read: bool = False) -> Any:
    """Check one value against its field's annotation. With `read`, the value comes from text, and parts inside it are
    built."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        matching = [option for option in options if _could_be(value, option)]
        return _typed(value, (matching or options)[0], where, read)
    if origin is tuple:
        return _tuple(value, typing.get_args(hint), where, read)
    if isinstance(hint, type) and issubclass(hint, Part):
        return _part(value, hint, where, read)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            listed = ", ".join(map(repr, typing.get_args(hint)))
            raise SettingInvalid(f"[{where}] must be one of {listed}, not {shown(value)}.")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return float(value)
    if not isinstance(hint, type):
        raise PartInvalid(f"[{where}] has a type that cannot be written as text; make this part in Python.")
    if isinstance(value, bool) != (hint is bool) or not isinstance(value, hint):
        raise SettingInvalid(f"[{where}] must be of type {hint.__name__}, not {shown(value)}.")
    if isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
        raise SettingInvalid(f"[{where}] is {shown(value)}, which is beyond 64 bits; give a smaller number.")
    return value


def _tuple(value: Any, items: tuple[Any, ...], where: str, read: bool) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise SettingInvalid(f"[{where}] must be a list, not {shown(value)}.")
    if Ellipsis not in items and len(value) != len(items):
        raise SettingInvalid(f"[{where}] must be a list of {len(items)}, not {shown(value)}.")
    hints = itertools.repeat(items[0]) if Ellipsis in items else items
    return tuple(
        _typed(item, hint, f"{where}[{i}]", read) for i, (item, hint) in enumerate(zip(value, hints, strict=False))
    )


def _part(value: Any, base: type[Part], where: str, read: bool) -> Any:
    if read and isinstance(value, Call | str):
        return _built(value if isinstance(value, Call) else read_line(value, where), base, where)
    if read and isinstance(value, dict):
        return part_from_dict(value, where, base)
    if not isinstance(value, Part):
        raise PartInvalid(f"[{where}] must be a {base.__name__}, not {shown(value)}.")
    if not isinstance(value, base):
        raise PartInvalid(f"[{where}] must be a {base.__name__}, and {type(value).__name__} is not one.")
    value.check_fields(where)
    return value


def _could_be(value: Any, option: Any) -> bool:
    if typing.get_origin(option) is tuple:
        return isinstance(value, list | tuple)
    if isinstance(option, type) and issubclass(option, Part):
        return isinstance(value, dict | Part | Call)
    return isinstance(option, type) and isinstance(value, option)


def positive(part: Part, **values: int | float | None) -> None:
    """Raise unless every named number has its field's type, is finite and above zero and, if it is an integer, at most a
    tensor's largest size. None passes if the field may be None."""
    hints = _hints(type(part))
    for name, value in values.items():
        options = (hints[name], *typing.get_args(hints[name]))
        if value is None and type(None) in options:
            continue
        _typed(value, hints[name], f"{type(part).__name__}.{name}")
        if problem := _not_positive(value, whole=float not in options):
            raise SettingRange(f"{type(part).__name__}({name}={shown(value)}) {problem}.")
        if float in options:
            object.__setattr__(part, name, float(typing.cast(float, value)))  # torch accepts no integer beyond 64 bits


def _not_positive(value: object, whole: bool) -> str:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        return "must be a finite number above zero"
    if whole and value > LARGEST_SIZE:
        return f"must be at most {LARGEST_SIZE:,}"
    return "" if SMALLEST <= value <= LARGEST else "is outside what float32 holds"


def _bound(value: float) -> str:
    """A bound as a number that is itself allowed: one just below 1 is not rounded to 1."""
    short = f"{value:g}"
    if float(short) == value:
        return short
    return f"{value:,}" if isinstance(value, int) else f"{value:.8g}"


def within(part: Part, **bounds: tuple[float, float]) -> None:
    """Raise unless every named number has its field's type and is within its bounds, inclusive: within(self, beta=(0, 1))."""
    hints = _hints(type(part))
    for name, (least, most) in bounds.items():
        value = getattr(part, name)
        if value is None and type(None) in typing.get_args(hints[name]):
            continue
        value = _typed(value, hints[name], f"{type(part).__name__}.{name}")
        if not least <= value <= most:
            raise SettingRange(
                f"{type(part).__name__}({name}={shown(value)}) must lie between {_bound(least)} and {_bound(most)}, both "
                "included."
            )
        object.__setattr__(part, name, value)
