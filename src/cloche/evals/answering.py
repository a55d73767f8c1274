"""What a model answers to the items of a task: what it writes, and which answer it finds likeliest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cloche.errors import TaskInvalid
from cloche.evals.scoring import Rows, fitting_rows, is_far_beyond, score_ids
from cloche.evals.shots import Labels, Prompt, few_shot, unseen_words
from cloche.glass import Glass
from cloche.tasks import Item, Task

__all__ = ["Answered", "answer_items", "items_of", "scored_choices", "shots_of"]

ROWS = 32  # texts written at a time
SPARE = 4  # tokens written beyond the longest answer, so that a longer one shows
MOST_CHOICES = 50  # of an item, that are scored


@dataclass(frozen=True)
class Answered:
    """One item as a model answered it: `strict` and `partial` of what it wrote, `begins` whether that begins with the stored
    answer as a whole word, `choice` whether the likeliest choice is
    right (None where the task lists none), `per_byte` the same by log-probability per byte, and `chance` of a guess.

    >>> from cloche.evals import Answered
    >>> from cloche.tasks import Add
    >>> Answered(Add().example(1), "12", 0.0, 0.0, False, None, None, 0.1).written
    '12'
    """

    item: Item
    written: str
    strict: float
    partial: float
    begins: bool
    choice: bool | None
    per_byte: bool | None
    chance: float


def items_of(task: Task, limit: int, level: int | None = None, seed: int = 0, shots: int = 0) -> list[Item]:
    """About `limit` test items, equally many of every level, or of one; of a file every item that is not one of the shots.

    Raises TaskInvalid where there are none.
    """
    levels = list(task.levels) if level is None else [level]
    each = -(-limit // len(levels))
    if task.reads_files:
        before = {item.problem_id for n in levels for item in shots_of(task, n, shots, seed)}
        found = [item for n in levels for item in task.examples(each + shots, n, seed) if item.problem_id not in before]
        found = found[:limit]
    else:
        found = [item for n in levels for item in task.examples(each, n, seed, "test")]
    if not found:
        raise TaskInvalid(f"{task} has no test items; give another level or a larger file.")
    return found[:limit] if level is not None else found


def answer_items(
    subject: Glass, task: Task, items: Sequence[Item], shots: int = 0, seed: int = 0, labels: Labels = "true"
) -> list[Answered]:
    """What a model answers to items, each after `shots` training items of the same level. Items whose prompt with its shots
    and its answer has more tokens than the model's context are left out; so are choices of which one has.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.evals import answer_items
    >>> from cloche.tasks import Add
    >>> tokenizer = cloche.train_bpe(["a"], vocab=259)
    >>> glass = cloche.Glass(LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0), tokenizer)
    >>> len(answer_items(glass, Add(), Add().examples(3), shots=2))
    3
    """
    words = unseen_words(task, items, seed) if labels == "unseen" else None
    before = {level: shots_of(task, level, shots, seed) for level in {item.level for item in items}}
    prompts = (few_shot(item, before[item.level], labels, words, seed) for item in items)
    asked = [made for prompt in prompts if (made := _asked(subject, task, prompt)) is not None]
    out = []
    for each, text, (choice, per_byte) in zip(
        asked, _write(subject, asked), _likeliest(subject, task, asked), strict=True
    ):
        item, answers = each.prompt.item, each.prompt.answers
        back = {word: answer for answer, word in answers.items()}
        score = task.verify(item, back.get(text.strip(), "") if back else text)
        begins = _begins(text, answers.get(item.answer, item.answer))
        chance = float(task.chance_of(item))
        out.append(Answered(item, text, score.strict, score.partial, begins, choice, per_byte, chance))
    return out


@dataclass(frozen=True)
class _Asked:
    """A prompt of `tokens`, after which at most `new` are written, and its choices, each a row of ids to score."""

    prompt: Prompt
    tokens: int
    new: int
    choices: tuple[str, ...]
    rows: Rows


def _asked(subject: Glass, task: Task, prompt: Prompt) -> _Asked | None:
    """What is asked of a model with a prompt; None if that with its answer is beyond its context. Choices of which one is
    beyond it are left out."""
    tokenizer, most, item = subject.need_tokenizer(), subject.net.most_tokens, prompt.item
    if is_far_beyond(tokenizer, prompt.text, most):
        return None
    tokens = subject.ids([prompt.text])[0].shape[1]
    new = len(tokenizer.encode(_written_as(prompt, item.answer), special=False)) + SPARE
    if most is not None and tokens + new > most:
        return None
    choices = scored_choices(task, item)
    rows = fitting_rows(tokenizer, prompt.text, [_written_as(prompt, choice) for choice in choices], most)
    return _Asked(prompt, tokens, new, () if rows is None else choices, rows or [])


def scored_choices(task: Task, item: Item) -> tuple[str, ...]:
    """The choices of an item; none where they are too many to score."""
    choices = tuple(task.offered(item))
    return choices if 2 <= len(choices) <= MOST_CHOICES else ()


def _written_as(prompt: Prompt, answer: str) -> str:
    """An answer as it stands after the prompt."""
    return prompt.item.gap + prompt.answers.get(answer, answer)


def _begins(text: str, answer: str) -> bool:
    """Whether a text begins with the answer, and goes on with another word if it goes on."""
    rest = text.lstrip().removeprefix(answer)
    return len(rest) < len(text.lstrip()) and not rest[:1].isalnum()


def shots_of(task: Task, level: int, n: int, seed: int) -> list[Item]:
    """Training items of a level; the same before every question of that level. Raises TaskInvalid for too few."""
    found = task.examples(n, level, seed + 1, "train") if n else []
    if len(found) < n:
        raise TaskInvalid(f"{task} has only {len(found)} training items at level {level}; ask for fewer shots.")
    return found


def _write(subject: Glass, asked: Sequence[_Asked]) -> list[str]:
    """What the model writes after each prompt, up to the end of the line."""
    found: list[str] = []
    for batch in _batches(asked, subject.net.most_tokens):
        texts, new = [each.prompt.text for each in batch], max(each.new for each in batch)
        found += subject.generate(texts, new=new, temperature=0, stop=["\n"])
    return found


def _batches(asked: Sequence[_Asked], most: int | None) -> Iterator[list[_Asked]]:
    """Prompts to continue together, in order: the longest with the most new tokens is within the context."""
    batch: list[_Asked] = []
    tokens = new = 0
    for each in asked:
        tokens, new = max(tokens, each.tokens), max(new, each.new)
        if batch and (len(batch) == ROWS or (most is not None and tokens + new > most)):
            yield batch
            batch, tokens, new = [], each.tokens, each.new
        batch.append(each)
    if batch:
        yield batch


def _likeliest(subject: Glass, task: Task, asked: Sequence[_Asked]) -> list[tuple[bool | None, bool | None]]:
    """Whether each item's likeliest choice is right, by log-probability and by that per byte."""
    scored = iter(score_ids(subject.net, [row for each in asked for row in each.rows]))
    found: list[tuple[bool | None, bool | None]] = []
    for each in asked:
        if not each.choices:
            found.append((None, None))
            continue
        logprobs = {choice: next(scored).logprob for choice in each.choices}
        sizes = {choice: max(1, len(_written_as(each.prompt, choice).encode())) for choice in each.choices}
        values = each.prompt.item.values
        likeliest = max(each.choices, key=lambda c: (logprobs[c], c))
        per_byte = max(each.choices, key=lambda c: (logprobs[c] / sizes[c], logprobs[c], c))
        found.append((task.is_right(values, likeliest), task.is_right(values, per_byte)))
    return found
