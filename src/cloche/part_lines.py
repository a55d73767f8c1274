"""One line of text as a value, such as `BatchTopK(nested=[256, 1024])`: read with `ast`, which runs nothing."""

from __future__ import annotations

import ast
import math
import re
import warnings
from dataclasses import dataclass
from typing import Any

from cloche.errors import FieldUnknown, FileTooLarge, PartInvalid, shown
from cloche.part_names import NAME

LONGEST_LINE = 20_000  # characters
DEEPEST_LINE = 64  # parts and lists within each other
_WORDS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(\w[\w.]*:[A-Za-z_]\w*)""")


@dataclass(frozen=True)
class Call:
    """What a text says of a part, before its class is known: the name, the values in order, and those named."""

    name: str
    given: tuple[Any, ...]
    named: dict[str, Any]


def read_line(text: str, where: str) -> Call:
    """Parse one line. Raises ClocheError naming `where` for anything but names, numbers, texts, lists and calls of names."""
    if not isinstance(text, str) or len(text) > LONGEST_LINE:
        what = f"has {len(text):,} characters" if isinstance(text, str) else f"is {shown(text)}"
        raise FileTooLarge(f"[{where}] {what}; a part is written in one line of at most {LONGEST_LINE:,} characters.")
    if NAME.fullmatch(text.strip()):  # also topk-sae, which is no Python name
        return Call(text.strip(), (), {})
    qualified: list[str] = []

    def stands_for(match: re.Match[str]) -> str:
        """A name without a colon in place of my_parts:Muon, which Python does not parse."""
        if match[1] is None:
            return match[0]
        qualified.append(match[1])
        return f"_{len(qualified) - 1}_"

    plain = _WORDS.sub(stands_for, text.strip())
    try:
        with warnings.catch_warnings(action="ignore"):  # of strange escapes
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
    qualified: list[str]  # the names that stand in the tree as _0_, _1_, ...

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
                return {"inf": math.inf, "nan": math.nan}.get(name, self._name(name))  # a part's name, or a word
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
    """The call's values by field, those without a name given to the `fields` in order."""
    if len(call.given) > len(fields):
        named = ", ".join(fields) or "its settings by name"
        raise PartInvalid(
            f"[{where}] {call.name} takes {named}, but was given {len(call.given)} without a name; leave some out or name them."
        )
    found = dict(zip(fields, call.given, strict=False))
    if twice := sorted(found.keys() & call.named.keys()):
        raise FieldUnknown(f"[{where}] {call.name} is given {' and '.join(twice)} twice; leave one out.")
    return found | call.named
