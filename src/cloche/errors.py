"""Errors for users: one sentence each, with a code that a program can act on.

Every refusal is a subclass of ClocheError named for its situation, and its `code` is that name: SiteUnknown has SITE-UNKNOWN.
The first line of each docstring is the cause and what follows it the fix; docs/errors.md is made from them.
"""

from __future__ import annotations

import re
from typing import ClassVar


class ClocheError(Exception):
    """Something the caller asked for cannot be done as asked.

    The message is one sentence that says what is wrong, where, and how to fix it. The command line prints it and exits with 1;
    with --json it prints `{"error": message, "code": code}` as well.

    >>> from cloche.errors import ClocheError, SiteUnknown
    >>> try:
    ...     raise SiteUnknown("This model has no site 'resid'; did you mean 'resid_post'?")
    ... except ClocheError as error:
    ...     print(error.code)
    SITE-UNKNOWN
    """

    code: ClassVar[str] = "ERROR"

    def __init_subclass__(cls) -> None:
        if cls.__module__ != __name__:  # a subclass defined elsewhere keeps the code of its base
            return
        cls.code = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).upper()


# ---- files and folders


class FileMissing(ClocheError):
    """A file or folder that was named, or that a folder must contain, does not exist.
    Check the spelling, or restore it."""


class FileUnreadable(ClocheError):
    """A file exists but cannot be read: permissions, a pipe, or a disk error.
    Change its permissions, or copy it to another disk."""


class FileDamaged(ClocheError):
    """A file is not as it was written: cut short, changed, or no longer of its format.
    Restore it from a copy or from its source; `cloche verify` names everything that is damaged."""


class FileUnsupported(ClocheError):
    """A file is of a kind that is not supported here, such as an archive, or a picture instead of text.
    Convert it to one of the kinds that the message names."""


class FileExists(ClocheError):
    """The file or folder to write exists already, and nothing is overwritten.
    Choose another name, or move the existing one away."""


class FileTooLarge(ClocheError):
    """A file has more bytes, levels or numbers than such a file can have.
    Split it, or save it in a form that the message names."""


class FolderForeign(ClocheError):
    """A folder contains something that cloche did not write, and it is left as it is.
    Name a new or empty folder."""


class WriteRefused(ClocheError):
    """The system refuses to write: no space, no permission, or a folder that no longer exists.
    Free some space or name another folder; what was there before is intact."""


class PathInvalid(ClocheError):
    """A path leads out of the folder it belongs to, or a name is not a valid file name.
    Name a file or folder inside the run, in plain characters."""


# ---- runs


class RunMissing(ClocheError):
    """The folder is not a run: it has no run.json.
    Name a folder that `cloche pretrain`, `demo` or `adopt` made."""


class RunExists(ClocheError):
    """The folder already contains a run.
    Resume it with `cloche resume`, or name another folder."""


class RunFormat(ClocheError):
    """The run was written in another format.
    Use the version of cloche that the message names."""


class RunBusy(ClocheError):
    """Another process is writing to this run.
    Wait until it ends, or stop it."""


class RunDamaged(ClocheError):
    """A run lacks something that it needs to continue, or is not as it was written.
    Restore it from a copy; `cloche verify` lists what is wrong."""


class RunFinished(ClocheError):
    """The run has completed all of its steps.
    Give it more: `cloche resume RUN --set run.steps=N`."""


class CheckpointMissing(ClocheError):
    """The run has no such checkpoint.
    Name one of those that the message lists."""


class ResumeRefused(ClocheError):
    """A setting, or the state on disk, does not belong to the training to be resumed.
    Keep the settings it started with, or start another run."""


# ---- text and data


class CorpusEmpty(ClocheError):
    """There is no text, or too little for what was asked.
    Give more text, or a smaller batch, length or vocabulary."""


class TextEncoding(ClocheError):
    """A text is not in the encoding it is read with.
    Name its encoding with --encoding."""


class RecordInvalid(ClocheError):
    """A record of a data file, or a row of a table, is invalid.
    Repair or delete what the message names."""


class FieldUnknown(ClocheError):
    """A field or column does not exist, or contains no text or numbers.
    Name one of those that the message lists."""


class TokenizerMissing(ClocheError):
    """Text was given, but there is no tokenizer to encode it.
    Give token ids, or put a tokenizer.json beside the weights."""


class TokenizerInvalid(ClocheError):
    """A tokenizer.json cannot be used as it is, or not with this model.
    Copy it again from its source, or use the tokenizer that the model was trained with."""


# ---- models


class ModelMissing(ClocheError):
    """There is no model where one was named.
    Name a run, a checkpoint, or a Hugging Face folder."""


class ModelUnsupported(ClocheError):
    """A model is of a family, or has a setting, that is not supported.
    Use a family that the message lists, or build the model in Python from parts of your own."""


class WeightsInvalid(ClocheError):
    """The weights and their description disagree.
    Restore both from one source."""


class SitesWrong(ClocheError):
    """The value recorded at a site differs from the site's definition.
    The model's code, or its family's mapping of names, is wrong; load it with check_sites=False to look."""


class NotFinite(ClocheError):
    """Numbers that must be finite are not: the weights have diverged, or an edit is too strong.
    Use an earlier checkpoint, or weaker edits."""


class OutOfMemory(ClocheError):
    """The model, or the training, does not fit into this machine's memory.
    Choose smaller sizes."""


class HubUnavailable(ClocheError):
    """A model cannot be fetched from the Hugging Face Hub.
    Check the name and the connection, or name a folder."""


class DeviceUnavailable(ClocheError):
    """The requested device is not available, or tensors are on different devices.
    Choose an available device, or move the tensors to one device."""


# ---- sites and prompts


class SiteUnknown(ClocheError):
    """The model has no such site, layer or head.
    Name one of those that the message lists; `cloche.load(x).sites` prints them all."""


class SiteNotSaved(ClocheError):
    """A result does not contain the requested site.
    Add it to `save=`."""


class SiteUnsuitable(ClocheError):
    """A site's axes do not suit what was requested.
    Name a site with one vector per token, such as resid_post[3]."""


class EditInvalid(ClocheError):
    """An edit is not a value that can be applied.
    Write one like `resid_post[3].add(v)`."""


class PromptInvalid(ClocheError):
    """A prompt, or its padding, is not text or a rectangle of token ids.
    Give text, or ids [batch, position] with at least one token."""


class ContextExceeded(ClocheError):
    """There are more tokens than the model has positions.
    Shorten the prompt, or ask for fewer new tokens."""


# ---- settings


class PartUnknown(ClocheError):
    """No class of that name is known.
    Check the spelling; import a module of your own with --import."""


class PartInvalid(ClocheError):
    """A part is given a field that it does not have, or lacks a required one.
    Use the fields that the message names."""


class SettingRange(ClocheError):
    """A setting has a value outside its valid range.
    Give a value in the range that the message names."""


class SettingConflict(ClocheError):
    """Settings or options contradict each other, or one has no effect here.
    Change or leave out the one that the message names."""


class RecipeInvalid(ClocheError):
    """A recipe, or `--set`, cannot be read.
    Write TOML, and `--set section.key=value`."""


class SettingMoved(ClocheError):
    """A setting has a new name, or has moved to another section.
    Use the name that the message gives."""


class SettingInvalid(ClocheError):
    """A setting of a recipe is of the wrong type, or cannot be used here.
    Give what the message names."""


class ArgumentInvalid(ClocheError):
    """An argument of a function or command is of the wrong type, or does not exist.
    Give what the message names."""


class ArgumentRange(ClocheError):
    """An argument of a function or command is outside its valid range.
    Give a value in the range that the message names."""


class ImportRefused(ClocheError):
    """A module named with --import, or in a recipe's imports, cannot be imported.
    Check its name and that its folder is on the path."""


class ExtraMissing(ClocheError, ImportError):
    """An optional package is not installed.
    Run the `pip install` that the message names."""


# ---- tasks


class TaskInvalid(ClocheError):
    """A task has no items, cannot be written with this tokenizer, or its verifier fails.
    Change the task, the tokenizer or the file that the message names."""


# ---- sparse models and instruments


class DictionaryMissing(ClocheError):
    """There is no dictionary of that name.
    Name one of those that the message lists, or train one with `cloche sae train`."""


class DictionaryMismatch(ClocheError):
    """A dictionary does not fit the model, the site or the signals.
    Use it with what it was trained on."""


class FeatureUnknown(ClocheError):
    """The dictionary has no such feature.
    Give a number from 0 to the number of features less one."""


class SignalsShape(ClocheError):
    """Signals, atoms or activations are not real numbers of the right shape.
    Give real numbers of the shape that the message names."""


class SeriesInvalid(ClocheError):
    """Time series do not fit together, or nothing can be learned from them.
    Give [samples, states] with times that rise, as the message says."""


class NotSolved(ClocheError):
    """A problem has no solution under these settings, or none was reached.
    Loosen the setting that the message names."""


class InstrumentUnknown(ClocheError):
    """There is no instrument, finding or panel of that name, or it cannot be read.
    Name one of those that the message lists."""


class InstrumentOption(ClocheError):
    """An option of an instrument is unknown, is required but not given, or cannot be read from text.
    Write it as key=value; `cloche look RUN` lists each instrument's options."""


class WorkerFailed(ClocheError):
    """The process that runs the models could not answer.
    Ask again, with a shorter prompt."""


# ---- lists and texts


def described() -> dict[str, tuple[type[ClocheError], str, str]]:
    """Every class above by its name, with its cause and fix, in the order of docs/errors.md."""
    found = {}
    for kind in (kind for kind in ClocheError.__subclasses__() if kind.__module__ == __name__):
        cause, fix = (line.strip() for line in (kind.__doc__ or "").splitlines())
        found[kind.__name__] = kind, cause, fix
    return found


def shown(value: object, most: int = 80) -> str:
    """`repr(value)` for a sentence, cut to `most` characters: a value from a user may be a million characters long."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a whole number of about {int(value.bit_length() * 0.30103) + 1:,} digits"
    if isinstance(value, str) and len(value) > most:
        value = value[: most + 1]
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"
    return text if len(text) <= most else text[: most - 1] + "…"


def require_whole(least: int | None = None, most: int | None = None, **given: object) -> None:
    """Raises ArgumentRange for an argument, given by its name, that is not a whole number from `least` to `most`."""
    for name, value in given.items():
        if type(value) is not int or (least is not None and value < least) or (most is not None and value > most):
            ends = "" if least is None else f" of at least {least:,}"
            ends += "" if most is None else f" and at most {most:,}"
            raise ArgumentRange(f"{name}={shown(value)} must be a whole number{ends}.")


def why_not_json(error: ValueError | RecursionError, most: int = 100) -> str:
    """Why `json.loads` raised, in at most so many characters: Python's own words name its settings, or none of the text."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if "limit" in str(error) and "digits" in str(error):  # sys.set_int_max_str_digits
        return "a number in it has more than 4,300 digits"
    return str(error)[:most]
