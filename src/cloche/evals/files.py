"""Benchmarks read from files named by path: minimal pairs as in BLiMP, last words as in LAMBADA."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any

from cloche.drawing import Finding, Provenance, Table
from cloche.errors import ArgumentRange, FileMissing, FileUnreadable, RecordInvalid
from cloche.evals.intervals import wilson
from cloche.evals.scoring import Scored, continuation_ids, score_ids
from cloche.glass import Glass
from cloche.text import Tokenizer

__all__ = ["last_words", "minimal_pairs"]

GROUPS = (
    "linguistics_term",
    "UID",
    "field",
)  # the keys of BLiMP that name a phenomenon; the first that is there groups


def minimal_pairs(subject: Glass, path: Path, limit: int | None = None) -> Finding:
    """Share of minimal pairs whose acceptable sentence the model finds likelier than the other (Warstadt et al. 2020).

    path: a file of JSON lines with `sentence_good` and `sentence_bad`, or a folder of them. Each sentence is scored as a
    whole, after the end-of-text token where the tokenizer has one; equal scores count half. The null is a guess, 50%.
    limit: pairs of each file.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from pathlib import Path
    >>> from cloche.evals import minimal_pairs
    >>> tokenizer = cloche.train_bpe(["a"], vocab=259)
    >>> glass = cloche.Glass(LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0), tokenizer)
    >>> written = Path("pairs.jsonl").write_text('{"sentence_good": "He runs.", "sentence_bad": "He run."}')
    >>> minimal_pairs(glass, Path("pairs.jsonl")).data["pairs"]
    1
    """
    tokenizer = subject.need_tokenizer()
    records = list(_records(path, ("sentence_good", "sentence_bad"), limit))
    rows = [
        continuation_ids(tokenizer, "", record[key]) for record in records for key in ("sentence_good", "sentence_bad")
    ]
    scores = [scored.logprob for scored in score_ids(subject.net, rows)]
    right = [_won(good, bad) for good, bad in zip(scores[::2], scores[1::2], strict=True)]
    groups: dict[str, list[float]] = defaultdict(list)
    for record, won in zip(records, right, strict=True):
        groups[next((str(record[key])[:80] for key in GROUPS if key in record), Path(path).stem)].append(won)
    low, high = wilson(sum(right), len(right))
    figures = {"accuracy": fmean(right), "low": low, "high": high}
    by_group = {name: {"pairs": len(won), "accuracy": fmean(won)} for name, won in groups.items()}
    data = {"file": Path(path).name, "pairs": len(records), "groups": by_group, "scores": scores}
    table = Table(
        "Pairs judged right",
        ("phenomenon", "pairs", "accuracy", "low", "high"),
        tuple((name, len(won), fmean(won), *wilson(sum(won), len(won))) for name, won in groups.items()),
        ("token", "count", "percent", "percent", "percent"),
    )
    summary = (
        f"The model finds the acceptable sentence likelier in {fmean(right):.1%} of {len(right)} pairs (95% interval {low:.1%} "
        f"to {high:.1%}; chance 50%)."
    )
    about = Provenance("minimal-pairs", subject.checkpoint)
    return Finding(about, summary, figures, data, null={"accuracy": 0.5}, panels=(table,))


def last_words(subject: Glass, path: Path, limit: int | None = None) -> Finding:
    """Share of texts whose last word the model writes, each of its tokens being the likeliest (Paperno et al. 2016), and
    the perplexity of those words.

    path: a file of JSON lines with `text`, as LAMBADA's. The null is the same with every text before another's last word.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from pathlib import Path
    >>> from cloche.evals import last_words
    >>> tokenizer = cloche.train_bpe(["a"], vocab=259)
    >>> glass = cloche.Glass(LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0), tokenizer)
    >>> written = Path("lambada.jsonl").write_text('{"text": "He ran home"}')
    >>> last_words(glass, Path("lambada.jsonl")).data["texts"]
    1
    """
    tokenizer = subject.need_tokenizer()
    texts = [record["text"].rstrip() for record in _records(path, ("text",), limit)]
    split = [text.rpartition(" ") for text in texts]
    for i, (before, _, word) in enumerate(split):
        if not before or not word:
            raise RecordInvalid(f"Text {i + 1} of {path} has a single word, so nothing is before it; leave it out.")
    scored = _scored(subject, tokenizer, [(before, f" {word}") for before, _, word in split])
    shifted = [(before, f" {split[i - 1][2]}") for i, (before, _, _) in enumerate(split)]
    null = _scored(subject, tokenizer, shifted)
    figures = _words(scored)
    low, high = wilson(sum(each.greedy for each in scored), len(scored))
    data = {"file": Path(path).name, "texts": len(texts), "logprobs": [each.logprob for each in scored]}
    summary = (
        f"The model writes {figures['accuracy']:.1%} of {len(texts)} last words (95% interval {low:.1%} to {high:.1%}), with "
        f"a perplexity of {figures['perplexity']:.4g}."
    )
    about = Provenance("last-words", subject.checkpoint)
    return Finding(about, summary, figures | {"low": low, "high": high}, data, null=_words(null))


def _scored(subject: Glass, tokenizer: Tokenizer, asked: list[tuple[str, str]]) -> list[Scored]:
    return score_ids(subject.net, [continuation_ids(tokenizer, before, after) for before, after in asked])


def _words(scored: list[Scored]) -> dict[str, float]:
    nats = -fmean(each.logprob for each in scored)
    return {"accuracy": fmean(each.greedy for each in scored), "perplexity": exp(min(nats, 700.0))}


def _won(good: float, bad: float) -> float:
    return 0.5 if good == bad else float(good > bad)


def _records(path: Path, keys: tuple[str, ...], limit: int | None) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file, or of the .jsonl files of a folder, each of which has texts under `keys`."""
    if limit is not None and limit < 1:
        raise ArgumentRange(f"limit={limit} must be at least 1.")
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise FileMissing(f"{path} is not a file of JSON lines, nor a folder that holds .jsonl files; name one.")
    found = False
    for file in files:
        count = 0
        for number, line in enumerate(_text(file).split("\n"), 1):  # other ends of a line may be in a JSON text
            if not line.strip():
                continue
            if count == limit:
                break
            yield _record(line, keys, f"line {number} of {file}")
            count, found = count + 1, True
    if not found:
        raise RecordInvalid(f"{path} holds no records; give JSON lines with {' and '.join(keys)}.")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileUnreadable(f"{file} is not UTF-8 text ({error}); save it as UTF-8.") from None
    except OSError as error:
        raise FileUnreadable(f"{file} cannot be read ({error.strerror}); copy it there again.") from None


def _record(line: str, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordInvalid(f"{where} is not JSON ({str(error)[:100]}); write one object per line.") from None
    missing = [key for key in keys if not isinstance(record, dict) or not _is_text(record.get(key))]
    if missing:
        raise RecordInvalid(f"{where} has no text under {' and '.join(missing)}; write one object per line with it.")
    return dict(record)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
