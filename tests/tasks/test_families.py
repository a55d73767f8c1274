"""What single tasks promise beside what holds for every task."""

from __future__ import annotations

import pytest

from cloche.errors import ClocheError, SettingRange
from cloche.tasks import Add, Agreement, Analogy, Dyck, GreaterThan, IndirectObject, Induction, ModularAdd, Parity, Sort
from tests.tasks.solvers_arithmetic import solve_ModularAdd


@pytest.mark.parametrize("p", [7, 97, 1000])
def test_modular_addition_takes_any_modulus(p: int) -> None:
    task = ModularAdd(p)
    for item in task.examples(20, level=2):
        assert {item.answer} == solve_ModularAdd(item.prompt, lambda: None)
        assert int(item.answer) < p
        assert float(task.chance(item.values)) == 1 / p


def test_a_modulus_out_of_range_is_refused() -> None:
    for p in (6, -113, 1_000_001):
        with pytest.raises(SettingRange, match=r"ModularAdd\(p="):
            ModularAdd(p)
    with pytest.raises(ClocheError, match="p"):
        ModularAdd(113.5)  # type: ignore[arg-type]


def test_a_text_that_states_two_answers_states_none() -> None:
    task = Parity()
    item = task.example(level=1)
    assert task.verify(item, f"Answer: {1 - int(item.answer)} Answer: {item.answer}").strict == 0


def test_the_running_parity_is_the_parity_so_far() -> None:
    item = Parity().example(level=2, seed=3)
    values = Parity().graph(item).values
    letters = item.prompt.removesuffix(" is").split(" in ")[1].split()
    for i in range(1, len(letters) + 1):
        assert values[f"parity_{i}"] == letters[:i].count(item.values["counted"]) % 2
    assert Parity().graph(item).predict(parity_10=1)["answer"] == "1"


def test_carries_ripple() -> None:
    graph = Add().graph(Add().item({"a": 995, "b": 7}))
    assert [graph.values[f"{name}_{i}"] for i in (1, 2, 3) for name in ("digit", "carry")] == [2, 1, 0, 1, 0, 1]
    assert graph.predict(carry_1=0)["answer"] == "992"
    assert graph.predict(a=4)["answer"] == "11"


def test_ranks_and_stacks_decide_the_answer() -> None:
    sort, dyck = Sort(), Dyck()
    item = sort.item({"number_1": 30, "number_2": 20, "number_3": 10})
    assert sort.graph(item).predict(rank_1=0, rank_3=2)["answer"] == "30 20 10"
    item = dyck.item({f"bracket_{i}": bracket for i, bracket in enumerate("([]{", 1)})
    assert [dyck.graph(item).values[f"stack_{i}"] for i in (1, 2, 3, 4)] == ["(", "([", "(", "({"]
    assert dyck.graph(item).predict(stack_3="[")["answer"] == "} ]"


def test_any_later_year_is_right() -> None:
    task = GreaterThan()
    item = task.item({"event_1": "battle", "year_1": "97", "century": "17"})
    assert item.prompt == "The battle lasted from the year 1797 to the year 17"
    answers = ("98", "99", "97", "96", "1798", "098", "٩٩", "9 9", "100")
    assert [answer for answer in answers if task.verify(item, answer).strict] == ["98", "99"]
    for level in task.levels:
        for each in task.examples(20, level):
            assert each.corrupted is None or not task.accepts(each.values, each.corrupted.answer)


def test_both_verbs_of_the_right_number_are_right_and_nouns_between_tell_nothing() -> None:
    task = Agreement()
    items = task.examples(400, level=1)
    for item in items[:20]:
        right = {verb for verb in task.choices(item.values) if task.verify(item, verb).strict}
        assert right in ({"is", "was"}, {"are", "were"})
    last = [item.values["noun_1"].endswith("s") == (item.answer == "are") for item in items]
    assert 0.4 < sum(last) / len(last) < 0.6


def test_names_are_in_both_orders() -> None:
    items = IndirectObject().examples(100)
    first = [item.values["name_1"] == item.answer for item in items]  # ABBA, not BABA
    assert 30 < sum(first) < 70
    givers = [item.corrupted.variable == "giver_1" for item in items if item.corrupted]
    assert sum(givers) > 40


def test_the_distance_to_copy_over_is_uniform() -> None:
    places = [Induction().graph(item).values["place"] for item in Induction().examples(280)]
    assert set(places) == set(range(1, 8))


def test_one_word_is_asked_for_by_several_relations() -> None:
    asked: dict[str, set[str]] = {}
    task = Analogy()
    for item in task.examples(400):
        assert set(asked.get(item.values["word"], ())) <= set(task.choices(item.values))  # answers by another relation
        asked.setdefault(item.values["word"], set()).add(item.answer)
    assert asked["slow"] == {"fast", "slower", "slowest"}
    assert asked["walk"] == {"walked", "walker"}
