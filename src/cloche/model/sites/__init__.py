"""Sites, edits, plans and results: the public surface for engines such as generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.model.sites.checks import check_ids, check_pad, row_shape
    from cloche.model.sites.declared import DeclaredSite, each_pair, each_token
    from cloche.model.sites.dialects import in_our_words
    from cloche.model.sites.edits import Edit, selected
    from cloche.model.sites.plan import (
        Key,
        Operation,
        Plan,
        make_plan,
        narrowed,
        position_axis,
        spanned,
    )
    from cloche.model.sites.proof import Proof, prove_sites
    from cloche.model.sites.recorder import NULL_RECORDER, Adjoint, Keeping, NullRecorder, PlanRecorder, Recorder
    from cloche.model.sites.result import Result
    from cloche.model.sites.slots import PromptSlots, make_positions
    from cloche.model.sites.vocabulary import Layers, Site, Sites, site

__all__ = [
    "NULL_RECORDER",
    "Adjoint",
    "DeclaredSite",
    "Edit",
    "Keeping",
    "Key",
    "Layers",
    "NullRecorder",
    "Operation",
    "Plan",
    "PlanRecorder",
    "PromptSlots",
    "Proof",
    "Recorder",
    "Result",
    "Site",
    "Sites",
    "check_ids",
    "check_pad",
    "each_pair",
    "each_token",
    "in_our_words",
    "make_plan",
    "make_positions",
    "narrowed",
    "position_axis",
    "prove_sites",
    "row_shape",
    "selected",
    "site",
    "spanned",
]

__getattr__ = lazy(__name__)
