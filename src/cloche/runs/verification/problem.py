"""What a verification says."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloche.runs.records import ProblemRecord


@dataclass(frozen=True, order=True)
class Problem:
    """One thing about a run folder: where, what, and how to fix it.

    >>> run = cloche.Run.create("first", recipe="", seed=0, command=["cloche"])
    >>> _ = (run.path / "recipe.toml").write_text("changed")
    >>> [(problem.where, problem.fix) for problem in cloche.verify("first").problems]
    [('recipe.toml', ...)]
    """

    where: str  # path relative to the run folder
    what: str
    fix: str

    def record(self) -> ProblemRecord:
        """As JSON."""
        return {"where": self.where, "what": self.what, "fix": self.fix}

    def __str__(self) -> str:
        return f"{self.where} {self.what}; {self.fix}"


@dataclass(frozen=True)
class Verification:
    """What is not as it was written (`problems`), and what cloche did not write but is no harm (`notes`).

    >>> run = cloche.Run.create("first", recipe="", seed=0, command=["cloche"])
    >>> _ = (run.path / "notes.txt").write_text("mine")
    >>> found = cloche.verify("first")
    >>> found.problems, [note.where for note in found.notes]
    ([], ['notes.txt'])
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
