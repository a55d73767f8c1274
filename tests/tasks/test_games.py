"""Verifiers of games take every form of a right answer, and no text makes them raise."""

from __future__ import annotations

import pytest

from cloche.tasks import CombinationLock, Nim, TicTacToe, TwentyFour

TASK = TwentyFour()
ITEM = TASK.item({"a": 3, "b": 3, "c": 8, "d": 8})


@pytest.mark.parametrize("text", ["8/(3-8/3)", "8 / (3 - (8 / 3))", "((8)/(3-8/3))", "Answer: (8/(3-(8/3)))"])
def test_every_expression_that_is_exactly_24_is_right(text: str) -> None:
    assert TASK.verify(ITEM, text).strict == 1


@pytest.mark.parametrize(
    "text",
    [
        "24",
        "3*8",  # not all the numbers
        "3*8+3-3",  # one of them twice
        "8*3+8-8",
        "3*8*(8-3)/5",
        "38-8-3-3",
        "-8/(8/3-3)",
        "8/(3-8/3) = 24",
        "8//(3-8/3)",
        "8**3-3-8",
        "8/(8-8)+3+3",
        "8/(3-8/3)*True",
        "8/(3-8/3",
        "8/(3-08/3)",
        "8 3 3 8",
        "__import__('os').getcwd()",
        "(" * 49 + "8" + ")" * 49,
        "8/(3-8/3)" + " " * 200_000,
        "9" * 5_000 + "*8",
        "9" * 99,
        "8/(3-8/3)\x00",
        "\ud800",
    ],
)
def test_no_other_text_is_and_none_raises(text: str) -> None:
    assert TASK.verify(ITEM, text).strict == 0


def test_known_positions() -> None:
    nim = Nim()
    item = nim.item({"A": 3, "B": 4, "C": 5})  # Bouton's example: 3 ^ 4 ^ 5 is 2
    assert (item.answer, nim.graph(item).values["nim_sum"]) == ("2 from A", 2)
    both = nim.item({"A": 1, "B": 1, "C": 1})
    assert [nim.is_right(both.values, f"1 from {name}") for name in "ABC"] == [True, True, True]
    board = dict(zip((f"cell{i}" for i in range(1, 10)), "XX.OO.X..", strict=True))
    game = TicTacToe()
    assert game.item({**board, "player": "O"}).answer == "6"  # wins at once, rather than blocking at 3
    lock = CombinationLock()
    values = {"digits": 2, "last": 2, "guess1": "01", "feedback1": "0 placed, 2 misplaced"}
    assert lock.item(values).answer == "10"
