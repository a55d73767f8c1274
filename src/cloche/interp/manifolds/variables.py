"""What a manifold is laid out along: a variable, its value in many contexts, and where in each it is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cloche.errors import PromptInvalid, SiteUnsuitable, TaskInvalid, TokenizerMissing, shown
from cloche.interp.manifolds.curves import mean_curve
from cloche.interp.subject import Subject, windows_of
from cloche.model import Network, Site
from cloche.part import Part
from cloche.part_text import nearest
from cloche.tasks import ModularAdd, Pair, Task
from cloche.text import Tokenizer

__all__ = ["Contexts", "Positions", "TaskVariable", "Variable", "WordList"]

Answer = Callable[[int, Any], Sequence[int]]
LAST = "last"


@dataclass(frozen=True, eq=False)
class Contexts:
    """Texts as batches of ids [batch, position], and the points to read: (batch, row, position) of each, its value, and its
    group, equal for points of one text. `answer(point, value)` gives the tokens that should follow the text of a point if the
    variable had that value, where that is known. With `without_tokens`, the mean of all points of the same token is taken from
    each.

    >>> import torch
    >>> from cloche.interp import Contexts
    >>> Contexts([torch.tensor([[1, 2, 3]])], [(0, 0, 2)], ["Monday"], [0]).values
    ['Monday']
    """

    batches: list[Tensor]
    places: list[tuple[int, int, int]]
    values: list[Any]
    groups: list[int]
    answer: Answer | None = None
    without_tokens: bool = False

    @property
    def tokens(self) -> Tensor:
        """The token at each point, [point]."""
        return torch.tensor([int(self.batches[batch][row, position]) for batch, row, position in self.places])

    def without_rare(self) -> Contexts:
        """Only the points whose value at least two have, of two texts."""
        texts = defaultdict(set)
        for value, group in zip(self.values, self.groups, strict=True):
            texts[value].add(group)
        kept = [i for i, value in enumerate(self.values) if len(texts[value]) > 1]
        answer = self.answer
        moved = None if answer is None else lambda i, value: answer(kept[i], value)
        places, groups = [self.places[i] for i in kept], [self.groups[i] for i in kept]
        return Contexts(self.batches, places, [self.values[i] for i in kept], groups, moved, self.without_tokens)


@dataclass(frozen=True)
class Variable(Part, ABC):
    """A variable of texts. A subclass writes `contexts`.

    >>> from cloche.interp import TaskVariable
    >>> from cloche.tasks import ModularAdd
    >>> str(TaskVariable(ModularAdd(p=23), "number_1"))
    "TaskVariable(task=ModularAdd(p=23), name='number_1')"
    """

    @abstractmethod
    def contexts(self, subject: Subject, windows: Iterable[Any] | None, count: int, seed: int) -> Contexts:
        """About `count` texts with the variable's values; `windows` are batches of ids or texts for a variable of text."""


@dataclass(frozen=True)
class Positions(Variable):
    """The position of a token in windows of text, from `first` on. The first position is left out by default: without context,
    its activations are unlike all others. With `without_tokens` the mean activation of each token is taken out, so that
    which tokens come where does not count.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import Positions
    >>> glass = Glass(LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0))
    >>> Positions().contexts(glass, [torch.zeros(2, 4, dtype=torch.long)], count=8, seed=0).values
    [1, 2, 3, 1, 2, 3]
    """

    first: int = 1
    without_tokens: bool = True

    def contexts(self, subject: Subject, windows: Iterable[Any] | None, count: int, seed: int) -> Contexts:
        if windows is None:
            raise PromptInvalid(
                "Positions are read from windows of text; give windows=, a number of held-out tokens or texts."
            )
        batches, left = [], count
        for window in windows_of(subject, windows):
            if left > 0:
                batches.append(window[:left])
                left -= len(batches[-1])
        places = [
            (i, row, position)
            for i, batch in enumerate(batches)
            for row in range(len(batch))
            for position in range(self.first, batch.shape[1])
        ]
        texts = {text: i for i, text in enumerate(dict.fromkeys(place[:2] for place in places))}
        values, groups = [place[2] for place in places], [texts[place[:2]] for place in places]
        return Contexts(batches, places, values, groups, without_tokens=self.without_tokens)


POSITIONS = Positions()


@dataclass(frozen=True)
class TaskVariable(Variable):
    """A variable of a task's causal graph, by `name`: an input, a computed one, or "answer". It is read at `place`: the last
    token of the prompt, or of the input of that name.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import TaskVariable
    >>> from cloche.tasks import ModularAdd
    >>> net = LM(259, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))
    >>> found = TaskVariable(ModularAdd(p=23), "number_1", place="number_1").contexts(glass, None, count=3, seed=0)
    >>> len(found.values), all(0 <= value < 23 for value in found.values)
    (3, True)
    """

    task: Task = ModularAdd()
    name: str = "answer"
    place: str = LAST
    level: int | None = None

    def contexts(self, subject: Subject, windows: Iterable[Any] | None, count: int, seed: int) -> Contexts:
        tokenizer = _tokenizer(subject)
        level = self.task.levels[0] if self.level is None else self.level
        pairs = list(self.task.items(tokenizer, count, level, seed=seed))
        known = self.task.graph(pairs[0].item).values
        if self.name not in known:
            raise TaskInvalid(f"{self.task} has no variable {shown(self.name)}{nearest(self.name, known)}")
        if self.place != LAST and self.place not in pairs[0].positions:
            known_places = [*pairs[0].positions, LAST]
            raise TaskInvalid(
                f"The prompts of {self.task} have no place {shown(self.place)}{nearest(self.place, known_places)}"
            )
        batches, places_of = _batched([pair.ids for pair in pairs])
        positions = [len(p.ids) - 1 if self.place == LAST else p.positions[self.place][-1] for p in pairs]
        places = [(*place, position) for place, position in zip(places_of, positions, strict=True)]
        values = [self.task.graph(pair.item).values[self.name] for pair in pairs]

        def answer(point: int, value: Any) -> Sequence[int]:
            return self._answer(tokenizer, pairs[point], value)

        return Contexts(batches, places, values, list(range(len(pairs))), answer)

    def _answer(self, tokenizer: Tokenizer, pair: Pair, value: Any) -> Sequence[int]:
        """The tokens of the answer if the variable is set to `value`; none where they would change the prompt's."""
        text = str(self.task.graph(pair.item).predict(**{self.name: value})["answer"])
        ids = tokenizer.encode(pair.item.prompt + pair.item.gap + text)
        return ids[len(pair.ids) :] if tuple(ids[: len(pair.ids)]) == pair.ids else []


@dataclass(frozen=True)
class WordList(Variable):
    """Words in their order, such as weekdays or numbers, in each of the `templates`, which have {} where the word is: read at
    the last token of the word, or of the template if `place` is "last". The value is the word's place in the list.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import WordList
    >>> net = LM(259, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))
    >>> found = WordList(("one", "two"), ("{} cats", "I see {}.")).contexts(glass, None, count=4, seed=0)
    >>> found.values, found.places[0]
    ([0, 1, 0, 1], (0, 0, 2))
    """

    words: tuple[str, ...]
    templates: tuple[str, ...]
    place: str = "word"

    def __post_init__(self) -> None:
        self.check_fields(type(self).__name__)
        if self.place not in ("word", LAST):
            raise PromptInvalid(f'A WordList is read at place "word" or "last", not {shown(self.place)}.')
        if not self.words or any("{}" not in template for template in self.templates):
            raise PromptInvalid("A WordList needs words, and templates that have {} where the word is.")

    def contexts(self, subject: Subject, windows: Iterable[Any] | None, count: int, seed: int) -> Contexts:
        tokenizer = _tokenizer(subject)
        texts = [template.replace("{}", word, 1) for template in self.templates for word in self.words]
        ends = [len(template.partition("{}")[0] + word) for template in self.templates for word in self.words]
        rows = [tuple(tokenizer.encode(text)) for text in texts]
        batches, places = _batched(rows)
        at = [
            len(row) - 1 if self.place == LAST else _token_of(tokenizer, row, text, end)
            for row, text, end in zip(rows, texts, ends, strict=True)
        ]
        values = list(range(len(self.words))) * len(self.templates)
        found = [(*place, position) for place, position in zip(places, at, strict=True)]
        return Contexts(batches, found, values, [i // len(self.words) for i in range(len(texts))])


def _token_of(tokenizer: Tokenizer, row: Sequence[int], text: str, end: int) -> int:
    """The token with the last character before the character `end` of a text."""
    before = int(sum(int(tokenizer.byte_lengths[i]) for i in row)) - len(text.encode())  # a space put before the text
    reached = before
    for position, i in enumerate(row):
        reached += int(tokenizer.byte_lengths[i]) - (before if position == 0 else 0)
        if reached >= len(text[:end].encode()) + before:
            return position
    return len(row) - 1


def _tokenizer(subject: Subject) -> Tokenizer:
    if subject.tokenizer is None:
        raise TokenizerMissing("This model has no tokenizer.json, so it cannot read prompts; put one beside it.")
    return subject.tokenizer


def _batched(rows: Sequence[Sequence[int]]) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Rows of ids as batches of one length each, and where each row is (batch, row)."""
    lengths = list(dict.fromkeys(map(len, rows)))
    held: list[list[Sequence[int]]] = [[] for _ in lengths]
    places = []
    for row in rows:
        batch = lengths.index(len(row))
        places.append((batch, len(held[batch])))
        held[batch].append(row)
    return [torch.tensor(batch) for batch in held], places


# ---- activations


def one_site(net: Network, site: Site | str) -> Site:
    """The one site that `site` names. Raises SiteUnsuitable for a site without one vector per token, or for several."""
    found = net.sites.resolve(site)
    if len(found) > 1 or found[0].axes[:2] != ("batch", "position") or "key" in found[0].axes:
        what = f"{len(found)} sites" if len(found) > 1 else f"{found[0]} with axes {', '.join(found[0].axes)}"
        raise SiteUnsuitable(
            f"{site} is {what}, and a manifold is of one vector per token: name one such as resid_post[1]."
        )
    return found[0]


@torch.no_grad()
def points_of(net: Network, contexts: Contexts, site: Site, rows: int = 64) -> Tensor:
    """Activations [point, width] at the points of the contexts, in fp32; heads side by side."""
    kept: dict[int, Tensor] = {}
    by_batch: dict[int, list[int]] = defaultdict(list)
    for point, (batch, _, _) in enumerate(contexts.places):
        by_batch[batch].append(point)
    for batch, members in by_batch.items():
        ids = contexts.batches[batch]
        for start in range(0, len(ids), rows):
            here = [point for point in members if start <= contexts.places[point][1] < start + rows]
            if here:
                result = net.run(ids[start : start + rows].to(net.embed.weight.device), save=[site], logits=False)
                where = torch.tensor([contexts.places[point][1:] for point in here]) - torch.tensor([start, 0])
                found = result[site][where[:, 0], where[:, 1]].flatten(1).float().cpu()
                kept.update(zip(here, found, strict=True))
    points = torch.stack([kept[point] for point in range(len(contexts.places))])
    if not contexts.without_tokens:
        return points
    kinds, token = contexts.tokens.unique(return_inverse=True)
    return points - mean_curve(points, token, len(kinds)).float()[token]
