"""Which documents are held out for validation: by name, the same on every machine, and no document on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from cloche.data.read import Document
from cloche.data.sources import Source
from cloche.errors import ClocheError

Validation = float | Sequence[str]  # a share of the documents, or patterns of file names

LARGEST_STAND_IN = 0.2  # share of the corpus that the one file may have that validates when no name falls to validation
LARGEST_VALIDATION = 0.5


def split_of(name: str, validation: Validation) -> str:
    """ "train" or "validation": by a hash of the name against a share, or by shell patterns on the name or its last part.

    A record's name ("a.jsonl#17") is hashed whole, so that one file of records serves both sides; patterns see its file.
    """
    if isinstance(validation, (int, float)):
        return "validation" if _rank(name) < validation else "train"
    patterns = (validation,) if isinstance(validation, str) else validation
    file = name.rpartition("#")[0] or name
    held_out = any(fnmatchcase(each, pattern) for pattern in patterns for each in (file, file.rpartition("/")[2]))
    return "validation" if held_out else "train"


def _rank(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@dataclass(frozen=True)
class Split:
    """How one corpus is divided; `how` says it in words."""

    validation: Validation
    how: str
    stand_in: str | None = None  # the one file that validates when no name's hash falls to validation
    train_characters: int | None = None  # a lone text file: so many characters train, the rest validates

    def divide(self, documents: Iterable[Document]) -> Iterator[tuple[str, Document]]:
        """Each piece with its side. A lone text file is cut once, at a line end, into two documents."""
        if self.train_characters is None:
            for document in documents:
                stands_in = document.name == self.stand_in
                yield "validation" if stands_in else split_of(document.name, self.validation), document
            return
        left = self.train_characters
        for document in documents:
            if left >= len(document.text):
                left -= len(document.text)
                yield "train", replace(document, last=document.last or left == 0)
                continue
            if left > 0:
                at = document.text.rfind("\n", 0, left) + 1 or left
                yield "train", Document(document.name, document.text[:at])
                document = replace(document, text=document.text[at:])
                left = 0
            yield "validation", document


def plan_split(sources: list[Source], validation: Validation, read: Callable[[], Iterable[Document]]) -> Split:
    """Decides the split of these files.

    Patterns hold out whole files. A share holds out documents by hash of their name: whole text files, single records. When
    there is one text file and nothing else, its last share is held out (`read` is called once to measure it); when
    no text file's hash falls to validation, the file with the least hash among the smaller ones does.
    Raises ClocheError when a pattern matches nothing, a share is not between 0 and 1, or a side would be empty.
    """
    if isinstance(validation, (int, float)):
        if not 0 < validation < 1:
            raise ClocheError(f"A validation share of {validation} is not between 0 and 1; 0.05 holds out a twentieth.")
        return _plan_share(sources, validation, read)
    validation = (validation,) if isinstance(validation, str) else tuple(validation)
    names = [source.name for source in sources]
    for pattern in validation:
        if all(split_of(name, [pattern]) == "train" for name in names):
            few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise ClocheError(f"No file matches the validation pattern {pattern!r}; the files are {few}.")
    if not validation:
        raise ClocheError("No validation file is named; give a share such as 0.05, or patterns of file names.")
    if all(split_of(name, validation) == "validation" for name in names):
        raise ClocheError("The validation patterns match every file; leave some to train on.")
    return Split(validation, "files that match " + ", ".join(validation))


def _plan_share(sources: list[Source], share: float, read: Callable[[], Iterable[Document]]) -> Split:
    percent = f"{100 * share:g}%"
    if any(source.kind != "text" for source in sources):
        return Split(share, f"{percent} of the documents by hash of their names")
    if len(sources) == 1:
        characters = sum(len(document.text) for document in read())
        return Split(share, f"the last {percent} of the file", train_characters=int(characters * (1 - share)))
    total = sum(source.size for source in sources)
    held_out = [source for source in sources if split_of(source.name, share) == "validation"]
    if sum(source.size for source in held_out) > LARGEST_VALIDATION * total:
        raise ClocheError(
            f"The hash of the names would hold out most of the corpus ({', '.join(s.name for s in held_out[:3])}); "
            "name the validation files instead."
        )
    if held_out:
        return Split(share, f"{percent} of the files by hash of their names")
    small = [source for source in sources if 0 < source.size <= LARGEST_STAND_IN * total]
    if not small:
        raise ClocheError(
            f"None of the {len(sources)} files falls to validation by the hash of its name; name the validation files instead."
        )
    stand_in = min(small, key=lambda source: _rank(source.name)).name
    return Split(share, f"the file {stand_in}, least by hash of its name", stand_in=stand_in)
