"""Questions read from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

from cloche.errors import TaskInvalid, require_whole
from cloche.tasks.files.formats import Row, read_rows
from cloche.tasks.grading import squeezed
from cloche.tasks.graph import Rule
from cloche.tasks.task import Item, Split, Task, Twin, Values, require_split


@dataclass(frozen=True)
class FromFile(Task):
    """The questions of the file at `path`, each with its corrupted twin where the file has them.

    The format is found from the content: JSON, JSON lines, CSV or TSV with a prompt and an answer per row, and perhaps
    choices (in CSV between |), corrupted and corrupted_answer; and the published forms of greater-than, indirect object
    identification, subject-verb agreement, function vectors, relations, known facts, word analogies and Winogender. There is
    one level, no claim about difficulty, and no causal graph but prompt -> answer.

    >>> from pathlib import Path
    >>> from cloche.tasks import FromFile
    >>> _ = Path("rows.jsonl").write_text('{"prompt": "The sky is", "answer": "blue"}')
    >>> [(item.prompt, item.answer) for item in FromFile("rows.jsonl").examples(10)]
    [('The sky is', 'blue')]
    """

    path: str

    levels = range(1, 2)
    reads_files = True

    def draw(self, level: int, rng: Random) -> Values:
        return self._values(rng.choice(list(read_rows(self.path))))

    def template(self, values: Values) -> str:
        return "{prompt}"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        """The answer of the file to a prompt, or to its corrupted form."""
        row = self._row(values)
        known = {row.prompt: row.answers, **({row.corrupted: row.corrupted_answers} if row.corrupted else {})}
        return {"answer": Rule(("prompt",), lambda prompt: known.get(prompt, ("unknown",))[0].strip())}

    def swap(self, values: Values, name: str, rng: Random) -> Any:
        return self._row(values).corrupted if name == "prompt" else None

    def isomorphic(self, values: Values, rng: Random) -> Values:
        raise TaskInvalid(f"The questions of {self.path} have no isomorphic form; use a task that draws its problems.")

    def canonical(self, values: Values) -> str:
        return str(values["prompt"])

    def choices(self, values: Values) -> Sequence[str]:
        """Those of the row; without any, every answer of the file."""
        return self._row(values).choices

    def chance(self, values: Values) -> Fraction:
        row = self._row(values)
        return Fraction(row.right, len(row.choices))

    def accepts(self, values: Values, answer: str) -> bool:
        return squeezed(answer) in map(squeezed, self._row(values).answers)

    def steps(self, values: Values) -> tuple[str, ...]:
        return ()

    def item(self, values: Values, level: int = 1, rng: Random | None = None) -> Item:
        row = self._row(values)
        first = row.answers[0]
        twin = None
        others = [each.strip() for each in row.corrupted_answers if not self.is_right(values, each)]
        if row.corrupted is not None and others:
            changed = {**values, "prompt": row.corrupted}
            twin = Twin(row.corrupted, others[0], "prompt", changed, {"prompt": ((0, len(row.corrupted)),)})
        gap = first[: len(first) - len(first.lstrip())]
        spans = {"prompt": ((0, len(row.prompt)),)}
        return Item(row.prompt, first.strip(), level, self._id(values), (), twin, values, spans, gap)

    def distinct(self, level: int = 1, seed: int = 0, split: Split | None = None) -> Iterator[Item]:
        """Every question of the file once, in an order that `seed` gives; with 0 in the file's."""
        require_split(split)
        require_whole(seed=seed)
        self.example(level)  # refuses a level that is not there
        questions = list(read_rows(self.path))
        if seed:
            Random(seed).shuffle(questions)
        for question in questions:
            item = self.item(self._values(question), level)
            if split in (None, item.split):
                yield item

    def _values(self, question: str) -> Values:
        return {"prompt": read_rows(self.path)[question].prompt, "question": question}

    def _row(self, values: Values) -> Row:
        return read_rows(self.path)[values["question"]]
