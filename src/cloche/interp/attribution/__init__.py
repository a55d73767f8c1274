"""What a prediction is made of: direct contributions to logits, and gradients, to first order and integrated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.attribution.components import logit_attribution
    from cloche.interp.attribution.direct import direct_attribution
    from cloche.interp.attribution.frozen import FrozenModel
    from cloche.interp.attribution.gradients import attribution_patching, relevance_patching
    from cloche.interp.attribution.tokens import token_attribution
    from cloche.interp.attribution.units import unit_patching

__all__ = [
    "FrozenModel",
    "attribution_patching",
    "direct_attribution",
    "logit_attribution",
    "relevance_patching",
    "token_attribution",
    "unit_patching",
]

__getattr__ = lazy(__name__)
