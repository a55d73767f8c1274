"""Learners: dictionaries fitted to signals. A learner is a value; `fit(signals)` gives a dictionary and an encoder over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.sparse.learners.base import Learner
    from cloche.sparse.learners.itda import ITDA
    from cloche.sparse.learners.ksvd import KSVD
    from cloche.sparse.learners.online import OnlineDictionaryLearning

__all__ = ["ITDA", "KSVD", "Learner", "OnlineDictionaryLearning"]

__getattr__ = lazy(__name__)
