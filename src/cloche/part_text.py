"""Parts in text: the class that a name refers to, and a value read from one line, such as `BatchTopK(nested=[256, 1024])`.

Text in a recipe, a checkpoint or a dictionary never imports or runs code: a line is read with `ast`.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import math
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn, TypeVar

from cloche.errors import ClocheError, FieldUnknown, FileTooLarge, ImportRefused, PartInvalid, PartUnknown, shown

GROUP = "cloche.parts"  # group of entry points of installed packages, each named as its class: Muon = "my_parts:Muon"
CLOSE = 0.75  # similarity of two names (difflib's ratio) from which one is suggested for the other
NAME = re.compile(r"(?:([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):)?([A-Za-z_][\w-]*)", re.ASCII)  # Muon or my_parts:Muon
LONGEST_LINE = 20_000  # characters
DEEPEST_LINE = 64  # parts and lists within each other
_WORDS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(\w[\w.]*:[A-Za-z_]\w*)""")

P = TypeVar("P")

imported: list[str] = []  # by `import_parts` in this process; passed on to the processes that it starts


def import_parts(names: Iterable[str], where: str = "--import") -> None:
    """Import modules that hold a user's own parts; the current folder is searched too.

    `names` were given by a person to this process: with --import, or as the `imports` of a recipe file named on the command
    line. Never call this with names recorded in a run, checkpoint, dictionary or finding: opening one must not run code.
    `where` names the place in errors. Raises ImportRefused for anything that the module raises.

    >>> from cloche.part import import_parts
    >>> import_parts(["json"])
    """
    for name in names:
        is_file = isinstance(name, str) and name.endswith(".py")
        if not isinstance(name, str) or is_file or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            hint = f", such as {name.removesuffix('.py')!r}" if is_file and "/" not in name else ""
            raise ImportRefused(f"[{where}] {shown(name)} is not the name of a Python module; give one{hint}.")
        if os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.append(os.getcwd())  # last, so that nothing in this folder shadows an installed package
        try:
            import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module can raise anything, SystemExit too
            raise ImportRefused(f"[{where}] {name} cannot be imported: {_why(name, error)}.") from error
        imported.append(name)


def _why(name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and (name + ".").startswith(error.name + "."):
        return f"there is no module {error.name!r} in the current folder or on Python's path"
    lines = traceback.extract_tb(error.__traceback__)
    text = " ".join(str(error).split())[:200].rstrip(".")
    place = f" ({os.path.basename(lines[-1].filename)}, line {lines[-1].lineno})" if lines else ""
    return f"{type(error).__name__}{f': {text}' if text else ''}{place}"


def text_name(cls: type) -> str:
    """A class's name in text: the name alone if it belongs to this package, else with its module, as in my_parts:Muon."""
    own = cls.__module__.partition(".")[0] in (__name__.partition(".")[0], "__main__")
    return cls.__name__ if own else f"{cls.__module__}:{cls.__name__}"


def find_class(text: str, base: type[P], where: str) -> type[P]:
    """The subclass of `base` that `text` names ("Muon", "my_parts:Muon").

    The exports of the packages that own `base` are searched first, then its loaded subclasses, then the entry points of
    installed packages. Raises PartUnknown for a name that is not found, or found twice.
    """
    match = NAME.fullmatch(text)
    if match is None:
        raise PartInvalid(f"[{where}] {shown(text)} is not the name of a part; write one such as {_example(base)}.")
    module, name = match[1], match[2]
    _load_export(base, name)
    found = _candidates(base, module, name)
    if not found and (entries := load_entries(name, where)):
        found = _candidates(base, module, name)
        if not found and module is None:
            raise PartUnknown(
                f"[{where}] names {shown(name)}, and {' and '.join(entry.value for entry in entries)} of an installed package "
                f"is no {base.__name__}; ask its author, or uninstall it."
            )
    if not found:
        _refuse(base, module, name, where)
    if len({cls.__module__ for cls in found}) > 1:
        places = sorted(cls.__module__ for cls in found)
        raise PartUnknown(
            f"[{where}] names {shown(name)}, and {' and '.join(places)} each define a {base.__name__} of that name; write "
            f"{' or '.join(f'{place}:{name}' for place in places)}."
        )
    return found[-1]  # a notebook cell that is run again defines its part again: the newest is used


def _candidates(base: type[P], module: str | None, name: str) -> list[type[P]]:
    def is_in(cls: type) -> bool:
        return module is None or f"{cls.__module__}.".startswith(f"{module}.")

    return [cls for cls in subclasses(base) if cls.__name__ == name and is_in(cls)]


def subclasses(base: type[P]) -> list[type[P]]:
    """The loaded subclasses of `base`, itself included, that are dataclasses and not abstract."""
    found: list[Any] = []
    waiting: list[Any] = [base]
    while waiting:
        cls = waiting.pop(0)
        waiting += cls.__subclasses__()
        if dataclasses.is_dataclass(cls) and not inspect.isabstract(cls) and cls not in found:
            found.append(cls)
    return found


def loaded(base: type[Any]) -> list[Any]:
    """`subclasses`, after importing all exports of the packages that own `base`."""
    for package in _owners(base):
        for name in _exports(package):
            _load_export(base, name)
    return subclasses(base)


def known_names(base: type[Any]) -> list[str]:
    """The names of the parts of this base in alphabetical order, for help texts and errors."""
    names = {cls.__name__ for cls in loaded(base) if not cls.__name__.startswith("_")}
    return sorted(names | {entry.name for entry in _entries()}, key=str.lower)


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence, with its full stop, about an unknown word: the most similar known word, or all of them."""
    by_lower = {name.lower(): name for name in sorted(known)}
    if not by_lower:
        return "; there are none."
    close = difflib.get_close_matches(word.lower()[:100], by_lower, n=1, cutoff=CLOSE)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else f"; known are {', '.join(by_lower.values())}."


def _owners(base: type) -> list[Any]:
    """The packages that the base's module is in, the innermost first."""
    if base.__module__.startswith("cloche.") and base.__module__.count(".") == 1:  # a part of any package
        return [
            module for name, module in sorted(sys.modules.items()) if name.startswith("cloche.") and _exports(module)
        ]
    parts = base.__module__.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts) - 1, 1 if parts[0] == "cloche" else 0, -1)]
    return [sys.modules[name] for name in names if name in sys.modules]


def _exports(module: Any) -> tuple[str, ...]:
    return tuple(getattr(module, "__all__", ()))


def _load_export(base: type, name: str) -> None:
    """Import one export, because packages are lazy."""
    for package in _owners(base):
        if name in _exports(package):
            with suppress(ImportError, ClocheError):  # needs an extra that is not installed
                getattr(package, name)


def _entries() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))


def load_entries(name: str, where: str) -> list[EntryPoint]:
    """Import what installed packages state under a name, and return that. Only for a name that is unknown otherwise."""
    found = [entry for entry in _entries() if entry.name == name]
    for entry in found:
        try:
            entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ImportRefused(
                f"[{where}] {entry.name} of the installed {entry.value} cannot be imported: {_why(entry.module, error)}."
            ) from error
    return found


def renamed(base: type) -> dict[str, str]:
    """{former name: line} of a base, merged with the tables of its base classes."""
    table: dict[str, str] = {}
    for cls in reversed(base.__mro__):
        table |= cls.__dict__.get("renamed", {})
    return table


def _example(base: type) -> str:
    return next((name for name in known_names(base)), base.__name__)


def _refuse(base: type, module: str | None, name: str, where: str) -> NoReturn:
    root = next(cls for cls in reversed(base.__mro__) if "to_line" in cls.__dict__)  # Part, which imports this module
    if _candidates(root, module, name):
        raise PartInvalid(f"[{where}] must be a {base.__name__}, and {name} is not one.")
    if module is not None and module not in sys.modules:
        raise PartUnknown(
            f"[{where}] names {module}:{name}, and the module {module} is not imported; if you trust it, add --import {module} "
            f"(in Python: import {module})."
        )
    kind = "part" if base is root else base.__name__
    if lacking := _lacking(base, module, name):
        raise PartInvalid(f"[{where}] names {name}, which does not define {lacking}; every {kind} needs it.")
    if module is not None:
        raise PartUnknown(
            f"[{where}] names {module}:{name}, and the imported module {module} has no {kind} of that name."
        )
    raise PartUnknown(
        f"[{where}] names an unknown {kind} {shown(name)} (add --import MODULE if it is your own)"
        f"{nearest(name, known_names(base))}"
    )


def _lacking(base: type, module: str | None, name: str) -> str:
    """The methods that a class of this name still has to define, if there is one that is abstract."""
    waiting: list[type] = [base]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        own = module is None or f"{cls.__module__}.".startswith(f"{module}.")
        if cls is not base and cls.__name__ == name and own and inspect.isabstract(cls):
            return " and ".join(sorted(getattr(cls, "__abstractmethods__", ())))
    return ""


@dataclass(frozen=True)
class Call:
    """A part as written in text, before its class is known: its name, positional values, and named values."""

    name: str
    given: tuple[Any, ...]
    named: dict[str, Any]


def read_line(text: str, where: str) -> Call:
    """Parse one line. Raises ClocheError naming `where` for anything but names, numbers, strings, lists and calls of names."""
    if not isinstance(text, str) or len(text) > LONGEST_LINE:
        what = f"has {len(text):,} characters" if isinstance(text, str) else f"is {shown(text)}"
        raise FileTooLarge(f"[{where}] {what}; a part is written in one line of at most {LONGEST_LINE:,} characters.")
    if NAME.fullmatch(text.strip()):  # also topk-sae, which is not a Python name
        return Call(text.strip(), (), {})
    qualified: list[str] = []

    def stands_for(match: re.Match[str]) -> str:
        """A placeholder name for my_parts:Muon, which is not Python syntax."""
        if match[1] is None:
            return match[0]
        qualified.append(match[1])
        return f"_{len(qualified) - 1}_"

    plain = _WORDS.sub(stands_for, text.strip())
    try:
        with warnings.catch_warnings(action="ignore"):  # about invalid escape sequences
            tree = ast.parse(plain, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    found = None if tree is None else _Reader(where, text, qualified).value(tree, 0)
    if not isinstance(found, Call):
        raise _unreadable(where, text)
    return found


def _unreadable(where: str, text: str) -> PartInvalid:
    return PartInvalid(
        f"[{where}] {shown(text)} is not a part; write its name and settings, such as 'Name(size=3, parts=[Other(), 0.5])'."
    )


@dataclass(frozen=True)
class _Reader:
    where: str
    text: str
    qualified: list[str]  # the names replaced in the tree by _0_, _1_, ...

    def value(self, node: ast.expr, depth: int) -> Any:
        if depth > DEEPEST_LINE:
            raise FileTooLarge(
                f"[{self.where}] {shown(self.text)} is nested more than {DEEPEST_LINE} deep; write a flatter one."
            )
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
                return -math.inf
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self.value(item, depth + 1) for item in items]
            case ast.Name(id=name):
                return {"inf": math.inf, "nan": math.nan}.get(
                    name, self._name(name)
                )  # the name of a part, or a plain word
            case ast.Call(func=ast.Name(id=name), args=given, keywords=keywords):
                return self._call(self._name(name), given, keywords, depth)
        raise _unreadable(self.where, self.text)

    def _call(self, name: str, given: list[ast.expr], keywords: list[ast.keyword], depth: int) -> Call:
        named: dict[str, Any] = {}
        for keyword in keywords:
            if keyword.arg is None or keyword.arg in named:
                raise _unreadable(self.where, self.text)
            named[keyword.arg] = self.value(keyword.value, depth + 1)
        return Call(name, tuple(self.value(item, depth + 1) for item in given), named)

    def _name(self, name: str) -> str:
        match = re.fullmatch(r"_(\d{1,5})_", name)
        return self.qualified[int(match[1])] if match and int(match[1]) < len(self.qualified) else name


def named_fields(call: Call, fields: list[str], where: str) -> dict[str, Any]:
    """The call's values by field name; positional values go to `fields` in order."""
    if len(call.given) > len(fields):
        named = ", ".join(fields) or "its settings by name"
        raise PartInvalid(
            f"[{where}] {call.name} takes {named}, but was given {len(call.given)} values without a name; leave some out or "
            "name them."
        )
    found = dict(zip(fields, call.given, strict=False))
    if twice := sorted(found.keys() & call.named.keys()):
        raise FieldUnknown(f"[{where}] {call.name} is given {' and '.join(twice)} twice; leave one out.")
    return found | call.named
