"""Checks a run folder against what was written down about it: every file, every record, every checkpoint's weights."""

from cloche.runs.verification.examine import verify
from cloche.runs.verification.problem import Problem, Verification

__all__ = ["Problem", "Verification", "verify"]
