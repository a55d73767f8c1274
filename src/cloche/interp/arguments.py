"""The arguments of instruments, from text and from what a run holds."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cloche.drawing import Finding
from cloche.errors import DictionaryMissing, InstrumentOption, require_whole, shown
from cloche.interp.catalogue import Instrument, Option, is_sequence, options_of
from cloche.interp.lenses.affine import JACOBIAN, TUNED, Lens
from cloche.interp.lenses.keeping import lens_of, open_lens, training_windows
from cloche.interp.materials import (
    Materials,
    dictionaries,
    held_out,
    held_out_prompts,
    open_dictionary,
    open_finding,
    others_of,
)
from cloche.interp.steering.concepts import Concept, read_concept
from cloche.model import Network, Site
from cloche.part import Part, part_from_line
from cloche.part_text import nearest
from cloche.runs import Run
from cloche.sparse import SAE
from cloche.tasks import Task, read_task

WINDOWS = 10_240  # tokens of a split that an instrument reads by default
TRAINING = 16 * WINDOWS  # of the training split: 40 steps of 4,096 tokens do not repeat any
TEXTS = {
    "windows": "held-out",
    "training": "training",
}  # options that are texts, and the split that their numbers count in
LARGEST, LARGEST_SEED = 2**63 - 1, 2**53  # numbers that torch and numpy take; a seed is also stored as JSON
Given = Mapping[str, Sequence[str]]  # the texts given for each option; several if it is repeated


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
    return [item for value in values for item in value] if is_sequence(option.hint) else values


def fill_in(name: str, function: Instrument, values: Mapping[str, Any], materials: Materials) -> dict[str, Any]:
    """An instrument's keyword arguments: the given `values`, and from the run whatever else it requires.

    These parameters are filled in: `windows` with held-out text, `training` with text of the training split, `prompt` with
    the beginning of the held-out text, `sae` with the run's only dictionary and `name` with its name, `others` with the
    checkpoints that the dictionary's site names, and `lens` with the lens of the checkpoint, which is trained and kept in the
    run if there is none. Raises ClocheError for an unknown option, or if the run does not have what is required.

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
        if option.name == "training":
            return training_windows(materials.run, materials.subject, TRAINING)
        if option.name == "prompt":
            return held_out_prompts(materials.run, 1)[0]
        if option.name == "sae" and len(known := dictionaries(materials.run)) == 1:
            return open_dictionary(materials.run, known[0])
        if option.hint is Lens:
            kinds = {"tuned-lens": [TUNED], "jacobian-lens": [JACOBIAN]}.get(name, [TUNED, JACOBIAN])
            return lens_of(materials.run, materials.subject, kinds, may_train=materials.paths)
        if option.name == "sae" and not known:
            raise DictionaryMissing(
                f"{name} reads a dictionary, and {materials.run.path} has none: train one with "
                f"`cloche sae train {materials.run.path}`."
            )
    hint = f": one of {', '.join(dictionaries(materials.run))}" if option.name == "sae" and materials.run else ""
    if option.hint is Task:
        hint = (
            ", such as KeyValue (`cloche tasks list` shows all), a file of questions, or two prompts of your own: "
            '\'PromptPair(clean="...", corrupted="...", answer="...", against="...")\''
        )
    elif option.typed == "SITE":
        hint = ", such as resid_post[2]"
    raise InstrumentOption(f"{name} needs {option.name}=...{hint or f', which is {option.typed}'}.")


# ---- values from text


def _value(text: str, option: Option, materials: Materials) -> Any:
    if option.name in TEXTS:
        return _windows(text, option.name, materials)
    try:
        value = _converted(text, option.hint, option.name, materials)
    except ValueError:
        raise InstrumentOption(
            f"{option.name}={shown(text)} is not of the form {option.typed}; `cloche look RUN` lists every option."
        ) from None
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int) and option.name == "seed":
            require_whole(0, LARGEST_SEED, seed=number)
        elif isinstance(number, int | float) and not abs(number) <= LARGEST:  # NaN too
            raise InstrumentOption(
                f"{option.name}={shown(text)} is not a number up to {LARGEST:,}; give such a number."
            )
    return value


def _windows(text: str, name: str, materials: Materials) -> Any:
    if text.replace("_", "").isdecimal():
        require_whole(1, LARGEST, **{name: (count := int(text))})
        run = materials.need_run(name)
        read = training_windows if name == "training" else held_out
        return read(run, materials.subject, count)
    materials.need_paths(name)
    path = Path(text).expanduser()
    if not path.is_file():
        raise InstrumentOption(
            f"{name}={shown(text)} is neither a number of {TEXTS[name]} tokens nor a text file; give one of them."
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
    if is_sequence(hint):
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
        part = read_task(text, name) if hint is Task else part_from_line(text, hint, name)
        if _reads_files(part):
            materials.need_paths(name)
        return part
    if hint is SAE:
        return open_dictionary(materials.need_run(name), text)
    if hint is Lens:
        return open_lens(materials.need_run(name), text)
    if hint is Finding:
        return open_finding(materials.need_run(name), text)
    materials.need_paths(name)
    if hint is Concept:
        return read_concept(text)
    if hint is Run:
        return Run.open(text)
    if hint is Network or hint.__name__ in ("Subject", "Glass"):
        from cloche.glass import load

        glass = load(text)
        return glass.net if hint is Network else glass
    raise InstrumentOption(f"{name}= cannot be given as text; call the instrument in Python.")
