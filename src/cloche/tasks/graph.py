"""Causal graphs of tasks: which variable is computed from which, and what changes when one of them is set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cloche.errors import ArgumentInvalid, shown
from cloche.part import nearest

__all__ = ["CausalGraph", "Rule", "Span"]

Span = tuple[int, int]  # first character and the one after the last


@dataclass(frozen=True)
class Rule:
    """A computed variable: `compute(*values of parents)`.

    >>> from cloche.tasks import Rule
    >>> Rule(("a", "b"), lambda a, b: a + b).compute(2, 3)
    5
    """

    parents: tuple[str, ...]
    compute: Callable[..., Any]


@dataclass(frozen=True)
class CausalGraph:
    """The variables of one item. `inputs` are given in the prompt at `spans`; `rules` compute the others, in order, the
    last of which is "answer".

    >>> from cloche.tasks import Add
    >>> task = Add()
    >>> graph = task.graph(task.example(level=2, seed=0))
    >>> graph.parents["answer"]
    ('carry_2', 'digit_2', 'digit_1')
    >>> graph.predict(a=40, b=2)["answer"]
    '42'
    """

    inputs: Mapping[str, Any]
    rules: Mapping[str, Rule]
    spans: Mapping[str, tuple[Span, ...]]

    @property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """The parents of every variable; inputs have none."""
        return {**dict.fromkeys(self.inputs, ()), **{name: rule.parents for name, rule in self.rules.items()}}

    @property
    def values(self) -> dict[str, Any]:
        """The value of every variable."""
        return self.predict()

    def predict(self, **changed: Any) -> dict[str, Any]:
        """The value of every variable when those in `changed` are set, computed ones too (Pearl's do-operator).

        Raises ArgumentInvalid for a variable that is not in the graph, or for a value that it cannot have.
        """
        for name in changed:
            if name not in self.inputs and name not in self.rules:
                raise ArgumentInvalid(f"The graph has no variable {name!r}{nearest(name, self.parents)}")
        values = {**self.inputs, **changed}
        for name, rule in self.rules.items():
            if name not in changed:
                values[name] = _computed(name, rule, [values[parent] for parent in rule.parents])
        return values


def _computed(name: str, rule: Rule, given: list[Any]) -> Any:
    try:
        return rule.compute(*given)
    except Exception as error:
        values = ", ".join(f"{parent}={shown(value)}" for parent, value in zip(rule.parents, given, strict=True))
        raise ArgumentInvalid(
            f"The rule for {name!r} raised {type(error).__name__}: {error}, where {values[:200]}; correct the "
            "rule, or set variables to values of the kind that they have."
        ) from error
