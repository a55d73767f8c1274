"""Instruments by name: the list of them, their options, and arguments read from text.

An instrument is a function whose first parameter is a model and which returns a Finding. Instruments are found among the
exports of the packages in PACKAGES and the functions of modules named with --import; nothing is registered.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cloche import part_text
from cloche.errors import ClocheError, DictionaryMissing, InstrumentOption, InstrumentUnknown, shown
from cloche.interp.materials import dictionaries, held_out, held_out_prompts, open_dictionary, others_of
from cloche.interp.subject import Subject
from cloche.model import Network, Site
from cloche.part import Part, part_from_line
from cloche.part_text import nearest
from cloche.runs import Run
from cloche.sparse import SAE

PACKAGES = ("interp", "evals", "diagnose", "text", "sparse")
WINDOWS = 10_240  # held-out tokens that an instrument reads by default
Instrument = Callable[..., Any]
Given = Mapping[str, Sequence[str]]  # the texts given for each option; several if it is repeated

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
    reads_model = bool(parameters) and not _named(parameters[0].annotation, "Run") and not _is_many(parameters[0])
    return reads_model and any(
        _named(each.__annotations__.get("return"), "Finding") for each in (own, *typing.get_overloads(own))
    )


def _is_many(parameter: inspect.Parameter) -> bool:
    """Whether a parameter takes several things, as that of a function which compares tasks or texts does."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else str(typing.get_origin(annotation) or "")
    return text.startswith(("Sequence[", "Iterable[", "list[")) or _is_sequence(annotation)


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
        return "TOKENS|FILE" if self.name == "windows" else "|".join(_typed(self.hint))


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
    kinds = {SAE: "DICTIONARY", Run: "RUN", Network: "RUN|MODEL"}
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


@dataclass
class Materials:
    """What arguments are read from: a model, and its run, None for a model without one. `paths`: whether an option may name
    a file or another model on this machine; it may on the command line, but not in a request to a server.

    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> glass = Glass(LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0))
    >>> from cloche.interp import Materials, fill_in, find_instrument
    >>> fill_in(*find_instrument("logit-lens"), {"prompt": "the cat"}, Materials(glass))
    {'prompt': 'the cat'}
    """

    subject: Subject
    run: Run | None = None
    paths: bool = True

    def need_paths(self, option: str) -> None:
        if not self.paths:
            raise InstrumentOption(f"{option}= can name a file or folder only on the command line: use `cloche look`.")

    def need_run(self, option: str) -> Run:
        if self.run is None:
            raise InstrumentOption(
                f"{option}= names something in a run, and this model has no run; make one with `cloche adopt`."
            )
        return self.run


def read_options(name: str, function: Instrument, given: Given, materials: Materials) -> dict[str, Any]:
    """The values of an instrument's options from text. Raises ClocheError for one that is unknown or cannot be read.

    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> glass = Glass(LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0))
    >>> from cloche.interp import Materials, find_instrument, read_options
    >>> read_options(*find_instrument("logit-lens"), {"prompt": ["the cat"], "top": ["3"]}, Materials(glass))
    {'prompt': 'the cat', 'top': 3}
    """
    options = options_of(function)
    texts = {key.replace("-", "_"): values for key, values in given.items()}
    _require_known(name, texts, options)
    read = {key: [_value(text, options[key], materials) for text in values] for key, values in texts.items()}
    made = {key: _joined(values, options[key]) for key, values in read.items()}
    if "sae" in texts and "name" in options:
        made.setdefault("name", texts["sae"][0])
    return made


def _joined(values: list[Any], option: Option) -> Any:
    """The value of an option that was given once or several times."""
    if len(values) == 1:
        return values[0]
    return [item for value in values for item in value] if _is_sequence(option.hint) else values


def _is_sequence(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Sequence)


def fill_in(name: str, function: Instrument, values: Mapping[str, Any], materials: Materials) -> dict[str, Any]:
    """An instrument's keyword arguments: the given `values`, and from the run whatever else it requires.

    These parameters are filled in: `windows` with held-out text, `prompt` with its beginning, `sae` with the run's only
    dictionary and `name` with its name, and `others` with the checkpoints that the dictionary's site names. Raises
    ClocheError for an unknown option, or if the run does not have what is required.

    >>> from pathlib import Path
    >>> from cloche import GLU, LM, Attention, Block, Glass, Run, Stack
    >>> from cloche.data import prepare
    >>> _ = Path("text.txt").write_text("the cat sat on the mat and the dog ran off. " * 400)
    >>> run = Run.create("first", recipe="")
    >>> _ = prepare(["text.txt"], run.path, vocab=280)
    >>> glass = Glass(LM(280, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0))
    >>> from cloche.interp import Materials, fill_in, find_instrument
    >>> arguments = fill_in(*find_instrument("activation-density"), {}, Materials(glass, run))
    >>> list(arguments), arguments["windows"][0].ndim
    (['windows'], 2)
    """
    options = options_of(function)
    _require_known(name, values, options)
    made = dict(values)
    for key, option in options.items():
        if key not in made and option.default is None:
            made[key] = _from_run(name, option, materials)
            if key == "sae" and "name" in options and materials.run is not None:
                made.setdefault("name", dictionaries(materials.run)[0])
    if isinstance(made.get("sae"), SAE) and "others" in options and materials.run is not None:
        made.setdefault("others", others_of(materials.run, made["sae"].trained_on.site) or None)
    return made


def _require_known(name: str, given: Iterable[str], options: Mapping[str, Option]) -> None:
    for key in given:
        if key not in options:
            raise InstrumentOption(f"{name} has no option {shown(key)}{nearest(key, options) if options else '.'}")


def _from_run(name: str, option: Option, materials: Materials) -> Any:
    """The value of a required option that was not given."""
    if materials.run is not None:
        if option.name == "windows":
            return held_out(materials.run, materials.subject, WINDOWS)
        if option.name == "prompt":
            return held_out_prompts(materials.run, 1)[0]
        if option.name == "sae" and len(known := dictionaries(materials.run)) == 1:
            return open_dictionary(materials.run, known[0])
        if option.name == "sae" and not known:
            raise DictionaryMissing(
                f"{name} reads a dictionary, and {materials.run.path} has none: train one with "
                f"`cloche sae train {materials.run.path}`."
            )
    hint = f": one of {', '.join(dictionaries(materials.run))}" if option.name == "sae" and materials.run else ""
    raise InstrumentOption(f"{name} needs {option.name}=...{hint or f', which is {option.typed}'}.")


# ---- values from text


def _value(text: str, option: Option, materials: Materials) -> Any:
    if option.name == "windows":
        return _windows(text, materials)
    try:
        return _converted(text, option.hint, option.name, materials)
    except ValueError:
        raise InstrumentOption(
            f"{option.name}={shown(text)} is not of the form {option.typed}; `cloche look RUN` lists every option."
        ) from None


def _windows(text: str, materials: Materials) -> Any:
    if text.replace("_", "").isdecimal():
        return held_out(materials.need_run("windows"), materials.subject, int(text))
    materials.need_paths("windows")
    path = Path(text).expanduser()
    if not path.is_file():
        raise InstrumentOption(
            f"windows={shown(text)} is neither a number of held-out tokens nor a text file; give one of them."
        )
    return [path.read_text(encoding="utf-8", errors="replace")]


def _converted(text: str, hint: Any, name: str, materials: Materials) -> Any:
    """A value of type `hint` read from text. Raises ValueError if the text is not one."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _first(text, inner, name, materials)
    if origin is typing.Literal:
        if text not in inner:
            raise InstrumentOption(f"{name}={shown(text)} must be one of {', '.join(map(str, inner))}.")
        return text
    if _is_sequence(hint):
        item = inner[0] if inner else str
        return [_converted(part, item, name, materials) for part in _items(text)]
    if hint in (Any, str, Site, inspect.Parameter.empty):
        return text
    if hint is bool:
        return _truth(text)
    if hint in (int, float):
        return hint(text)
    if hint is Path:
        materials.need_paths(name)
        return Path(text)
    if isinstance(hint, type):
        return _thing(text, hint, name, materials)
    raise InstrumentOption(f"{name}= cannot be given as text; call the instrument in Python.")


def _items(text: str) -> list[str]:
    """The items of a list such as `0.01,0.1`, `[a, b]` or `Add,ModularAdd(p=7, renaming=2)`."""
    text = text.strip()
    if text[:1] + text[-1:] in ("[]", "()"):
        text = text[1:-1]
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _truth(text: str) -> bool:
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise ValueError(text)


def _first(text: str, options: Sequence[Any], name: str, materials: Materials) -> Any:
    """The value of the first type of a union that accepts the text; str comes last, because it accepts everything."""
    if type(None) in options and text.lower() == "none":
        return None
    plain = [option for option in options if option is not type(None)]
    for option in sorted(plain, key=lambda option: option in (str, Any, Site)):
        with suppress(ValueError):
            return _converted(text, option, name, materials)
    raise ValueError(text)


def _reads_files(value: Any) -> bool:
    """Whether a part, or one inside it, reads files of this machine."""
    if isinstance(value, tuple):
        return any(map(_reads_files, value))
    return isinstance(value, Part) and (value.reads_files or any(map(_reads_files, vars(value).values())))


def _thing(text: str, hint: type, name: str, materials: Materials) -> Any:
    """The model, run, dictionary or part that a text names."""
    if issubclass(hint, Part):
        part = part_from_line(text, hint, name)
        if _reads_files(part):
            materials.need_paths(name)
        return part
    if hint is SAE:
        return open_dictionary(materials.need_run(name), text)
    materials.need_paths(name)
    if hint is Run:
        return Run.open(text)
    if hint is Network or hint.__name__ in ("Subject", "Glass"):
        from cloche.glass import load

        glass = load(text)
        return glass.net if hint is Network else glass
    raise InstrumentOption(f"{name}= cannot be given as text; call the instrument in Python.")
