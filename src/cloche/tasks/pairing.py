"""Clean and corrupted prompts as tokens that line up, which patching and path methods need."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import overload

from cloche.errors import TaskInvalid, require_whole
from cloche.tasks.task import Item, Split, Task
from cloche.text import Tokenizer

__all__ = ["Pair", "Pairs", "pairs"]

NONE, RARE = (
    200,
    2000,
)  # items in a row that are refused, beyond `n`, before giving up: at first, and after some were found
NO_TWIN = "the item has no twin"


@dataclass(frozen=True)
class Pair:
    """An item and its twin as ids: equally many, with every variable at the same `positions`.

    `answer_ids` and `corrupted_answer_ids` are the answers' tokens, with the gap before them; equally many as well.

    >>> import cloche
    >>> from cloche.tasks import Add
    >>> pair = Add().items(cloche.train_bpe(["a"], vocab=259), 1, level=2)[0]
    >>> pair.item.prompt, len(pair.ids), pair.positions["b"], len(pair.answer_ids)
    ('70+57=', 6, (3, 4), 3)
    """

    item: Item
    ids: tuple[int, ...]
    corrupted_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    corrupted_answer_ids: tuple[int, ...]
    positions: Mapping[str, tuple[int, ...]]


class Pairs(Sequence[Pair]):
    """Pairs that line up. `refused` counts by reason the items that did not; `refused_share` is their share of all drawn.

    >>> import cloche
    >>> from cloche.tasks import Add
    >>> Add().items(cloche.train_bpe(["a"], vocab=259), 5, level=2)
    <5 pairs; refused: none>
    """

    def __init__(self, found: Sequence[Pair], refused: Mapping[str, int]) -> None:
        self._found, self.refused = tuple(found), dict(refused)

    @overload
    def __getitem__(self, i: int) -> Pair: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Pair]: ...
    def __getitem__(self, i: int | slice) -> Pair | Sequence[Pair]:
        return self._found[i]

    def __len__(self) -> int:
        return len(self._found)

    @property
    def refused_share(self) -> float:
        out = sum(self.refused.values())
        return out / (out + len(self)) if out else 0.0

    def __repr__(self) -> str:
        reasons = ", ".join(f"{n} where {reason}" for reason, n in self.refused.items()) or "none"
        return f"<{len(self)} pairs; refused: {reasons}>"


def pairs(
    task: Task,
    tokenizer: Tokenizer,
    n: int,
    level: int = 1,
    seed: int = 0,
    split: Split | None = None,
    one_token: bool = False,
) -> Pairs:
    """`n` pairs of a task whose tokens line up; fewer where the level has no more problems, or hardly one of them lines
    up. `one_token`: only those whose answers are one token each.

    Raises TaskInvalid if the tokenizer cannot express the task: none of the first items lines up. Raises ArgumentRange for
    an `n` that is no count.

    >>> import cloche
    >>> from cloche.tasks import Add
    >>> tokenizer = cloche.train_bpe(["1+1=2"], vocab=259)
    >>> found = Add().items(tokenizer, 3, level=2)
    >>> found[0].item.prompt, found[0].positions, found.refused_share
    ('70+57=', {'a': (0, 1), 'b': (3, 4)}, 0.0)
    """
    require_whole(1, n=n)
    found: list[Pair] = []
    refused: Counter[str] = Counter()
    since = 0  # the last item that lined up
    for item in task.distinct(level, seed, split):
        made = _pair(item, tokenizer, one_token)
        if isinstance(made, Pair):
            found.append(made)
            since = 0
        else:
            refused[made] += 1
            since += 1
        if len(found) == n or since >= (RARE if found else NONE) + n:
            break
    if not found:
        raise TaskInvalid(_none(task, level, refused, one_token))
    return Pairs(found, refused)


def _none(task: Task, level: int, refused: Counter[str], one_token: bool) -> str:
    """Why no item of a level can be used."""
    reason = refused.most_common(1)[0][0] if refused else "the level has no problems"
    if reason == NO_TWIN:
        return f"No item of {task} at level {level} has a corrupted twin, so there are no pairs; use a task with twins."
    return (
        f"No item of {type(task).__name__} at level {level} can be used with this tokenizer ({reason}); use another "
        f"tokenizer{' or several answer tokens' if one_token else ''}."
    )


def _pair(item: Item, tokenizer: Tokenizer, one_token: bool) -> Pair | str:
    """The pair of an item, or why there is none."""
    twin = item.corrupted
    if twin is None:
        return NO_TWIN
    clean, corrupted = _tokens(tokenizer, item.prompt), _tokens(tokenizer, twin.prompt)
    answer = _answer(tokenizer, clean, item.prompt, item.gap + item.answer)
    other = _answer(tokenizer, corrupted, twin.prompt, item.gap + twin.answer)
    if answer is None or other is None:
        return "the answer's first token merges with the prompt's last"
    if len(clean) != len(corrupted):
        return "the prompts have different numbers of tokens"
    if one_token and (len(answer) > 1 or len(other) > 1):
        return "an answer has several tokens"
    if len(answer) != len(other):
        return "the answers have different numbers of tokens"
    positions = _positions(tokenizer, clean, item.prompt, item.spans)
    if positions is None or positions != _positions(tokenizer, corrupted, twin.prompt, twin.spans):
        return "the variables are at different positions"
    return Pair(item, clean, corrupted, answer, other, positions)


def _tokens(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text))


def _answer(tokenizer: Tokenizer, ids: tuple[int, ...], prompt: str, answer: str) -> tuple[int, ...] | None:
    """The tokens that an answer adds to those of its prompt; None where it changes them."""
    whole = _tokens(tokenizer, prompt + answer)
    return whole[len(ids) :] if whole[: len(ids)] == ids and len(whole) > len(ids) else None


def _positions(
    tokenizer: Tokenizer, ids: tuple[int, ...], prompt: str, spans: Mapping[str, tuple[tuple[int, int], ...]]
) -> dict[str, tuple[int, ...]] | None:
    """The tokens that hold each variable; None where the tokens do not spell the prompt."""
    ends = list(accumulate(int(tokenizer.byte_lengths[i]) for i in ids))
    before = ends[-1] - len(prompt.encode())  # a space that the tokenizer puts before a text
    if before not in (0, 1):
        return None
    starts = [0, *ends[:-1]]
    found = {}
    for name, places in spans.items():
        there: set[int] = set()
        for span in places:
            start, stop = (len(prompt[:end].encode()) + before for end in span)
            there.update(range(bisect_right(ends, start), bisect_left(starts, stop)))
        found[name] = tuple(sorted(there))
    return found
