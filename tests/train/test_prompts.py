"""Prompts from held-out text: whole words, no blanks around them, the same each time."""

from __future__ import annotations

import numpy as np
import pytest

from cloche.data import PackedTokens
from cloche.train.prompts import LONGEST, cut, first_text, held_out_prompts

END = 0


class Letters:
    """A tokenizer whose tokens are UTF-8 bytes, one higher."""

    def decode_bytes(self, ids: list[int]) -> bytes:
        return bytes(i - 1 for i in ids)


def packed(*documents: str) -> PackedTokens:
    row = [i for text in documents for i in [*(byte + 1 for byte in text.encode()), END]]
    return PackedTokens([np.array(row)], {"bytes": len(row), "documents": len(documents)}, END)


BOOK = "It was a bright cold day in April, and the clocks were striking thirteen. Winston Smith hurried on.\n" * 40


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([BOOK], ["It was a bright cold day in"]),
        (["# Licence\n\nthe first", "# Licence\n\nthe second", "def run(x):\n    pass"], ["def run(x):"]),
        ([BOOK + "============\nThe words of a line\n" * 400], [BOOK[:27], "The words of a line"]),
        (["  \n\n", "Hello there", "== ==", "Good bye now"], ["Hello there", "Good bye now"]),
        (["道可道非常道名可名非常名無名天地之始有名萬物之母故常無欲以觀其妙常有欲以觀其徼" * 3], None),
        (["é" * 5], ["ééééé"]),
        ([" \n "], []),
    ],
)
def test_prompts_are_beginnings_in_whole_words(documents: list[str], expected: list[str] | None) -> None:
    tokens = packed(*documents)
    found = held_out_prompts(tokens, Letters())  # type: ignore[arg-type]
    assert found == held_out_prompts(tokens, Letters())  # type: ignore[arg-type]
    assert expected is None or found[: len(expected)] == expected
    assert len({prompt[:12] for prompt in found}) == len(found)
    for prompt in found:
        assert prompt == prompt.strip() and 0 < len(prompt) <= LONGEST and "\ufffd" not in prompt
        assert any(prompt in text for text in documents)


def test_the_opening_ends_with_a_word() -> None:
    assert first_text(packed(BOOK), Letters(), 20) == "It was a bright"  # type: ignore[arg-type]
    assert first_text(packed("ab c"), Letters(), 28) == "ab c"  # type: ignore[arg-type]


def test_cut() -> None:
    assert cut("  one two  ", 5) == "one"
    assert cut("a title\nand more", 99) == "a title\nand more"
    assert cut("a longer title \nand more", 99) == "a longer title"
    assert cut("x" * 50, 5) == "xxxxx"
