"""Tasks: questions with known answers, verifiers, corrupted twins and causal graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.tasks.arithmetic.add import Add
    from cloche.tasks.attacking import attacks
    from cloche.tasks.grading import MARK, Score, final_answer
    from cloche.tasks.graph import CausalGraph, Rule
    from cloche.tasks.listing import known_tasks
    from cloche.tasks.pairing import Pair, Pairs, pairs
    from cloche.tasks.task import Item, Task, Twin

__all__ = [
    "MARK",
    "Add",
    "CausalGraph",
    "Item",
    "Pair",
    "Pairs",
    "Rule",
    "Score",
    "Task",
    "Twin",
    "attacks",
    "final_answer",
    "known_tasks",
    "pairs",
]

__getattr__ = lazy(__name__)
