"""Learners: dictionaries fitted to signals. A learner is a value; `fit(signals)` gives a dictionary and an encoder over it."""

from glasshouse.sparse.learners.base import Learner
from glasshouse.sparse.learners.itda import ITDA
from glasshouse.sparse.learners.ksvd import KSVD
from glasshouse.sparse.learners.online import OnlineDictionaryLearning

__all__ = ["ITDA", "KSVD", "Learner", "OnlineDictionaryLearning"]
