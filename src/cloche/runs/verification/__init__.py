"""Checks a run folder against what was written down about it: every file, every record, every checkpoint's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.runs.verification.examine import verify
    from cloche.runs.verification.problem import Problem, Verification

__all__ = ["Problem", "Verification", "verify"]

__getattr__ = lazy(__name__)
