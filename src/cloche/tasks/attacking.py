"""Texts that game a verifier. Each holds the right answer, or the form of one, without answering; all must score 0."""

from __future__ import annotations

from random import Random

from cloche.tasks.faults import faults_of
from cloche.tasks.grading import MARK
from cloche.tasks.task import Item, Task

__all__ = ["attacks"]

FLOOD = 10_000  # answers in the flood
LISTED = 50  # of the choices


def attacks(task: Task, item: Item, seed: int = 0) -> dict[str, str]:
    """Seven attacks on the verifier of an item, by name.

    >>> from cloche.tasks import Add, attacks
    >>> task = Add()
    >>> item = task.example(level=2, seed=0)
    >>> [name for name, text in attacks(task, item).items() if task.verify(item, text).strict]
    []
    """
    rng = Random(f"attacks {seed}")
    choices = list(task.offered(item))[:LISTED]
    if not choices:
        with faults_of(task):
            choices = [str(task.guess(item.values, rng)) for _ in range(LISTED)]
    choices = list(dict.fromkeys([*choices, item.answer]))
    wrong = next((each for each in choices if not task.is_right(item.values, each)), f"not {item.answer}")
    return {
        "empty": "",
        "echo": item.prompt,
        "every option": " or ".join([*choices, wrong]),
        "right, then another": f"{MARK} {item.answer}\n{MARK} {wrong}",
        "flood": f"{item.answer} " * FLOOD,
        "quoted prompt": f'You asked "{item.prompt}{item.gap}{item.answer}".',
        "format only": f"{MARK} ",
    }
