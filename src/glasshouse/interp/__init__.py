"""Instruments for looking inside a model: each takes a Glass and gives a Finding."""

from glasshouse.interp.features import features_report
from glasshouse.interp.finding import Finding
from glasshouse.interp.harvest import activations, harvest
from glasshouse.interp.lens import logit_lens
from glasshouse.interp.look import Look, Progress, look_inside
from glasshouse.interp.subject import Subject

__all__ = [
    "Finding",
    "Look",
    "Progress",
    "Subject",
    "activations",
    "features_report",
    "harvest",
    "logit_lens",
    "look_inside",
]
