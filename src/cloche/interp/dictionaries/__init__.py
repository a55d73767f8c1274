"""Dictionaries of a model's activations: training along a route, evaluation by the loss recovered, and feature reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.dictionaries.features import FeatureReader, features_report, held_out_windows
    from cloche.interp.dictionaries.finishing import end_to_end
    from cloche.interp.dictionaries.learn import (
        DictionaryConfig,
        Progress,
        TokenBudget,
        batched_windows,
        dictionary_name,
        train_dictionary,
    )
    from cloche.interp.dictionaries.recovered import Recovered, loss_recovered
    from cloche.interp.dictionaries.report import dictionary_report

__all__ = [
    "DictionaryConfig",
    "FeatureReader",
    "Progress",
    "Recovered",
    "TokenBudget",
    "batched_windows",
    "dictionary_name",
    "dictionary_report",
    "end_to_end",
    "features_report",
    "held_out_windows",
    "loss_recovered",
    "train_dictionary",
]

__getattr__ = lazy(__name__)
