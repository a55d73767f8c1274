"""What holds for every task: known answers, verifiers that cannot be gamed, exact chance, graphs, twins and variants."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from random import Random
from statistics import fmean

import pytest

import cloche
from cloche import tasks
from cloche.cli.looking.look import about
from cloche.errors import ArgumentInvalid, ArgumentRange, SettingInvalid
from cloche.part import part_from_line
from cloche.part_text import known_names, subclasses
from cloche.tasks import Item, Task, attacks
from tests.tasks.solvers import Solver, solvers

FILES = {"FromFile", "PromptPair"}  # read from files, not drawn: tests/tasks/test_from_file.py
NAMES = [name for name in known_names(Task) if name not in FILES and hasattr(tasks, name)]
SOLVERS = solvers()
SLIP = 0.01  # chance that the reference solver gives up at a step


@pytest.fixture(params=NAMES, scope="module")  # all tests of one task together: they share its items
def task(request: pytest.FixtureRequest) -> Task:
    made: Task = getattr(tasks, request.param)()
    return made


@pytest.fixture(scope="module")
def bytes_only() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=259)


def name(task: Task) -> str:
    return type(task).__name__


def solver(task: Task) -> Solver:
    return SOLVERS[name(task)]


@lru_cache(maxsize=5000)
def example(task: Task, level: int, seed: int) -> Item:
    return task.example(level, seed)


def some(task: Task, each: int, seed: int = 7) -> Iterator[Item]:
    for level in task.levels:
        for i in range(each):
            yield example(task, level, seed * 1000 + i)


def test_every_export_is_tested() -> None:
    classes = {cls.__name__ for cls in subclasses(Task) if cls.__module__.startswith("cloche.")}
    assert set(NAMES) | FILES >= classes
    assert set(SOLVERS) == set(NAMES)


def test_the_oracle_scores_1(task: Task) -> None:
    each = math.ceil(1000 / len(task.levels))
    for item in some(task, each):
        assert task.verify(item, item.answer).strict == 1
        assert task.verify(item, f"Let me think.\nAnswer: {item.answer}").strict == 1


def test_an_independent_solver_finds_the_stored_answer(task: Task) -> None:
    for item in some(task, 200):
        right = solver(task)(item.prompt, lambda: None)
        assert item.answer in right, item
        assert all(task.verify(item, answer).strict == 1 for answer in right)
        wrong = set(task.choices(item.values)) - right
        assert not any(task.verify(item, answer).strict for answer in wrong)


def test_attacks_score_0_and_earn_on_a_substring_grader(task: Task) -> None:
    earned: set[str] = set()
    for item in some(task, 5):
        texts = attacks(task, item)
        assert len(texts) == 7
        for attack, text in texts.items():
            score = task.verify(item, text)
            assert score.strict == 0, (attack, text[:200])
            assert 0 <= score.partial < 1
            if item.answer in text:
                earned.add(attack)
    assert earned >= {"every option", "right, then another", "flood", "quoted prompt"}


def test_a_guess_is_right_as_often_as_chance_says(task: Task) -> None:
    rng = Random(0)
    right, expected, spread = 0, Fraction(0), Fraction(0)
    for item in some(task, math.ceil(1000 / len(task.levels))):
        chance = task.chance(item.values)
        assert 0 < chance < 1
        right += task.accepts(item.values, task.guess(item.values, rng))
        expected += chance
        spread += chance * (1 - chance)
    assert abs(right - expected) <= 4 * math.sqrt(spread) + 1


def test_the_graph_predicts_every_swap(task: Task) -> None:
    rng, swapped = Random(1), 0
    for item in some(task, 10):
        graph = task.graph(item)
        assert graph.values["answer"] == item.answer
        assert {n: tuple(item.prompt[a:b] for a, b in spans) for n, spans in graph.spans.items()} == {
            n: (str(item.values[n]),) * len(spans) for n, spans in graph.spans.items()
        }
        for variable in graph.spans:
            value = task.swap(item.values, variable, rng)
            if value is None:
                continue
            other = task.item({**item.values, variable: value})
            assert graph.predict(**{variable: value})["answer"] in solver(task)(other.prompt, lambda: None)
            swapped += 1
    assert swapped


def test_twins_differ_in_one_variable_and_in_the_answer(task: Task) -> None:
    twins = 0
    for item in some(task, 40):
        twin = item.corrupted
        if twin is None:
            continue
        twins += 1
        assert len(twin.prompt) == len(item.prompt)
        assert task.item(twin.values).split == item.split
        assert [n for n in item.values if item.values[n] != twin.values[n]] == [twin.variable]
        right = solver(task)(twin.prompt, lambda: None)
        assert twin.answer in right
        assert item.answer not in right or twin.answer not in solver(task)(item.prompt, lambda: None)
    assert twins >= 0.9 * 40 * len(task.levels)


def test_pairs_line_up_with_a_byte_level_tokenizer(task: Task, bytes_only: cloche.Tokenizer) -> None:
    for level in task.levels:
        found = task.items(bytes_only, 20, level)
        assert found.refused_share <= 0.2, found
        for pair in found:
            assert len(pair.ids) == len(pair.corrupted_ids)
            assert len(pair.answer_ids) == len(pair.corrupted_answer_ids)
            for variable, positions in pair.positions.items():
                text = bytes_only.decode(pair.ids[i] for i in positions)
                assert text == str(pair.item.values[variable]) * len(pair.item.spans[variable])


def test_a_variant_asks_the_same_in_other_words(task: Task) -> None:
    other = task.variant(5)
    changed = []
    for item, twin in zip(some(task, 40), some(other, 40), strict=True):
        assert twin.answer in solver(task)(twin.prompt, lambda: None)
        changed.append(item.prompt != twin.prompt)
    assert fmean(changed) > 0.5
    # Who memorised the original's answers loses on the variant.
    known = {item.prompt: item.answer for item in some(task, 40)}
    score = fmean(other.verify(item, known.get(item.prompt, "")).strict for item in some(other, 40))
    assert score < 0.6


def test_difficulty_rises_with_the_level(task: Task) -> None:
    """A reference solver that gives up with a fixed probability at every step, and so cannot know the level."""

    def solved(prompt: str) -> float:
        steps = 0

        def spend() -> None:
            nonlocal steps
            steps += 1

        solver(task)(prompt, spend)
        return float((1 - SLIP) ** steps)

    accuracy = [fmean(solved(task.example(level, 90_000 + i).prompt) for i in range(60)) for level in task.levels]
    assert accuracy == sorted(accuracy, reverse=True)
    assert len(set(accuracy)) == len(accuracy)
    mixed = [solved(task.example(Random(i).choice(task.levels), i).prompt) for i in range(60)]
    assert fmean(mixed[:30]) == pytest.approx(fmean(mixed[30:]), abs=0.25)  # shuffled levels: nothing to see


def test_splits_share_no_problem_and_both_have_some(task: Task) -> None:
    for level in task.levels[-2:]:
        train, test = ({i.problem_id for i in task.examples(30, level, split=split)} for split in ("train", "test"))
        assert train and test and not train & test


def test_the_first_sentence_of_its_docstring_stands_alone(task: Task) -> None:
    """`cloche tasks list` prints it."""
    first = about(type(task).__doc__)
    assert first.count("`") % 2 == 0, first
    assert not re.search(r"\W\.$|\.\.|:$", first.replace("`.", ".").replace(").", ".")), first


def test_levels_beyond_the_last_are_refused(task: Task) -> None:
    with pytest.raises(ArgumentRange, match=f"has levels {task.levels[0]} to {task.levels[-1]}, not 99"):
        task.example(99)


def test_a_task_is_a_value(task: Task) -> None:
    assert part_from_line(task.to_line(), Task) == task
    assert task.example(task.levels[0], 3) == part_from_line(name(task), Task).example(task.levels[0], 3)


@pytest.mark.parametrize("value", [None, "zzz", -1, []])
def test_an_intervention_gives_values_or_one_sentence(task: Task, value: object) -> None:
    graph = task.graph(task.example(task.levels[0]))
    for name in graph.parents:
        with suppress(ArgumentInvalid):
            assert graph.predict(**{name: value})[name] == value


def test_what_no_items_can_be_drawn_for_is_refused(task: Task) -> None:
    level = task.levels[0]
    for n in (-1, 2.5, True):
        with pytest.raises(ArgumentRange, match="whole number of at least 0"):
            task.examples(n, level)  # type: ignore[arg-type]
    with pytest.raises(ArgumentInvalid, match="no split 'dev'"):
        task.examples(1, level, split="dev")  # type: ignore[arg-type]
    with pytest.raises(ArgumentRange, match="has levels"):
        task.example(True)
    with pytest.raises(SettingInvalid, match=r"renaming.*must be of type int"):
        task.variant("three")  # type: ignore[arg-type]
