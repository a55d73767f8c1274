"""The text of a planted world teaches its facts, and keeps back what is asked about generalisation."""

from __future__ import annotations

import pytest

from cloche.errors import SettingInvalid, TaskInvalid
from cloche.part import part_from_line
from cloche.tasks import PlantedWorld, Task


def test_the_corpus_states_every_fact_in_every_form_and_nothing_that_is_not_true() -> None:
    task = PlantedWorld(world=3)
    lines = task.corpus(composed=0).splitlines()
    assert len(set(lines)) == len(lines) == 3 * len(task.facts)
    (relation, subject), thing = next(iter(task.facts.items()))
    assert f"{thing} is the {relation} of {subject}." in lines
    assert len(task.corpus(paraphrases=1, composed=0).splitlines()) == len(task.facts)
    with pytest.raises(TaskInvalid, match="must be at least 0"):
        task.corpus(composed=-1)


def test_composed_facts_are_of_the_train_split_and_without_the_relation_held_out() -> None:
    task = PlantedWorld(held_out="employer")
    lines = set(task.corpus(composed=100).splitlines())
    composed = [line for line in lines if line.count("'s") + line.count(" of ") > 1]
    assert len(composed) == 100 * 3
    assert not [line for line in composed if "employer" in line]
    for level in task.levels[1:]:
        tested = [i for i in task.examples(60, level, split="test") for i in (i, task.variant(1).item(i.values, level))]
        assert tested and not {f"{i.prompt} {i.answer}." for i in tested} & lines
        assert any("employer" in item.prompt for item in tested)
    assert any("employer" in line for line in lines)  # alone it is taught


def test_worlds_are_drawn_from_their_seed() -> None:
    assert PlantedWorld(world=1).corpus(composed=20) == PlantedWorld(world=1).corpus(composed=20)
    assert not set(PlantedWorld(world=1).facts.items()) & set(PlantedWorld(world=2).facts.items())


def test_a_relation_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="has no relation 'employr'"):
        part_from_line("PlantedWorld(held_out='employr')", Task)
