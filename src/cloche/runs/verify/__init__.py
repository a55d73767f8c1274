"""Checks a run folder against what was written down about it: every file, every record, every checkpoint's weights."""

from cloche.runs.verify.examine import verify
from cloche.runs.verify.problem import Problem, Verification

__all__ = ["Problem", "Verification", "verify"]
