"""Steering: directions added to the stream, what they do to a model's predictions, and how well they detect a concept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.steering.comparing import steering_comparison
    from cloche.interp.steering.concepts import Concept, read_concept
    from cloche.interp.steering.function_testing import function_vectors
    from cloche.interp.steering.functions import function_vector
    from cloche.interp.steering.making import feature_vector, mean_norm, steering_vector, token_vector
    from cloche.interp.steering.vectors import SteeringVector, load_vector

__all__ = [
    "Concept",
    "SteeringVector",
    "feature_vector",
    "function_vector",
    "function_vectors",
    "load_vector",
    "mean_norm",
    "read_concept",
    "steering_comparison",
    "steering_vector",
    "token_vector",
]

__getattr__ = lazy(__name__)
