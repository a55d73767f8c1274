"""Rules for duplicates, and what they take out of a corpus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cloche.data.reading import Document
from cloche.part import Part

Read = Callable[[], Iterable[tuple[str, Document]]]  # one pass over the pieces of all documents, with their side

NAMED = 20  # documents


@dataclass
class Removed:
    """Which documents are left out, by their number in the order of reading, and figures of them.

    A document that is divided between training and validation is two; `kept` counts them as they end, so the parts of one
    corpus must be given to it in order, and `rewind` begins again. names: those of the first documents left out, at most 20.

    >>> import numpy as np
    >>> from cloche.data import Document
    >>> from cloche.data.duplicates import Removed
    >>> removed = Removed(np.array([False, True]))
    >>> [document.name for _, document in removed.kept([("train", Document("a", "x")), ("train", Document("b", "x"))])]
    ['a']
    >>> removed.names
    ['b']
    """

    drop: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    figures: dict[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    _at: int = 0

    def kept(self, divided: Iterable[tuple[str, Document]]) -> Iterator[tuple[str, Document]]:
        """The pieces of the documents that are kept."""
        for side, document in divided:
            if self._at >= len(self.drop) or not self.drop[self._at]:
                yield side, document
            elif document.last and len(self.names) < NAMED:
                self.names.append(document.name)
            self._at += document.last

    def rewind(self) -> None:
        """Before the documents are read again from the first."""
        self._at = 0
        self.names.clear()


@dataclass(frozen=True)
class Duplicates(Part, ABC):
    """Base of rules for duplicates. A subclass defines `find`.

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> from cloche.data import Document, Duplicates
    >>> from cloche.data.duplicates import Removed
    >>> @dataclass(frozen=True)
    ... class EverySecond(Duplicates):
    ...     def find(self, read):
    ...         count = sum(document.last for _, document in read())
    ...         return Removed(np.arange(count) % 2 == 1)
    >>> EverySecond().find(lambda: [("train", Document(name, name)) for name in "abc"]).drop.tolist()
    [False, True, False]
    """

    @abstractmethod
    def find(self, read: Read) -> Removed:
        """The documents to leave out. `read()` reads the corpus once more, in the same order."""
