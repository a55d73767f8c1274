"""Which tasks there are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cloche.part import part_from_line
from cloche.part_text import find_class, known_names
from cloche.tasks.task import Task

FILES = (".jsonl", ".json", ".csv", ".tsv", ".txt")  # endings of files of questions

__all__ = ["known_tasks", "read_task"]


def known_tasks() -> list[tuple[type[Task], str]]:
    """Every task by name, those of imported modules and installed packages among them, with its settings and their
    defaults as text.

    >>> from cloche.tasks import known_tasks
    >>> [settings for task, settings in known_tasks() if task.__name__ == "Add"]
    ['']
    """
    found = []
    for name in known_names(Task):
        cls: type[Task] = find_class(name, Task, "task")  # type: ignore[type-abstract]
        fields = [field for field in dataclasses.fields(cls) if field.name != "renaming"]
        found.append((cls, ", ".join(_setting(field) for field in fields)))
    return found


def _setting(field: dataclasses.Field[object]) -> str:
    return field.name if field.default is dataclasses.MISSING else f"{field.name}={field.default!r}"


def read_task(text: str, where: str = "task") -> Task:
    """The task that a line names, such as `Add` or `ModularAdd(p=7)`; the name of a file of questions stands for `FromFile`.

    >>> from cloche.tasks import read_task
    >>> read_task("ModularAdd(p=7)").p
    7
    """
    if Path(text).suffix.lower() in FILES and (Path(text).is_file() or "(" not in text):
        text = f"FromFile({text!r})"
    return part_from_line(text, Task, where)
