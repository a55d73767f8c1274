"""The final answer of a text, and its score. A text is parsed once, and gives one score whatever it holds."""

from __future__ import annotations

from dataclasses import dataclass

from cloche.errors import TaskInvalid, shown

__all__ = ["MARK", "Score", "final_answer"]

MARK = "Answer:"  # no prompt of a task holds it, so a text that quotes the question states no answer
LONGEST = 100_000  # characters of a text that is read


@dataclass(frozen=True)
class Score:
    """`strict` is 1 for a right answer and 0 for any other; `partial` in [0, 1] is the share of it that is right, for
    shaping and curves, never for accuracy. `answer` is what was graded, None if the text states none.

    >>> from cloche.tasks import Add
    >>> task = Add()
    >>> item = task.example(level=1, seed=0)
    >>> task.verify(item, item.answer).strict, task.verify(item, "I cannot say.").strict
    (1.0, 0.0)
    """

    strict: float
    partial: float
    answer: str | None


def final_answer(text: str) -> str | None:
    """The answer that a text states: what follows "Answer:" if that is there once, else the whole text; blanks are squeezed.

    None if the text is empty or too long, the mark is there twice, or the answer has more than one line: a text that
    states two answers states none.

    >>> from cloche.tasks import final_answer
    >>> final_answer("7 + 5 is 12, so we carry 1. Answer: 42"), final_answer("42"), final_answer("Answer: 1 Answer: 42")
    ('42', '42', None)
    """
    if len(text) > LONGEST or text.count(MARK) > 1:
        return None
    answer = text.rpartition(MARK)[2].strip()
    return None if not answer or "\n" in answer else squeezed(answer)


def squeezed(text: str) -> str:
    """The words of a text with one space between them."""
    return " ".join(text.split())


def require_gradable(answer: str, where: str) -> None:
    """Raises TaskInvalid for an answer that no text could give, so that nothing would ever be right."""
    if final_answer(answer) != squeezed(answer):
        raise TaskInvalid(
            f"{where} has the answer {shown(answer)}, which cannot be graded; an answer is one line of at most "
            f"{LONGEST:,} characters without {MARK!r}."
        )


def words_right(answer: str, solution: str) -> float:
    """The share of an answer's words that are the solution's at the same place, of the longer of the two: 1 only if all are."""
    given, right = answer.split(), solution.split()
    return sum(map(str.__eq__, given, right)) / max(len(given), len(right))
