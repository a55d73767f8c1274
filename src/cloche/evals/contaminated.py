"""Whether the items of a task are in a corpus."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from cloche.data import Document
from cloche.drawing import Finding, Provenance, Table
from cloche.errors import CorpusEmpty, require_whole
from cloche.evals.answering import items_of
from cloche.evals.evaluating import tasks_of
from cloche.evals.intervals import wilson
from cloche.tasks import Item, Task

__all__ = ["contamination"]

WORD = re.compile(r"\w+|[^\w\s]")
SHOWN = 10  # contaminated items in the table
CARRIED = 10_000  # characters of a piece of a document that are read again with the next one
OTHER = 1_000_003  # the renaming of the null's items


def contamination(
    tasks: Sequence[Task | str] | Task | str,
    documents: Iterable[Document | str],
    n: int = 8,
    limit: int = 1000,
    seed: int = 0,
) -> Finding:
    """The share of a task's test items that a corpus holds: `whole`, the prompt with its answer, word for word; `overlap`,
    any run of `n` words of it (Brown et al. 2020 take 13). Words are compared without case and blanks.

    documents: texts, or what `cloche.data.documents` reads. The null is the same of an isomorphic variant of the
    items, which no corpus was made from (of questions from a file, of their words in another order): what short items
    share with any text. One pass, in memory of the items.

    >>> from cloche.evals import contamination
    >>> from cloche.tasks import Add
    >>> items = Add().examples(5, 6, split="test")
    >>> found = contamination([Add()], [f"{item.prompt}{item.answer}" for item in items], limit=40)
    >>> found.figures["whole"] > 0, found.null["whole"]
    (True, 0.0)
    """
    require_whole(1, n=n, limit=limit)
    require_whole(seed=seed)
    groups = [(task, items_of(task, limit, None, seed)) for task in tasks_of(tasks)]
    others = [(task, _null(task, items, limit, seed)) for task, items in groups]
    wanted = {gram for _, items in groups + others for item in items for gram in (*_grams(item, n), _whole(item))}
    seen, read = _seen([documents] if isinstance(documents, str) else documents, wanted, n)
    if not read:
        raise CorpusEmpty("The corpus holds no words; name files of text.")
    rows = [_row(task, items, seen, n) for task, items in groups]
    null = [_row(task, items, seen, n) for task, items in others]
    figures = {key: _mean(rows, key) for key in ("whole", "overlap")}
    held = [(str(task), item) for task, items in groups for item in items if _whole(item) in seen]
    panels = [
        Table(
            "Items in the corpus",
            ("task", "items", "whole", "low", "high", "overlap", "null whole", "null overlap"),
            tuple((*row.values(), other["whole"], other["overlap"]) for row, other in zip(rows, null, strict=True)),
            ("token", "count", *("percent",) * 6),
        )
    ]
    if held:
        first = tuple((name, f"{item.prompt}{item.gap}{item.answer}"[:200]) for name, item in held[:SHOWN])
        panels.append(Table("The first that were found", ("task", "text"), first, ("token", "token")))
    data = {"n": n, "limit": limit, "words": read, "tasks": rows, "held": [item.problem_id for _, item in held]}
    summary = (
        f"{figures['whole']:.1%} of {sum(row['items'] for row in rows)} test items are in the corpus word for word (null "
        f"{_mean(null, 'whole'):.1%}), and {figures['overlap']:.1%} share {n} words in a row with it (null "
        f"{_mean(null, 'overlap'):.1%}), over {read:,} words."
    )
    about = Provenance("contamination", "corpus", seed=seed)
    return Finding(about, summary, figures, data, null={key: _mean(null, key) for key in figures}, panels=tuple(panels))


def _null(task: Task, items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """Items that no corpus was made from, but of the same words."""
    if not task.reads_files:
        return items_of(task.variant(OTHER), limit, None, seed)
    rng = Random(f"null {seed}")
    mixed = [rng.sample(words, len(words)) for words in map(_whole, items)]
    return [replace(item, prompt=" ".join(words), answer="") for item, words in zip(items, mixed, strict=True)]


def _words(text: str) -> list[str]:
    return [match.group() for match in WORD.finditer(text.lower())]


def _whole(item: Item) -> tuple[str, ...]:
    return tuple(_words(f"{item.prompt}{item.gap}{item.answer}"))


def _grams(item: Item, n: int) -> set[tuple[str, ...]]:
    """The runs of `n` words of an item with its answer; the whole of a shorter one."""
    words = _whole(item)
    return {words[i : i + n] for i in range(max(1, len(words) - n + 1))}


def _seen(
    documents: Iterable[Document | str], wanted: set[tuple[str, ...]], n: int
) -> tuple[set[tuple[str, ...]], int]:
    """Those of the wanted runs of words that the corpus holds, and its number of words."""
    starts: dict[str, set[int]] = {}
    for gram in wanted:
        starts.setdefault(gram[0], set()).add(len(gram))
    found: set[tuple[str, ...]] = set()
    read, before = 0, ""
    for document in documents:
        text, last = (document, True) if isinstance(document, str) else (document.text, document.last)
        words = _words(before + text)
        read += len(words) - len(_words(before))
        for i, word in enumerate(words):
            for length in starts.get(word, ()):
                gram = tuple(words[i : i + length])
                if gram in wanted:
                    found.add(gram)
        before = "" if last else (before + text)[-CARRIED:]
    return found, read


def _row(task: Task, items: Sequence[Item], seen: set[tuple[str, ...]], n: int) -> dict[str, Any]:
    whole = sum(_whole(item) in seen for item in items)
    overlap = sum(not _grams(item, n).isdisjoint(seen) for item in items)
    low, high = wilson(whole, len(items))
    return {
        "task": str(task),
        "items": len(items),
        "whole": whole / len(items),
        "low": low,
        "high": high,
        "overlap": overlap / len(items),
    }


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    return float(sum(row[key] * row["items"] for row in rows) / sum(row["items"] for row in rows))
