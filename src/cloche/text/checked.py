"""Checks a tokenizer.json and its settings before anything is built from them, and turns the engine's panics into
errors."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Engine

from cloche.errors import ClocheError, FileMissing, FileTooLarge, FileUnreadable, TokenizerInvalid, shown

LARGEST = {"tokenizer.json": 256 << 20, "tokenizer_config.json": 64 << 20}  # bytes; Gemma 3's have 33 MB and 1 MB
LARGEST_ID = 1 << 24  # tables have a row for every id


def read(path: Path) -> str:
    """The text of one of the two files. Raises FileNotFoundError if it is missing, ClocheError if it cannot be read."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileMissing(f"{path} is not a file; put a {path.name} there.")
        if found.st_size > LARGEST[path.name]:
            raise FileTooLarge(
                f"{path} has {found.st_size >> 20:,} MB, more than any {path.name} has; copy it there again."
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise FileUnreadable(f"{path} cannot be read ({error}); copy it there again.") from error


def parsed(text: str, path: Path) -> dict[str, Any]:
    """The object in JSON text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerInvalid(f"{path} is not JSON ({str(error)[:120]}); copy it there again.") from error
    if not isinstance(found, dict):
        raise TokenizerInvalid(f"{path} holds a {type(found).__name__}, not an object; copy it there again.")
    return found


def engine(text: str, contents: dict[str, Any], where: str) -> Engine:
    """The engine of a tokenizer.json. Raises ClocheError, naming `where`, for one that describes no valid tokenizer."""
    _check(contents, where)
    with panics_named(where):
        built = Engine.from_str(text)
        built.no_padding()
        built.no_truncation()
        built.encode_special_tokens = True
        ids = built.get_vocab(with_added_tokens=True)
    if not ids:
        raise TokenizerInvalid(f"{where} has an empty vocabulary; copy it there again.")
    return built


def decoder_of(built: Engine) -> dict[str, Any] | None:
    """The decoder with the types and defaults that the engine fills in and files leave out."""
    return None if built.decoder is None else json.loads(built.decoder.__getstate__())


def _check(contents: dict[str, Any], where: str) -> None:
    """Checks what the engine assumes, and what it would build at any size."""
    model = contents.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise TokenizerInvalid(
            f"{where} is not a tokenizer.json (it has no model with a vocabulary); copy it there again."
        )
    vocab = model["vocab"]
    if isinstance(vocab, list):
        if not all(isinstance(each, list) and len(each) == 2 and isinstance(each[0], str) for each in vocab):
            raise TokenizerInvalid(
                f"{where} is not a tokenizer.json (an entry of its vocabulary is not a token and its score)."
            )
        ids: list[Any] = [len(vocab) - 1]
    else:
        ids = list(vocab.values())
    added = contents.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(each, dict) for each in added):
        raise TokenizerInvalid(
            f"{where} is not a tokenizer.json (its added_tokens are not a list of objects); copy it there again."
        )
    for each in added:
        if not isinstance(each.get("content"), str):
            raise TokenizerInvalid(f"{where} has an added token without content; copy it there again.")
        ids.append(each.get("id"))
    for i in ids:
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < LARGEST_ID:
            raise TokenizerInvalid(
                f"{where} gives a token the id {shown(i)}, which is not a whole number from 0 to {LARGEST_ID - 1:,}."
            )
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        part = contents.get(name)
        if part is not None and not isinstance(part, dict):
            raise TokenizerInvalid(
                f"{where} is not a tokenizer.json (its {name} is a {type(part).__name__}); copy it there again."
            )


@contextmanager
def panics_named(where: str, errors: type[Exception] | tuple[()] = Exception) -> Iterator[None]:
    """Turns what the engine raises for an invalid file into one sentence: `errors`, bare Exceptions, and panics,
    which are not Exceptions."""
    try:
        yield
    except BaseException as error:
        named = type(error) is Exception or (isinstance(error, errors) and not isinstance(error, ClocheError))
        if not named and type(error).__name__ != "PanicException":
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TokenizerInvalid(f"{where} is not a tokenizer.json ({reason}); copy it there again.") from error


def end_token(settings: dict[str, Any]) -> str | None:
    """The eos_token that the settings name. ClocheError where it is no token."""
    named = settings.get("eos_token")
    named = named.get("content") if isinstance(named, dict) else named
    if named is not None and not isinstance(named, str):
        raise TokenizerInvalid(f"The eos_token of tokenizer_config.json is {shown(named)}, not a token; repair it.")
    return named
