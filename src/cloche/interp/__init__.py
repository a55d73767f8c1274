"""Instruments for looking inside a model: each takes a Glass and gives a Finding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.drawing import Finding
    from cloche.interp.density import activation_density
    from cloche.interp.dictionaries import (
        FeatureReader,
        Look,
        Progress,
        Recovered,
        batched_windows,
        dictionary_name,
        dictionary_report,
        end_to_end,
        features_report,
        held_out_windows,
        loss_recovered,
        train_dictionary,
    )
    from cloche.interp.harvesting import activations, harvest
    from cloche.interp.lens import logit_lens
    from cloche.interp.look import look_inside
    from cloche.interp.probing import sparse_probing, token_labels
    from cloche.interp.route import FIRST, Place, Route
    from cloche.interp.subject import Subject

__all__ = [
    "FIRST",
    "FeatureReader",
    "Finding",
    "Look",
    "Place",
    "Progress",
    "Recovered",
    "Route",
    "Subject",
    "activation_density",
    "activations",
    "batched_windows",
    "dictionary_name",
    "dictionary_report",
    "end_to_end",
    "features_report",
    "harvest",
    "held_out_windows",
    "logit_lens",
    "look_inside",
    "loss_recovered",
    "sparse_probing",
    "token_labels",
    "train_dictionary",
]

__getattr__ = lazy(__name__)
