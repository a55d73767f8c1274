"""Instruments for looking inside a model: each takes a Glass and returns a Finding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.drawing import Finding
    from cloche.interp.activation_ranges import activation_table
    from cloche.interp.arguments import fill_in, read_options
    from cloche.interp.attribution import (
        FrozenModel,
        attribution_patching,
        direct_attribution,
        logit_attribution,
        relevance_patching,
        token_attribution,
        unit_patching,
    )
    from cloche.interp.catalogue import find_instrument, instruments, options_of
    from cloche.interp.circuits import attention_patterns, head_scores, head_spectra, inhibition
    from cloche.interp.density import activation_density
    from cloche.interp.dictionaries import (
        DictionaryConfig,
        FeatureReader,
        Progress,
        Recovered,
        TokenBudget,
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
    from cloche.interp.landscape import hessian_spectrum, loss_barrier, match_weights
    from cloche.interp.lenses import (
        JacobianConfig,
        Lens,
        LensConfig,
        fit_jacobian,
        jacobian_lens,
        lens_comparison,
        logit_lens,
        open_lens,
        save_lens,
        train_lens,
        tuned_lens,
    )
    from cloche.interp.look import look_inside
    from cloche.interp.manifolds import (
        Contexts,
        Positions,
        TaskVariable,
        Variable,
        WordList,
        manifold,
        manifold_intervention,
        subspace_stability,
    )
    from cloche.interp.materials import Materials, held_out, held_out_prompts, open_dictionary, others_of
    from cloche.interp.metrics import KLDivergence, LogitDifference, LogProbability, Metric, Rank
    from cloche.interp.patching import ablation, activation_patching, patchscope, path_patching
    from cloche.interp.probing import analogies, difficulty, linear_probes, sparse_probing, token_labels
    from cloche.interp.records import DensityData, DictionaryData, FeaturesData, ProbingData
    from cloche.interp.route import FIRST, Place, Route
    from cloche.interp.similarity import model_diff, representation_similarity
    from cloche.interp.steering import (
        Concept,
        SteeringVector,
        feature_vector,
        function_vector,
        function_vectors,
        load_vector,
        mean_norm,
        read_concept,
        steering_comparison,
        steering_vector,
        token_vector,
    )
    from cloche.interp.structure import depth_stages, extreme_eigenvalues, model_graph, sharpness
    from cloche.interp.subject import Subject
    from cloche.interp.tracing import Onset, find_onset, trace

__all__ = [
    "FIRST",
    "Concept",
    "Contexts",
    "DensityData",
    "DictionaryConfig",
    "DictionaryData",
    "FeatureReader",
    "FeaturesData",
    "Finding",
    "FrozenModel",
    "JacobianConfig",
    "KLDivergence",
    "Lens",
    "LensConfig",
    "LogProbability",
    "LogitDifference",
    "Materials",
    "Metric",
    "Onset",
    "Place",
    "Positions",
    "ProbingData",
    "Progress",
    "Rank",
    "Recovered",
    "Route",
    "SteeringVector",
    "Subject",
    "TaskVariable",
    "TokenBudget",
    "Variable",
    "WordList",
    "ablation",
    "activation_density",
    "activation_patching",
    "activation_table",
    "activations",
    "analogies",
    "attention_patterns",
    "attribution_patching",
    "batched_windows",
    "depth_stages",
    "dictionary_name",
    "dictionary_report",
    "difficulty",
    "direct_attribution",
    "end_to_end",
    "extreme_eigenvalues",
    "feature_vector",
    "features_report",
    "fill_in",
    "find_instrument",
    "find_onset",
    "fit_jacobian",
    "function_vector",
    "function_vectors",
    "harvest",
    "head_scores",
    "head_spectra",
    "held_out",
    "held_out_prompts",
    "held_out_windows",
    "hessian_spectrum",
    "inhibition",
    "instruments",
    "jacobian_lens",
    "lens_comparison",
    "linear_probes",
    "load_vector",
    "logit_attribution",
    "logit_lens",
    "look_inside",
    "loss_barrier",
    "loss_recovered",
    "manifold",
    "manifold_intervention",
    "match_weights",
    "mean_norm",
    "model_diff",
    "model_graph",
    "open_dictionary",
    "open_lens",
    "options_of",
    "others_of",
    "patchscope",
    "path_patching",
    "read_concept",
    "read_options",
    "relevance_patching",
    "representation_similarity",
    "save_lens",
    "sharpness",
    "sparse_probing",
    "steering_comparison",
    "steering_vector",
    "subspace_stability",
    "token_attribution",
    "token_labels",
    "token_vector",
    "trace",
    "train_dictionary",
    "train_lens",
    "tuned_lens",
    "unit_patching",
]

__getattr__ = lazy(__name__)
