"""`cloche tasks`: lists the tasks and shows their items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cloche.cli.help import Command, group
from cloche.cli.options import LARGEST_SEED, AsJson, Data
from cloche.cli.outputs import ItemRecord, TaskRecord, TaskShown, TasksListed
from cloche.cli.streams import emit

if TYPE_CHECKING:
    from cloche.tasks import Item, Task

tasks = group("Tasks with known answers: list them, show their items.", "cloche tasks show Add")


@tasks.command("list", cls=Command, epilog="Example: cloche tasks list")
def list_tasks(as_json: AsJson = False) -> None:
    """List every task with its levels."""
    from cloche.cli.looking.look import about
    from cloche.tasks import known_tasks

    found: list[TaskRecord] = [
        {"name": cls.__name__, "about": about(cls.__doc__), "levels": list(cls.levels), "settings": settings}
        for cls, settings in known_tasks()
    ]
    if as_json:
        answer: TasksListed = {"tasks": found}
        emit(answer)
        return
    wide = max(len(each["name"]) for each in found)
    for each in found:
        levels = each["levels"]
        print(f"{each['name']:<{wide}}  levels {levels[0]} to {levels[-1]}  {each['about']}")
        if each["settings"]:
            print(f"{'':<{wide}}  settings: {each['settings']}")


@tasks.command("show", cls=Command, epilog="Example: cloche tasks show Add --level 3")
def show_task(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task, such as Add or 'ModularAdd(p=7)'.")],
    level: Annotated[int | None, typer.Option(metavar="N", help="Level of difficulty; by default the easiest.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", min=1, max=10_000, help="Items to show.")] = 3,
    seed: Annotated[
        int, typer.Option(metavar="SEED", min=0, max=LARGEST_SEED, help="The same seed draws the same items.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Show items of a task.

    With their prompt, answer, worked steps, chance of guessing, and corrupted twin.
    """
    from cloche.errors import TaskInvalid
    from cloche.tasks import read_task

    chosen: Task = read_task(task, "task")
    level = chosen.levels[0] if level is None else level
    items = chosen.examples(count, level, seed)
    if not items:
        raise TaskInvalid(f"{chosen} has no items at level {level}; choose another level or file.")
    if as_json:
        parents = {name: list(above) for name, above in chosen.graph(items[0]).parents.items()}
        answer: TaskShown = {
            "task": chosen.to_line(),
            "level": level,
            "items": [_record(chosen, item) for item in items],
            "parents": parents,
        }
        emit(answer)
        return
    for item in items:
        print(_text(chosen, item))
    computed = [f"{name} from {', '.join(above)}" for name, above in chosen.graph(items[0]).parents.items() if above]
    print("causal graph of the first: " + "; ".join(computed))


@tasks.command("check", cls=Command, epilog="Example: cloche tasks check Add Copy --data corpus/")
def check_corpus(
    names: Annotated[list[str], typer.Argument(metavar="TASK...", help="Tasks, such as Add or 'ModularAdd(p=7)'.")],
    data: Data = None,
    overlap: Annotated[
        int, typer.Option("--words", metavar="N", min=2, max=100, help="Consecutive words that count as overlap.")
    ] = 8,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=10**6, help="Test items of each task.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Check whether a corpus contains test items of tasks.

    Counts the items that it contains word for word, or in part.
    """
    from cloche.cli.looking.look import recorded
    from cloche.data import documents, standard_library
    from cloche.evals import contamination
    from cloche.tasks import read_task

    chosen = [read_task(name, "task") for name in names]
    found = contamination(chosen, documents(data or standard_library()), overlap, limit)
    if as_json:
        emit(recorded(found, None))
        return
    print(found.text())


def _record(task: Task, item: Item) -> ItemRecord:
    twin = item.corrupted
    return {
        "prompt": item.prompt,
        "answer": item.answer,
        "level": item.level,
        "problem_id": item.problem_id,
        "split": item.split,
        "chance": float(task.chance_of(item)),
        "choices": list(task.offered(item)),
        "steps": list(item.steps),
        "variables": {name: str(value) for name, value in item.values.items()},
        "corrupted_prompt": None if twin is None else twin.prompt,
        "corrupted_answer": None if twin is None else twin.answer,
        "corrupted_variable": None if twin is None else twin.variable,
    }


def _text(task: Task, item: Item) -> str:
    chance = task.chance_of(item)
    lines = [f"{item.prompt}{item.gap}[{item.answer}]", f"  {item.split} problem {item.problem_id}, chance {chance}"]
    lines += [f"  {step}" for step in item.steps]
    if item.corrupted is not None:
        twin = item.corrupted
        lines.append(f"  corrupted ({twin.variable}): {twin.prompt}{item.gap}[{twin.answer}]")
    return "\n".join(lines) + "\n"
