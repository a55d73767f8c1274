"""Tasks: questions with known answers. A task is a value; its subclasses say how to draw a problem and how to solve it."""

from __future__ import annotations

import hashlib
import string
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from itertools import count, islice
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from cloche.errors import ArgumentInvalid, ArgumentRange, TaskInvalid, require_whole, shown
from cloche.part import Part
from cloche.tasks.faults import faults_of
from cloche.tasks.grading import Score, final_answer
from cloche.tasks.graph import CausalGraph, Rule, Span

if TYPE_CHECKING:
    from cloche.tasks.pairing import Pairs
    from cloche.text import Tokenizer

__all__ = ["Item", "Split", "Task", "Twin", "Values"]

Values = Mapping[str, Any]  # of a problem's inputs, by name, in the order of the prompt
Split = Literal["train", "test"]

TEST_SHARE = 5  # one problem in so many is a test problem
SWAPS = 64  # tries for a corrupted twin
DRAWS = 200  # in a row without a new problem, after which a level has no more


@dataclass(frozen=True)
class Twin:
    """The corrupted twin of an item: the prompt with one input, `variable`, changed so that the answer is another one of
    the same length.

    >>> from cloche.tasks import Add
    >>> item = Add().example(level=2, seed=0)
    >>> len(item.corrupted.prompt) == len(item.prompt), item.corrupted.answer != item.answer
    (True, True)
    """

    prompt: str
    answer: str
    variable: str
    values: Values
    spans: Mapping[str, tuple[Span, ...]]


@dataclass(frozen=True)
class Item:
    """One question: `prompt + gap + answer` is a text that a perfect model finds likely.

    `problem_id` is the hash of the canonical problem, the same for prompts that differ in form only; `steps` are a worked
    solution, line by line; `corrupted` is a twin with another answer, or None; `values` are the inputs, which are at `spans`
    (characters) of the prompt.

    >>> from cloche.tasks import Add
    >>> item = Add().example(level=2, seed=0)
    >>> item.prompt, item.answer
    ('70+57=', '127')
    """

    prompt: str
    answer: str
    level: int
    problem_id: str
    steps: tuple[str, ...]
    corrupted: Twin | None
    values: Values
    spans: Mapping[str, tuple[Span, ...]]
    gap: str = ""

    @property
    def split(self) -> Split:
        """ "test" for one problem in five, by its hash: no problem is in both, whatever its seed, form or level."""
        return _split(self.problem_id)


@dataclass(frozen=True)
class Task(Part, ABC):
    """Questions of one kind at several levels of difficulty, with a verifier, an exact chance rate and a causal graph.

    A subclass writes `draw`, `template` and `rules`; `choices`, or `guess` and `chance`; and `isomorphic`. `renaming` is the
    isomorphic form of the problems (see `variant`); 0 is the original.

    >>> from cloche.tasks import Add
    >>> task = Add()
    >>> item = task.example(level=1, seed=3)
    >>> item.prompt, item.answer, task.verify(item, "Answer: " + item.answer).strict
    ('9+6=', '15', 1.0)
    """

    renaming: int = field(default=0, kw_only=True)

    levels: ClassVar[range] = range(1, 6)
    gap: ClassVar[str] = ""  # between prompt and answer

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not isinstance(cls.levels, range) or not cls.levels:
            raise TaskInvalid(f"{cls.__name__} has the levels {shown(cls.levels)}; give a range, such as range(1, 6).")

    def __post_init__(self) -> None:
        self.check_fields(type(self).__name__)

    # ---- what a subclass writes

    @abstractmethod
    def draw(self, level: int, rng: Random) -> Values:
        """The inputs of a problem of this level, by name."""

    @abstractmethod
    def template(self, values: Values) -> str:
        """The prompt, with `{name}` where an input is."""

    @abstractmethod
    def rules(self, values: Values) -> Mapping[str, Rule]:
        """How the other variables are computed, in order; the last is "answer", a text."""

    @abstractmethod
    def swap(self, values: Values, name: str, rng: Random) -> Any:
        """Another value for one input, as long as text as the one it has; None if that input has no other."""

    @abstractmethod
    def isomorphic(self, values: Values, rng: Random) -> Values:
        """The same problem with symbols renamed by a bijection or items in another order; `rng` is the same for every item."""

    def contrasts(self, values: Values) -> Sequence[str]:
        """The inputs that a corrupted twin changes if it can; the others are tried after these. Empty for no preference."""
        return ()

    def choices(self, values: Values) -> Sequence[str]:
        """All answers that a guess is drawn from; empty where they are too many to list, and `guess` and `chance` are
        written instead."""
        return ()

    def guess(self, values: Values, rng: Random) -> str:
        """An answer drawn uniformly from those that have the right form."""
        return rng.choice(self.choices(values))

    def chance(self, values: Values) -> Fraction:
        """The exact probability that `guess` is right."""
        choices = self.choices(values)
        return Fraction(sum(self.is_right(values, choice) for choice in choices), len(choices))

    def accepts(self, values: Values, answer: str) -> bool:
        """Whether an answer is right; override where more than one is."""
        return answer == self.solution(values)

    def partial(self, values: Values, answer: str) -> float:
        """The share of a wrong answer that is right, in [0, 1)."""
        return 0.0

    def steps(self, values: Values) -> tuple[str, ...]:
        """A worked solution, line by line; by default the computed variables."""
        graph = self._graph(values)
        return _lines(graph, graph.values)

    def canonical(self, values: Values) -> str:
        """The problem without its form: equal for prompts that ask the same. By default the prompt."""
        return _rendered(self.template(values), values)[0]

    # ---- what every task has

    def example(self, level: int, seed: int = 0) -> Item:
        """The item that a level and a seed give, always the same. Raises ArgumentRange for a level that is not there or a
        seed that is no whole number, and TaskInvalid if a task's own code raises."""
        if type(level) is not int or level not in self.levels:
            raise ArgumentRange(
                f"{type(self).__name__} has levels {self.levels[0]} to {self.levels[-1]}, not {shown(level)}."
            )
        require_whole(seed=seed)
        rng = Random(f"{type(self).__name__} {level} {seed}")
        with faults_of(self):
            values = self.draw(level, rng)
            if self.renaming:
                values = self.isomorphic(values, Random(f"renaming {self.renaming}"))
            return self.item(values, level, rng)

    def item(self, values: Values, level: int = 1, rng: Random | None = None) -> Item:
        """The item of given inputs; with `rng` also its corrupted twin."""
        prompt, spans = _rendered(self.template(values), values)
        graph = self._graph(values)
        computed = graph.values  # once for the answer and for the steps that a task does not write itself
        steps = _lines(graph, computed) if type(self).steps is Task.steps else self.steps(values)
        answer = str(computed["answer"])
        there = Item(prompt, answer, level, self._id(values), steps, None, values, spans, self.gap)
        return there if rng is None else replace(there, corrupted=self._twin(there, rng))

    def examples(self, n: int, level: int = 1, seed: int = 0, split: Split | None = None) -> list[Item]:
        """`n` items of different problems, of one split if it is named; fewer where the level has no more problems.

        Raises ArgumentRange for an `n` that is no count, and ArgumentInvalid for an unknown split.
        """
        require_whole(0, n=n)
        return list(islice(self.distinct(level, seed, split), n))

    def distinct(self, level: int, seed: int = 0, split: Split | None = None) -> Iterator[Item]:
        """Items of different problems, one after another, until the level has no more."""
        require_split(split)
        require_whole(seed=seed)
        known: set[str] = set()
        since = 0
        for i in count():
            item = self.example(level, seed * 1_000_003 + i)
            since += 1
            if item.problem_id not in known and split in (None, item.split):
                known.add(item.problem_id)
                since = 0
                yield item
            if since == DRAWS:
                return

    def items(self, tokenizer: Tokenizer, n: int, level: int = 1, **options: Any) -> Pairs:
        """`n` clean and corrupted prompts whose tokens line up: `pairs`, with its options seed, split and one_token."""
        from cloche.tasks.pairing import pairs

        return pairs(self, tokenizer, n, level, **options)

    def verify(self, item: Item, text: str) -> Score:
        """The score of a text that a model wrote after the prompt: strictly 1 only if its final answer is right.

        A pure function of the text. Raises TaskInvalid for what is no item or no text, and if a task's own `accepts` or
        `partial` raises.
        """
        if not isinstance(item, Item) or not isinstance(text, str):
            raise TaskInvalid(
                f"verify takes an item and the text written after its prompt; got {shown(item)} and {shown(text)}."
            )
        answer = final_answer(text)
        if answer is None:
            return Score(0.0, 0.0, None)
        right = self.is_right(item.values, answer)
        with faults_of(self):
            partial = 1.0 if right else float(self.partial(item.values, answer))
        return Score(float(right), partial, answer)

    def is_right(self, values: Values, answer: str) -> bool:
        """`accepts`. Raises TaskInvalid, naming the answer, if that raises."""
        try:
            return bool(self.accepts(values, answer))
        except Exception as error:
            raise TaskInvalid(
                f"The verifier of {type(self).__name__} raised {type(error).__name__}: {error}, on the answer "
                f"{shown(answer)}; a verifier must return False for what it cannot read."
            ) from error

    def offered(self, item: Item) -> Sequence[str]:
        """`choices` of an item. Raises TaskInvalid if they are no texts."""
        with faults_of(self):
            choices = self.choices(item.values)
            known = set(map(type, choices))
        if not isinstance(choices, list | tuple) or not known <= {str}:
            raise TaskInvalid(f"The choices of {type(self).__name__} are {shown(choices)}; return a list of texts.")
        return choices

    def chance_of(self, item: Item) -> Fraction:
        """`chance` of an item. Raises TaskInvalid if it is no probability."""
        with faults_of(self):
            chance = self.chance(item.values)
        if not isinstance(chance, Fraction | int) or not 0 <= chance <= 1:
            raise TaskInvalid(
                f"The chance of {type(self).__name__} is {shown(chance)}; return a Fraction from 0 to 1, or list the choices."
            )
        return Fraction(chance)

    def variant(self, seed: int) -> Self:
        """The same problems with symbols renamed and items in another order (isomorphic perturbation testing): a model that
        learned the rule keeps its score, and one that learned the answers does not."""
        return replace(self, renaming=seed)

    def graph(self, item: Item | Twin) -> CausalGraph:
        """The causal graph of an item: its variables, their values, and where the inputs are in the prompt."""
        return CausalGraph(item.values, self.rules(item.values), item.spans)

    def solution(self, values: Values) -> str:
        """The stored answer."""
        return str(self._graph(values).values["answer"])

    def _graph(self, values: Values) -> CausalGraph:
        return CausalGraph(values, self.rules(values), {})

    def _id(self, values: Values) -> str:
        text = f"{type(self).__name__} {self.canonical(values)}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _twin(self, item: Item, rng: Random) -> Twin | None:
        """An item of the same split with one input changed, the same length, and an answer that is wrong for the first."""
        names = list(item.spans)
        first = self.contrasts(item.values) or names
        tried: set[tuple[str, Any]] = set()
        for i in range(SWAPS):
            name = rng.choice(first if i < SWAPS // 2 else names)
            value = self.swap(item.values, name, rng)
            if value is None or value == item.values[name] or (name, value) in tried:
                continue
            tried.add((name, value))
            values = {**item.values, name: value}
            prompt, spans = _rendered(self.template(values), values)
            if len(prompt) != len(item.prompt) or _split(self._id(values)) != item.split:
                continue
            answer = self.solution(values)
            if len(answer) == len(item.answer) and answer != item.answer and not self.is_right(item.values, answer):
                return Twin(prompt, answer, name, values, spans)
        return None


def _lines(graph: CausalGraph, computed: Values) -> tuple[str, ...]:
    return tuple(f"{name} = {computed[name]}" for name in list(graph.rules)[:-1])


def _split(problem_id: str) -> Split:
    return "test" if int(problem_id, 16) % TEST_SHARE == 0 else "train"


def require_split(split: str | None) -> None:
    if split not in (None, "train", "test"):
        raise ArgumentInvalid(f'There is no split {shown(split)}; it is "train", "test" or None for both.')


@lru_cache(maxsize=1024)
def _parsed(template: str) -> tuple[tuple[str, str | None], ...]:
    return tuple((literal, name) for literal, name, _, _ in string.Formatter().parse(template))


def _rendered(template: str, values: Values) -> tuple[str, dict[str, tuple[Span, ...]]]:
    """The text of a template, and where each value is in it."""
    text = ""
    spans: dict[str, tuple[Span, ...]] = {}
    for literal, name in _parsed(template):
        text += literal
        if name is not None:
            start = len(text)
            text += str(values[name])
            spans[name] = (*spans.get(name, ()), (start, len(text)))
    return text, spans
