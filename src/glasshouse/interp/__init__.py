"""Instruments for looking inside a model: each takes a Glass and gives a Finding."""

from glasshouse.interp.density import activation_density
from glasshouse.interp.dictionary import dictionary_report
from glasshouse.interp.end_to_end import end_to_end
from glasshouse.interp.features import features_report
from glasshouse.interp.finding import Finding
from glasshouse.interp.harvest import activations, harvest
from glasshouse.interp.labels import token_labels
from glasshouse.interp.lens import logit_lens
from glasshouse.interp.look import Look, Progress, batched_windows, dictionary_name, look_inside, train_dictionary
from glasshouse.interp.probing import sparse_probing
from glasshouse.interp.recovered import Recovered, loss_recovered
from glasshouse.interp.route import Place, Route
from glasshouse.interp.subject import Subject

__all__ = [
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
    "logit_lens",
    "look_inside",
    "loss_recovered",
    "sparse_probing",
    "token_labels",
    "train_dictionary",
]
