"""How many questions of a task a model answers: by what it writes, and by which answer it finds likeliest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cloche.drawing import Finding, Lines, Panel, Provenance, Series, Table
from cloche.errors import ArgumentRange, PromptInvalid, TaskInvalid, shown
from cloche.evals.intervals import newcombe, wilson
from cloche.evals.scoring import continuation_ids, score_ids
from cloche.evals.shots import Labels, Prompt, few_shot, unseen_words
from cloche.glass import Glass
from cloche.part import part_from_line
from cloche.tasks import Item, Task

__all__ = ["Answered", "answer_items", "eval", "items_of"]

ROWS = 32  # texts written at a time
SPARE = 4  # tokens written beyond the longest answer, so that a longer one shows
FRESH = 1_000_000  # added to the seed of fresh items, which no other draw uses
SHOWN, CHARACTERS = 5, 120  # items of each task that are shown with what was written, and characters of their prompts
NOTE = (
    "accuracy: what was written is the answer and nothing else; begins: it begins with the answer; partial: the share of a "
    "wrong answer that is right; choice: the likeliest choice is right; stock: accuracy on items that were not made afresh."
)
MOST_CHOICES = 50  # of an item, that are scored


@dataclass(frozen=True)
class Answered:
    """One item as a model answered it: `strict` and `partial` of what it wrote, `begins` whether that begins with the stored
    answer as a whole word, `choice` whether the likeliest choice is
    right (None where the task lists none), `per_byte` the same by log-probability per byte, and `chance` of a guess.

    >>> from cloche.evals import Answered
    >>> from cloche.tasks import Add
    >>> Answered(Add().example(1), "12", 0.0, 0.0, False, None, None, 0.1).written
    '12'
    """

    item: Item
    written: str
    strict: float
    partial: float
    begins: bool
    choice: bool | None
    per_byte: bool | None
    chance: float


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

    Raises ClocheError for a model without a tokenizer, a task without items, and prompts longer
    than the model's context.

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
    given = [tasks] if isinstance(tasks, str | Task) else tasks
    chosen = list(dict.fromkeys(_task(each) for each in given))  # items that are there twice would narrow the interval
    if not chosen:
        raise TaskInvalid("There is no task to evaluate; name one, such as Add (`cloche tasks list` has them all).")
    if not (isinstance(limit, int) and isinstance(shots, int)) or limit < 1 or shots < 0:
        raise ArgumentRange(f"limit={limit} and shots={shots} must be whole numbers of at least 1 and 0.")
    rows = [_graded(subject, task, shots, limit, seed, level, fresh, controls and shots > 0) for task in chosen]
    data = {"limit": limit, "seed": seed, "level": level, "fresh": fresh, "shots": shots, "tasks": rows}
    figures, null = _figures(rows, fresh is not None)
    about = Provenance("eval", subject.checkpoint, seed=seed)
    return Finding(about, _summary(rows, figures, null), figures, data, null=null, panels=_panels(rows))


def _graded(
    subject: Glass, task: Task, shots: int, limit: int, seed: int, level: int | None, fresh: int | None, controls: bool
) -> dict[str, Any]:
    """The row of one task."""
    row: dict[str, Any] = {"task": str(task), "shots": shots}
    items = items_of(task, limit, level, seed, shots)
    answered = answer_items(subject, task, items, shots, seed)
    if fresh is not None:
        row["stock"], row["stock_items"] = _accuracy(answered), len(answered)
        task, seed = task.variant(fresh + 1), fresh + FRESH
        items = items_of(task, limit, level, seed, shots)
        answered = answer_items(subject, task, items, shots, seed)
    return row | _row(answered) | (_controls(subject, task, items, shots, seed) if controls else {})


def _task(given: Task | str) -> Task:
    task = part_from_line(given, Task, "tasks") if isinstance(given, str) else given
    if not isinstance(task, Task):
        raise TaskInvalid(f"{shown(task)} is no task; give one such as Add() (`cloche tasks list` has them all).")
    return task


def items_of(task: Task, limit: int, level: int | None = None, seed: int = 0, shots: int = 0) -> list[Item]:
    """About `limit` test items, equally many of every level, or of one; of a file every item that is not one of the shots.

    Raises TaskInvalid where there are none.
    """
    levels = list(task.levels) if level is None else [level]
    each = -(-limit // len(levels))
    if task.reads_files:
        before = {item.problem_id for n in levels for item in _shots(task, n, shots, seed)}
        found = [item for n in levels for item in task.examples(each + shots, n, seed) if item.problem_id not in before]
        found = found[:limit]
    else:
        found = [item for n in levels for item in task.examples(each, n, seed, "test")]
    if not found:
        raise TaskInvalid(f"{task} has no test items; give another level or a larger file.")
    return found[:limit] if level is not None else found


def answer_items(
    subject: Glass, task: Task, items: Sequence[Item], shots: int = 0, seed: int = 0, labels: Labels = "true"
) -> list[Answered]:
    """What a model answers to items, each after `shots` training items of the same level.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.evals import answer_items
    >>> from cloche.tasks import Add
    >>> tokenizer = cloche.train_bpe(["a"], vocab=259)
    >>> glass = cloche.Glass(LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0), tokenizer)
    >>> len(answer_items(glass, Add(), Add().examples(3), shots=2))
    3
    """
    words = unseen_words(task, items, seed) if labels == "unseen" else None
    before = {level: _shots(task, level, shots, seed) for level in {item.level for item in items}}
    prompts = [few_shot(item, before[item.level], labels, words, seed) for item in items]
    written = _write(subject, prompts)
    likeliest = _likeliest(subject, task, prompts)
    out = []
    for prompt, text, (choice, per_byte) in zip(prompts, written, likeliest, strict=True):
        item = prompt.item
        back = {word: answer for answer, word in prompt.answers.items()}
        score = task.verify(item, back.get(text.strip(), "") if back else text)
        begins = _begins(text, prompt.answers.get(item.answer, item.answer))
        chance = float(task.chance_of(item))
        out.append(Answered(item, text, score.strict, score.partial, begins, choice, per_byte, chance))
    return out


def _begins(text: str, answer: str) -> bool:
    """Whether a text begins with the answer, and goes on with another word if it goes on."""
    rest = text.lstrip().removeprefix(answer)
    return len(rest) < len(text.lstrip()) and not rest[:1].isalnum()


def _shots(task: Task, level: int, n: int, seed: int) -> list[Item]:
    """Training items of a level; the same before every question of that level."""
    found = task.examples(n, level, seed + 1, "train") if n else []
    if len(found) < n:
        raise TaskInvalid(f"{task} has only {len(found)} training items at level {level}; ask for fewer shots.")
    return found


def _write(subject: Glass, prompts: Sequence[Prompt]) -> list[str]:
    """What the model writes after each prompt, up to the end of the line."""
    tokenizer = subject.need_tokenizer()
    found: list[str] = []
    for first in range(0, len(prompts), ROWS):
        batch = prompts[first : first + ROWS]
        answers = [each.item.gap + each.answers.get(each.item.answer, each.item.answer) for each in batch]
        new = max(len(ids) for ids in tokenizer.encode_batch(answers, special=False)) + SPARE
        _fits(subject, batch, new)
        found += subject.generate([each.text for each in batch], new=new, temperature=0, stop=["\n"])
    return found


def _fits(subject: Glass, prompts: Sequence[Prompt], new: int) -> None:
    limit = subject.net.most_tokens
    longest = subject.ids([each.text for each in prompts])[0].shape[1] + new
    if limit is not None and longest > limit:
        raise PromptInvalid(
            f"A question of level {prompts[0].item.level} ({prompts[0].item.prompt[:40]!r}...) has {longest:,} tokens with its "
            f"answer and shots, and the model's context is {limit:,}; give fewer shots or a lower level."
        )


def _likeliest(subject: Glass, task: Task, prompts: Sequence[Prompt]) -> list[tuple[bool | None, bool | None]]:
    """Whether each item's likeliest choice is right, by log-probability and by that per byte."""
    tokenizer = subject.need_tokenizer()
    asked: list[tuple[int, str, int]] = []
    rows: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for i, prompt in enumerate(prompts):
        choices = task.offered(prompt.item)
        if not 2 <= len(choices) <= MOST_CHOICES:
            continue
        texts = [prompt.item.gap + prompt.answers.get(choice, choice) for choice in choices]
        split = [continuation_ids(tokenizer, prompt.text, text) for text in texts]
        cut = min(len(before) for before, _ in split)  # all are scored from the same token on
        rows += [((*before, *after)[:cut], (*before, *after)[cut:]) for before, after in split]
        asked += [(i, choice, max(1, len(text.encode()))) for choice, text in zip(choices, texts, strict=True)]
    best: dict[int, list[tuple[float, float, str]]] = {}
    for (i, choice, size), scored in zip(asked, score_ids(subject.net, rows) if rows else (), strict=True):
        best.setdefault(i, []).append((scored.logprob, scored.logprob / size, choice))
    found: list[tuple[bool | None, bool | None]] = []
    for i, prompt in enumerate(prompts):
        if i not in best:
            found.append((None, None))
            continue
        values = prompt.item.values
        found.append(
            (task.is_right(values, max(best[i])[2]), task.is_right(values, max(best[i], key=lambda r: r[1])[2]))
        )
    return found


def _controls(subject: Glass, task: Task, items: Sequence[Item], shots: int, seed: int) -> dict[str, float]:
    """Accuracy and share of likeliest choices that are right, after shots with shuffled and with unseen labels."""
    asked: dict[Labels, Sequence[Item]] = {"shuffled": items if shots > 1 else ()}
    if unseen_words(task, items, seed) is not None:
        shown = {
            (level, shot.answer) for level in {i.level for i in items} for shot in _shots(task, level, shots, seed)
        }
        asked["unseen"] = [item for item in items if (item.level, item.answer) in shown]  # whose word the shots tell
    found = {}
    for labels, told in asked.items():
        if told:
            share = _share(answer_items(subject, task, told, shots, seed, labels))
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
