"""What a verification says."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class Problem:
    """One thing about a run folder: where, what, and how to fix it."""

    where: str  # path relative to the run folder
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where} {self.what}; {self.fix}"


@dataclass(frozen=True)
class Verification:
    """What is not as it was written (`problems`), and what cloche did not write but is no harm (`notes`)."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
