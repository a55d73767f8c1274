"""Instruments by name: the list of them, and their options.

An instrument is a function whose first parameter is a model and which returns a Finding. Instruments are found among the
exports of the packages in PACKAGES and the functions of modules named with --import; nothing is registered.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cloche import part_text
from cloche.drawing import Finding
from cloche.errors import ClocheError, InstrumentUnknown, shown
from cloche.interp.lenses.affine import Lens
from cloche.interp.steering.concepts import Concept
from cloche.model import Network, Site
from cloche.part import Part
from cloche.part_text import nearest
from cloche.runs import Run
from cloche.sparse import SAE

PACKAGES = ("interp", "evals", "diagnose", "text", "sparse")
Instrument = Callable[..., Any]

# ---- the list of instruments


def instruments() -> dict[str, Instrument]:
    """Every instrument by its name, including those of modules named with --import.

    >>> from cloche.interp import instruments
    >>> "logit-lens" in instruments()
    True
    """
    found: dict[str, Instrument] = {}
    for name in PACKAGES:
        if find_spec(f"cloche.{name}") is None:
            continue
        package = import_module(f"cloche.{name}")
        for export in package.__all__:
            with suppress(ImportError, ClocheError):  # needs an extra that is not installed
                found |= _if_instrument(export, getattr(package, export))
    for module in filter(None, map(sys.modules.get, part_text.imported)):
        for export, value in vars(module).items():
            if not export.startswith("_"):
                found |= _if_instrument(export, value)
    return dict(sorted(found.items()))


def find_instrument(name: str) -> tuple[str, Instrument]:
    """The name, with hyphens, and the function of an instrument; hyphens and underscores are the same.

    Raises ClocheError naming the nearest one, or all of them.

    >>> from cloche.interp import find_instrument
    >>> find_instrument("logit_lens")[0]
    'logit-lens'
    """
    known = instruments()
    wanted = name.replace("_", "-").removesuffix("-report")
    if wanted not in known:
        raise InstrumentUnknown(f"There is no instrument {shown(name)}{nearest(wanted, known)}")
    return wanted, known[wanted]


def _if_instrument(name: str, value: Any) -> dict[str, Instrument]:
    return {name.replace("_", "-").removesuffix("-report"): value} if _is_instrument(value) else {}


def _is_instrument(value: Any) -> bool:
    if not inspect.isfunction(value):
        return False
    own = inspect.unwrap(value)
    parameters = list(inspect.signature(own).parameters.values())
    reads_model = bool(parameters) and not any(_named(parameters[0].annotation, name) for name in ("Run", "Recipe"))
    returns = any(_named(each.__annotations__.get("return"), "Finding") for each in (own, *typing.get_overloads(own)))
    return reads_model and returns and not _is_many(parameters[0])


def is_sequence(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Sequence)


def _is_many(parameter: inspect.Parameter) -> bool:
    """Whether a parameter takes several things, as that of a function which compares tasks or texts does."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else str(typing.get_origin(annotation) or "")
    return text.startswith(("Sequence[", "Iterable[", "list[")) or is_sequence(annotation)


def _named(annotation: Any, name: str) -> bool:
    """Whether an annotation, evaluated or not, is a class of that name, or a union with one."""
    if isinstance(annotation, str):
        return any(part.strip().rpartition(".")[2] == name for part in annotation.strip("\"'").split("|"))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_named(option, name) for option in typing.get_args(annotation))
    return isinstance(annotation, type) and annotation.__name__ == name


# ---- their options


@dataclass(frozen=True)
class Option:
    """A parameter of an instrument other than the model: name, type, and default as text, None if it is required."""

    name: str
    hint: Any
    default: str | None

    @property
    def typed(self) -> str:
        """The form of its value on the command line, such as INT or NUMBER,...; "" if it has none."""
        return "TOKENS|FILE" if self.name in ("windows", "training") else "|".join(_typed(self.hint))

    @property
    def in_run(self) -> bool:
        """Whether a run gives it, if it is required and not given."""
        return self.name in ("windows", "training", "prompt", "sae") or self.hint is Lens


PLAIN = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT", Any: "TEXT", Path: "FILE", Site: "SITE"}


def _typed(hint: Any) -> list[str]:
    """The distinct forms in which a value of a type can be written; those that `_converted` reads."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        ways = [way for option in inner for way in _typed(option)]
        return list(dict.fromkeys(way for way in ways if way != "TEXT" or "SITE" not in ways))
    if origin is typing.Literal:
        return [str(option) for option in inner]
    if isinstance(origin, type) and issubclass(origin, Sequence):
        item = "|".join(_typed(inner[0] if inner else str))
        return [f"{item},..."] if item else []
    if hint is inspect.Parameter.empty or hint in PLAIN:
        return [PLAIN.get(hint, "TEXT")]
    if not isinstance(hint, type) or hint is type(None):
        return []
    if issubclass(hint, Part):
        return [f"{hint.__name__.upper()}(...)"]
    kinds = {
        SAE: "DICTIONARY",
        Lens: "LENS",
        Finding: "FINDING",
        Concept: "FILE",
        Run: "RUN",
        Network: "RUN|MODEL",
    }
    return [kinds[hint]] if hint in kinds else ["RUN|MODEL"] if hint.__name__ in ("Subject", "Glass") else []


def options_of(function: Instrument) -> dict[str, Option]:
    """The options of an instrument by name, from its signature.

    >>> from cloche.interp import find_instrument, options_of
    >>> sorted(options_of(find_instrument("logit-lens")[1]))
    ['prompt', 'seed', 'top']
    """
    own = inspect.unwrap(function)
    try:
        hints = typing.get_type_hints(own)
    except (NameError, TypeError):  # a type imported only for the type checker
        hints = dict(own.__annotations__)
    found = {}
    for parameter in list(inspect.signature(own).parameters.values())[1:]:
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            default = None if parameter.default is parameter.empty else _as_text(parameter.default)
            found[parameter.name] = Option(parameter.name, hints.get(parameter.name, Any), default)
    return found


def _as_text(default: Any) -> str:
    if isinstance(default, list | tuple):
        return ",".join(map(str, default))
    return default.__name__ if callable(default) else str(default)
