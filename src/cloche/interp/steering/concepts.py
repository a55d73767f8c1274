"""A concept as texts: those that have it, and otherwise similar ones that do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cloche.errors import FileTooLarge, PromptInvalid, RecordInvalid, shown
from cloche.interp.steering.vectors import unit_of
from cloche.interp.subject import Subject, encode, read_prompts
from cloche.missing import require_file, unreadable
from cloche.model import Edit, Network, Site

FEWEST = 2  # texts of each kind
LARGEST = 1 << 28  # bytes of a file


@dataclass(frozen=True)
class Concept:
    """Contexts (texts or ids) with a concept and contexts without; the model's state after the last token is compared. If
    there are equally many they are pairs, in order, that should differ in nothing else.

    >>> from cloche.interp import Concept
    >>> Concept("plural", ("two cats", "three dogs") * 2, ("one cat", "one dog") * 2).paired
    True
    """

    name: str
    positive: tuple[Any, ...]
    negative: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "positive", tuple(self.positive))
        object.__setattr__(self, "negative", tuple(self.negative))
        few = min(len(self.positive), len(self.negative))
        if few < FEWEST:
            raise PromptInvalid(
                f"The concept {shown(self.name)} has {few} texts of one kind; give at least {FEWEST} of each."
            )

    @property
    def paired(self) -> bool:
        return len(self.positive) == len(self.negative)

    def halves(self) -> tuple[Concept, Concept]:
        """The texts at even places, to make vectors from, and those at odd places, to test them on."""
        one, two = (Concept(self.name, self.positive[start::2], self.negative[start::2]) for start in (0, 1))
        return one, two


def read_concept(path: Path | str) -> Concept:
    """A concept from a file of JSON lines, {"positive": TEXT, "negative": TEXT}, named after the file.

    Raises FileMissing, FileUnreadable, FileTooLarge, and RecordInvalid naming the line that is not such a record.

    >>> from pathlib import Path
    >>> from cloche.interp import read_concept
    >>> line = '{"positive": "two cats", "negative": "one cat"}'
    >>> _ = Path("plural.jsonl").write_text(f"{line}\\n" * 4)
    >>> read_concept("plural.jsonl").name
    'plural'
    """
    path = Path(path)
    if require_file(path, "a file of records with a positive and a negative text").st_size > LARGEST:
        raise FileTooLarge(f"{path} is larger than {LARGEST >> 20} MiB; give a concept of fewer texts.")
    positive, negative = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # other line breaks may be inside a text
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            pair = record["positive"], record["negative"]
            "".join(pair).encode()  # a lone surrogate is not text
        except (ValueError, LookupError, TypeError, RecursionError):
            pair = None, None
        if not all(isinstance(text, str) and text for text in pair):
            raise RecordInvalid(
                f'{path}:{number} is not a record such as {{"positive": "two cats", "negative": "one cat"}}; correct it or '
                "remove it."
            )
        positive.append(pair[0])
        negative.append(pair[1])
    return Concept(path.stem, tuple(positive), tuple(negative))


class ConceptStates:
    """The positive and negative texts of a concept as ids, and the site's value at the last token of each, [text, width]."""

    def __init__(self, subject: Subject, concept: Concept, site: Site) -> None:
        self.net, self.site, self.paired = subject.net, site, concept.paired
        self.positive_ids, self.negative_ids = (
            [encode(subject, text)[1] for text in texts] for texts in (concept.positive, concept.negative)
        )
        self.positive, self.negative = (self._states(ids) for ids in (self.positive_ids, self.negative_ids))
        self.unit = unit_of(torch.cat([self.positive, self.negative]))

    def _states(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        def read(ids: Tensor) -> Tensor:
            value: Tensor = self.net.run(ids, save=[self.site], logits=False)[self.site]
            return value[:, -1].float().cpu()

        with torch.no_grad():
            return read_prompts(prompts, read)


@torch.no_grad()
def predictions(net: Network, prompts: Sequence[Sequence[int]], edits: Sequence[Edit] = ()) -> Tensor:
    """Log-probabilities [prompt, vocab] of the next token."""
    return read_prompts(prompts, lambda ids: net.run(ids, edits=edits).logits[:, -1].float().log_softmax(-1).cpu())
