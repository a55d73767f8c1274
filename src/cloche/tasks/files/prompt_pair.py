"""A clean and a corrupted prompt of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from cloche.errors import TaskInvalid, shown
from cloche.tasks.grading import require_gradable, squeezed
from cloche.tasks.graph import Rule
from cloche.tasks.task import Item, Task, Twin, Values


@dataclass(frozen=True)
class PromptPair(Task):
    """One question that is written out: a clean prompt with its answer, and a corrupted prompt with the answer `against`.

    Blanks before an answer belong to it. There is one item, no claim about difficulty, and no variable but the prompt.

    >>> from cloche.tasks import PromptPair
    >>> task = PromptPair("Paris is in", "Rome is in", " France", " Italy")
    >>> item = task.example(level=1)
    >>> item.answer, item.corrupted.prompt, item.corrupted.answer
    ('France', 'Rome is in', 'Italy')
    """

    clean: str
    corrupted: str
    answer: str
    against: str

    levels = range(1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.clean and self.corrupted and self.answer and self.against):
            raise TaskInvalid("A PromptPair needs two prompts and two answers that are not empty.")
        if self.clean == self.corrupted:
            raise TaskInvalid(f"Both prompts of the PromptPair are {shown(self.clean)}; give two that differ.")
        for answer in (self.answer, self.against):
            require_gradable(answer, "A PromptPair")
        if squeezed(self.answer) == squeezed(self.against):
            raise TaskInvalid(
                f"Both answers of the PromptPair are {self.answer.strip()!r}; give the right one of each prompt, which differ."
            )

    def draw(self, level: int, rng: Random) -> Values:
        return {"prompt": self.clean}

    def template(self, values: Values) -> str:
        return "{prompt}"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        known = {self.clean: self.answer.strip(), self.corrupted: self.against.strip()}
        return {"answer": Rule(("prompt",), lambda prompt: known.get(prompt, "unknown"))}

    def swap(self, values: Values, name: str, rng: Random) -> Any:
        return self.corrupted

    def isomorphic(self, values: Values, rng: Random) -> Values:
        raise TaskInvalid("A PromptPair has no isomorphic form; use a task that draws its problems.")

    def choices(self, values: Values) -> Sequence[str]:
        return (self.answer.strip(), self.against.strip())

    def accepts(self, values: Values, answer: str) -> bool:
        return squeezed(answer) == squeezed(self.solution(values))

    def item(self, values: Values, level: int = 1, rng: Random | None = None) -> Item:
        gap = self.answer[: len(self.answer) - len(self.answer.lstrip())]
        spans = {"prompt": ((0, len(self.clean)),)}
        changed = {"prompt": self.corrupted}
        twin = Twin(self.corrupted, self.against.strip(), "prompt", changed, {"prompt": ((0, len(self.corrupted)),)})
        return Item(self.clean, self.answer.strip(), level, self._id(values), (), twin, values, spans, gap)
