"""Learners: dictionaries fitted to signals. `learner.fit(signals)` returns a dictionary and an encoder over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.sparse.learners.base import Learner
    from cloche.sparse.learners.itda import ITDA
    from cloche.sparse.learners.keep import PICTURE, Card, load_dictionary, save_dictionary
    from cloche.sparse.learners.ksvd import KSVD
    from cloche.sparse.learners.online import OnlineDictionaryLearning
    from cloche.sparse.learners.patches import Tiling, draw, tiling

__all__ = [
    "ITDA",
    "KSVD",
    "PICTURE",
    "Card",
    "Learner",
    "OnlineDictionaryLearning",
    "Tiling",
    "draw",
    "load_dictionary",
    "save_dictionary",
    "tiling",
]

__getattr__ = lazy(__name__)
