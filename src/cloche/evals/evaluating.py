"""How many questions of a task a model answers: by what it writes, and by which answer it finds likeliest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from cloche.drawing import Finding, Lines, Panel, Provenance, Series, Table
from cloche.errors import ContextExceeded, TaskInvalid, require_whole, shown
from cloche.evals.answering import Answered, answer_items, items_of, scored_choices, shots_of
from cloche.evals.intervals import newcombe, wilson
from cloche.evals.shots import Labels, unseen_words
from cloche.glass import Glass
from cloche.part import part_from_line
from cloche.tasks import Item, Task

__all__ = ["eval", "tasks_of"]

FRESH = 1_000_000  # added to the seed of fresh items, which no other draw uses
SHOWN, CHARACTERS = 5, 120  # items of each task that are shown with what was written, and characters of their prompts
NOTE = (
    "accuracy: what was written is the answer and nothing else; begins: it begins with the answer; partial: the share of a "
    "wrong answer that is right; choice: the likeliest choice is right; stock: accuracy on items that were not made afresh."
)


def eval(
    subject: Glass,
    tasks: Sequence[Task],
    shots: int = 0,
    limit: int = 100,
    seed: int = 0,
    level: int | None = None,
    fresh: int | None = None,
    controls: bool = True,
) -> Finding:
    """Accuracy of a model on tasks, with 95% intervals (Wilson) and the exact chance rate as the null.

    Each task gives about `limit` test items (problems that no training split holds), equally many of every level or all of one
    `level`; before each stand `shots` training items of the same level. The model continues the prompt greedily to the end of
    the line, and the task's verifier grades what it wrote: `accuracy` counts right answers only. `choice` is the share of
    items whose likeliest choice is right, by log-probability, where a task lists at most 50 choices. Figures are pooled over
    the items of all tasks; `data` has them per task and level, and choices by log-probability per byte.

    With shots and `controls`, the same items follow shots with one another's answers (`shuffled_labels`) and, where all items
    have the same few choices, with nonsense words in their place (`unseen_labels`, over the items whose word a shot shows): a
    model that reads the shots loses in the first and not in the second (`shuffled_choice` and `unseen_choice` are the same for
    `choice`). `fresh` draws new items in another isomorphic form,
    made after any training; `gap` is then what the accuracy loses to them (interval of Newcombe 1998).

    Items that have, with their shots and answer, more tokens than the model's context are left out, and a note counts them.
    Raises ClocheError for a model without a tokenizer, a task without items, and ContextExceeded if no item is within the
    context.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche import evals
    >>> from cloche.tasks import Add
    >>> tokenizer = cloche.train_bpe(["a"], vocab=259)
    >>> glass = cloche.Glass(LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0), tokenizer)
    >>> finding = evals.eval(glass, [Add()], limit=8, level=1)
    >>> finding.figures["accuracy"], finding.data["tasks"][0]["items"]
    (0.0, 8)
    """
    require_whole(1, limit=limit)
    require_whole(0, shots=shots, fresh=0 if fresh is None else fresh)
    require_whole(seed=seed)
    chosen = tasks_of(tasks)
    draws = [  # all before the first is evaluated, so that what cannot be drawn costs nothing
        [_Draw(task, items_of(task, limit, level, seed, shots), shots, seed)]
        + ([] if fresh is None else [_fresh(task, limit, level, fresh, shots)])
        for task in chosen
    ]
    notes: list[str] = []
    rows = [row for drawn in draws if (row := _graded(subject, drawn, controls and shots > 0, notes)) is not None]
    if not rows:
        raise ContextExceeded(notes[0])
    data = {"limit": limit, "seed": seed, "level": level, "fresh": fresh, "shots": shots, "tasks": rows, "notes": notes}
    figures, null = _figures(rows, fresh is not None)
    about = Provenance("eval", subject.checkpoint, seed=seed)
    return Finding(about, _summary(rows, figures, null), figures, data, null=null, panels=_panels(rows))


def tasks_of(given: Sequence[Task | str] | Task | str) -> list[Task]:
    """Each of the tasks once, as items that are there twice would narrow an interval; a line of text is a task too."""
    named = [given] if isinstance(given, str | Task) else given
    if not isinstance(named, Sequence):
        raise TaskInvalid(f"{shown(named)} is no list of tasks; give one such as [Add()].")
    chosen = list(dict.fromkeys(_task(each) for each in named))
    if not chosen:
        raise TaskInvalid("There is no task to evaluate; name one, such as Add (`cloche tasks list` has them all).")
    return chosen


def _task(given: Task | str) -> Task:
    task = part_from_line(given, Task, "tasks") if isinstance(given, str) else given
    if not isinstance(task, Task):
        raise TaskInvalid(f"{shown(task)} is no task; give one such as Add() (`cloche tasks list` has them all).")
    return task


class _Draw(NamedTuple):
    """Items of a task, and the shots before them."""

    task: Task
    items: list[Item]
    shots: int
    seed: int


def _fresh(task: Task, limit: int, level: int | None, fresh: int, shots: int) -> _Draw:
    """Items that were made after any training, in another isomorphic form."""
    task, seed = task.variant(fresh + 1), fresh + FRESH
    return _Draw(task, items_of(task, limit, level, seed, shots), shots, seed)


def _graded(subject: Glass, drawn: Sequence[_Draw], controls: bool, notes: list[str]) -> dict[str, Any] | None:
    """The row of one task: of its fresh items if there are any, with the accuracy on the others as `stock`. None if no item
    is within the context; what is left out is added to `notes`."""
    answered = []
    for each in drawn:
        answered.append(answer_items(subject, each.task, each.items, each.shots, each.seed))
        if left := len(each.items) - len(answered[-1]):
            known = {one.item.problem_id for one in answered[-1]}
            levels = sorted({item.level for item in each.items if item.problem_id not in known})
            notes.append(_left_out(left, each, levels, subject.net.most_tokens))
        unscored = sum(one.choice is None and bool(scored_choices(each.task, one.item)) for one in answered[-1])
        if unscored:
            notes.append(
                f"The choices of {unscored} items of {each.task} are not scored: one is beyond the model's context."
            )
    if not all(answered):
        return None
    row: dict[str, Any] = {"task": str(drawn[0].task), "shots": drawn[0].shots}
    row["beyond_context"] = sum(len(each.items) for each in drawn) - sum(map(len, answered))
    if len(drawn) > 1:
        row["stock"], row["stock_items"] = _accuracy(answered[0]), len(answered[0])
    return row | _row(answered[-1]) | (_controls(subject, drawn[-1]) if controls else {})


def _left_out(left: int, drawn: _Draw, levels: Sequence[int], context: int | None) -> str:
    fix = "give fewer shots or a lower level" if len(drawn.task.levels) > 1 else "give fewer shots or shorter items"
    of = f"level{'s' if len(levels) > 1 else ''} {', '.join(map(str, levels))}"
    return (
        f"{left} of {len(drawn.items)} items of {drawn.task}, of {of}, are left out because they have with shots and answer "
        f"more tokens than the model's context of {context:,}; {fix}."
    )


def _controls(subject: Glass, drawn: _Draw) -> dict[str, float]:
    """Accuracy and share of likeliest choices that are right, after shots with shuffled and with unseen labels."""
    task, items, shots, seed = drawn
    asked: dict[Labels, Sequence[Item]] = {"shuffled": items if shots > 1 else ()}
    if unseen_words(task, items, seed) is not None:
        levels = {item.level for item in items}
        shown = {(level, shot.answer) for level in levels for shot in shots_of(task, level, shots, seed)}
        asked["unseen"] = [item for item in items if (item.level, item.answer) in shown]  # whose word the shots tell
    found = {}
    for labels, told in asked.items():
        if answered := answer_items(subject, task, told, shots, seed, labels) if told else []:
            share = _share(answered)
            found[f"{labels}_labels"] = share["accuracy"]
            if share["choice"] is not None:
                found[f"{labels}_choice"] = share["choice"]
    return found


def _accuracy(answered: Sequence[Answered]) -> float:
    return fmean(each.strict for each in answered)


def _row(answered: Sequence[Answered]) -> dict[str, Any]:
    """Figures of one task: over all items, and by level."""
    levels = {}
    for level in sorted({each.item.level for each in answered}):
        levels[str(level)] = _share([each for each in answered if each.item.level == level])
    partial, begins = (
        fmean(values) for values in zip(*((each.partial, each.begins) for each in answered), strict=True)
    )
    shown = [{"prompt": each.item.prompt, "answer": each.item.answer, "written": each.written} for each in answered]
    return _share(answered) | {"partial": partial, "begins": begins, "examples": shown[:SHOWN], "levels": levels}


def _share(answered: Sequence[Answered]) -> dict[str, Any]:
    low, high = wilson(sum(each.strict for each in answered), len(answered))
    chosen = [each for each in answered if each.choice is not None]
    return {
        "items": len(answered),
        "accuracy": _accuracy(answered),
        "low": low,
        "high": high,
        "chance": fmean(each.chance for each in answered),
        "choice_items": len(chosen),
        "choice_chance": fmean(each.chance for each in chosen) if chosen else None,
        "choice": fmean(bool(each.choice) for each in chosen) if chosen else None,
        "choice_per_byte": fmean(bool(each.per_byte) for each in chosen) if chosen else None,
    }


def _figures(rows: Sequence[Mapping[str, Any]], fresh: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Pooled over the items of all tasks, and what guessing gives."""
    n = sum(row["items"] for row in rows)

    def over(key: str, items: str = "items") -> float | None:
        have = [row for row in rows if row.get(key) is not None]
        return sum(row[key] * row[items] for row in have) / sum(row[items] for row in have) if have else None

    accuracy = over("accuracy") or 0.0
    low, high = wilson(accuracy * n, n)
    figures = {"accuracy": accuracy, "low": low, "high": high}
    for key in ("choice", "begins", "partial", "shuffled_labels", "unseen_labels"):
        value = over(key, "choice_items" if key == "choice" else "items")
        if value is not None:
            figures[key] = value
    null = {"accuracy": over("chance") or 0.0}
    if "choice" in figures:
        null["choice"] = over("choice_chance", "choice_items") or 0.0
    if fresh:
        of = sum(row["stock_items"] for row in rows)
        stock = over("stock", "stock_items") or 0.0
        low, high = newcombe((stock * of, of), (accuracy * n, n))
        figures |= {"gap": stock - accuracy, "gap_low": low, "gap_high": high}
    return figures, null


def _summary(rows: Sequence[Mapping[str, Any]], figures: Mapping[str, float], null: Mapping[str, float]) -> str:
    n = sum(row["items"] for row in rows)
    names = rows[0]["task"] if len(rows) == 1 else f"{len(rows)} tasks"
    shots = rows[0]["shots"]
    return (
        f"{figures['accuracy']:.1%} of {n} items of {names} are answered right (95% interval {figures['low']:.1%} to "
        f"{figures['high']:.1%}; chance {null['accuracy']:.1%}) with {shots} {'shot' if shots == 1 else 'shots'}"
        + (f"; the likeliest choice is right in {figures['choice']:.1%}." if "choice" in figures else ".")
    )


def _panels(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    keys = [
        "items",
        "accuracy",
        "low",
        "high",
        "chance",
        "begins",
        "partial",
        "choice",
        "stock",
        "shuffled_labels",
        "shuffled_choice",
        "unseen_labels",
        "unseen_choice",
    ]
    keys = [key for key in keys if any(row.get(key) is not None for row in rows)]
    body = tuple((row["task"], *(row.get(key) for key in keys)) for row in rows)
    forms = ("token", *("count" if key == "items" else "percent" for key in keys))
    table = Table("Right answers", ("task", *(key.replace("_", " ") for key in keys)), body, forms, NOTE)  # type: ignore[arg-type]
    examples = tuple(
        (row["task"], each["prompt"][-CHARACTERS:], each["answer"], each["written"])
        for row in rows
        for each in row["examples"]
    )
    written = Table("What the model wrote", ("task", "prompt", "answer", "written"), examples)
    return [table, written, *(_by_level(row) for row in rows if len(row["levels"]) > 1)]


def _by_level(row: Mapping[str, Any]) -> Panel:
    levels = list(row["levels"].values())

    def values(key: str) -> tuple[float | None, ...]:
        return tuple(level[key] for level in levels)

    series = (
        Series("written", values("accuracy"), values("low"), values("high")),
        *([Series("likeliest choice", values("choice"))] if row["choice"] is not None else []),
        Series("chance", values("chance"), control=True),
    )
    return Lines(
        f"{row['task']}: right answers by level",
        tuple(map(float, row["levels"])),
        series,
        "level",
        "accuracy",
        "percent",
        0.0,
        1.0,
    )
