"""Few-shot prompts of a task: questions with their answers, or with each other's, before the question that is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from random import Random

import torch
from torch import Tensor

from cloche.errors import InstrumentOption, TaskInvalid, TokenizerMissing
from cloche.interp.subject import Subject
from cloche.tasks import Item, Task
from cloche.text import Tokenizer

SEPARATOR = "\n\n"  # between questions, as in Todd et al.
SHUFFLES = 8  # tries for an order of the answers that changes something
Drawn = tuple[list[Item], Item]  # questions that are answered, and the one that is asked


@dataclass(frozen=True, eq=False)
class Prompt:
    """ids [1, position] up to the token that the answers differ in, and that token of the right answer."""

    ids: Tensor
    answer: int


@dataclass(frozen=True, eq=False)
class FewShot:
    """Prompts of a task: `right` with right answers, `shuffled` the same with the answers in another order, `relabelled` again
    for each draw of the null, and of held-out questions: `test` with right answers, `test_shuffled`, and `alone` without
    other questions."""

    right: list[Prompt]
    shuffled: list[Prompt]
    relabelled: list[list[Prompt]]
    test: list[Prompt]
    test_shuffled: list[Prompt]
    alone: list[Prompt]


def few_shot(
    subject: Subject, task: Task, shots: int, prompts: int, level: int | None, draws: int, seed: int
) -> FewShot:
    """`prompts` prompts of each kind, with `shots` answered questions before the one that is asked; fewer held-out ones if
    the task has few questions. `draws`: of shuffled answers for the null.

    Raises TokenizerMissing, InstrumentOption for fewer than 2 shots, and TaskInvalid if the task has too few questions,
    their tokens do not continue the prompts, or all answers begin with the same token.
    """
    if subject.tokenizer is None:
        raise TokenizerMissing(
            "This model has no tokenizer.json, so it cannot read a task's prompts; put one beside it."
        )
    if type(shots) is not int or type(prompts) is not int or shots < 2 or prompts < 1:
        raise InstrumentOption(
            f"shots={shots} and prompts={prompts} must be whole numbers of at least 2 and 1; the answers of the shots are "
            "shuffled among them."
        )
    rng = Random(f"few-shot {seed}")
    train, test = _items(subject.tokenizer, task, shots, prompts, level, rng, seed)
    asked, held_out = (
        [_drawn(train, query, shots, rng) for query in some] for some in (_cycled(train, prompts), test[:prompts])
    )
    wrong, test_wrong = ([_shuffled(each, rng) for each in some] for some in (asked, held_out))
    null = [[_shuffled(each, rng) for each in asked] for _ in range(draws)]
    alone: list[Drawn] = [([], query) for _, query in held_out]
    groups = _encoded(subject, task, [asked, wrong, *null, held_out, test_wrong, alone])
    return FewShot(groups[0], groups[1], groups[2:-3], *groups[-3:])


def _items(
    tokenizer: Tokenizer, task: Task, shots: int, prompts: int, level: int | None, rng: Random, seed: int
) -> tuple[list[Item], list[Item]]:
    """Questions for the shots, and held-out ones: different problems in random order."""
    level = task.levels[0] if level is None else level
    pool = list(islice(task.distinct(level, seed + 1), 3 * prompts + 4 * shots))
    pool = [item for item in pool if _answer(tokenizer, item.prompt, item) is not None]
    if len(pool) < shots + 2:
        raise TaskInvalid(
            f"{task} has too few questions at level {level} that this tokenizer can express: {len(pool)}, and {shots} shots "
            f"need at least {shots + 2}; give fewer shots, or use another task or tokenizer."
        )
    rng.shuffle(pool)
    held_out = max(1, min(prompts, len(pool) // 3, len(pool) - shots - 1))
    return pool[held_out:], pool[:held_out]


def _cycled(items: Sequence[Item], count: int) -> list[Item]:
    return [items[i % len(items)] for i in range(count)]


def _drawn(items: Sequence[Item], query: Item, shots: int, rng: Random) -> Drawn:
    return rng.sample([item for item in items if item is not query], shots), query


def _shuffled(drawn: Drawn, rng: Random) -> Drawn:
    """The same questions with each other's answers."""
    items, query = drawn
    own, order = [item.answer for item in items], list(range(len(items)))
    for _ in range(SHUFFLES):
        rng.shuffle(order)
        if [own[i] for i in order] != own:
            break
    return [replace(item, gap=items[i].gap, answer=own[i]) for item, i in zip(items, order, strict=True)], query


def _encoded(subject: Subject, task: Task, groups: Sequence[Sequence[Drawn]]) -> list[list[Prompt]]:
    """All prompts as ids; what every answer begins with, such as a space, is part of them."""
    assert subject.tokenizer is not None
    found: list[list[tuple[list[int], list[int]]]] = []
    for group in groups:
        rows = []
        for items, query in group:
            before = "".join(f"{item.prompt}{item.gap}{item.answer}{SEPARATOR}" for item in items) + query.prompt
            answer = _answer(subject.tokenizer, before, query)
            if answer is None:
                raise TaskInvalid(
                    f"With this tokenizer an answer of {task} merges with the prompt before it; use another tokenizer or task."
                )
            rows.append((list(subject.tokenizer.encode(before)), answer))
        found.append(rows)
    answers = [answer for rows in found for _, answer in rows]
    columns = [len(set(tokens)) > 1 for tokens in zip(*answers, strict=False)]  # up to the shortest answer
    shared = columns.index(True) if True in columns else len(columns) - 1
    if not columns[shared]:
        raise TaskInvalid(
            f"The answers of {task} all begin with the same token, so nothing can be read from it; use another task or level."
        )
    device = subject.net.embed.weight.device
    return [
        [Prompt(torch.tensor([[*ids, *answer[:shared]]], device=device), answer[shared]) for ids, answer in rows]
        for rows in found
    ]


def _answer(tokenizer: Tokenizer, before: str, query: Item) -> list[int] | None:
    """The tokens that an answer adds to those of the text before it; None if it changes them."""
    ids, whole = (list(tokenizer.encode(text)) for text in (before, before + query.gap + query.answer))
    return whole[len(ids) :] if whole[: len(ids)] == ids and len(whole) > len(ids) else None
