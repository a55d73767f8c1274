"""Tasks: questions with known answers, verifiers, corrupted twins and causal graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.tasks.arithmetic.add import Add
    from cloche.tasks.arithmetic.copying import Copy
    from cloche.tasks.arithmetic.greater_than import GreaterThan
    from cloche.tasks.arithmetic.modular_add import ModularAdd
    from cloche.tasks.arithmetic.parity import Parity
    from cloche.tasks.arithmetic.sorting import Sort
    from cloche.tasks.attacking import attacks
    from cloche.tasks.files.from_file import FromFile
    from cloche.tasks.files.prompt_pair import PromptPair
    from cloche.tasks.games.combination_lock import CombinationLock
    from cloche.tasks.games.nim import Nim
    from cloche.tasks.games.tic_tac_toe import TicTacToe
    from cloche.tasks.games.twenty_four import TwentyFour
    from cloche.tasks.grading import MARK, Score, final_answer
    from cloche.tasks.grammar.agreement import Agreement
    from cloche.tasks.grammar.analogy import Analogy
    from cloche.tasks.grammar.dyck import Dyck
    from cloche.tasks.grammar.indirect_object import IndirectObject
    from cloche.tasks.grammar.induction import Induction
    from cloche.tasks.graph import CausalGraph, Rule
    from cloche.tasks.listing import known_tasks, read_task
    from cloche.tasks.pairing import Pair, Pairs, pairs
    from cloche.tasks.recall.graph_path import GraphPath
    from cloche.tasks.recall.key_value import KeyValue
    from cloche.tasks.recall.rule_switch import RuleSwitch
    from cloche.tasks.task import Item, Task, Twin
    from cloche.tasks.world.planted_world import PlantedWorld

__all__ = [
    "MARK",
    "Add",
    "Agreement",
    "Analogy",
    "CausalGraph",
    "CombinationLock",
    "Copy",
    "Dyck",
    "FromFile",
    "GraphPath",
    "GreaterThan",
    "IndirectObject",
    "Induction",
    "Item",
    "KeyValue",
    "ModularAdd",
    "Nim",
    "Pair",
    "Pairs",
    "Parity",
    "PlantedWorld",
    "PromptPair",
    "Rule",
    "RuleSwitch",
    "Score",
    "Sort",
    "Task",
    "TicTacToe",
    "TwentyFour",
    "Twin",
    "attacks",
    "final_answer",
    "known_tasks",
    "pairs",
    "read_task",
]

__getattr__ = lazy(__name__)
