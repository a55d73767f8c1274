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
from cloche.errors import ContextExceeded, FileMissing, RecordInvalid, require_whole, why_not_json
from cloche.evals.intervals import wilson
from cloche.evals.scoring import Rows, Scored, fitting_rows, score_ids
from cloche.glass import Glass
from cloche.missing import require_file, unreadable

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
    limit: pairs of each file. Pairs longer than the model's context are left out, and a note counts them.

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
    given = list(_records(path, ("sentence_good", "sentence_bad"), limit))
    records, rows, notes = [], list[tuple[list[int], list[int]]](), []
    for record in given:
        good, bad = (_row(subject, "", record[key]) for key in ("sentence_good", "sentence_bad"))
        if good and bad:
            records.append(record)
            rows += [*good, *bad]
    notes = _left_out(subject, path, "pairs", len(given), len(records))
    scores = [scored.logprob for scored in score_ids(subject.net, rows)]
    right = [_won(good, bad) for good, bad in zip(scores[::2], scores[1::2], strict=True)]
    groups: dict[str, list[float]] = defaultdict(list)
    for record, won in zip(records, right, strict=True):
        groups[next((str(record[key])[:80] for key in GROUPS if key in record), Path(path).stem)].append(won)
    low, high = wilson(sum(right), len(right))
    figures = {"accuracy": fmean(right), "low": low, "high": high}
    by_group = {name: {"pairs": len(won), "accuracy": fmean(won)} for name, won in groups.items()}
    data = {"file": Path(path).name, "pairs": len(records), "groups": by_group, "scores": scores, "notes": notes}
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

    path: a file of JSON lines with `text`, as LAMBADA's. The null is the same with every text before another's last word;
    a single text has none. Texts longer than the model's context are left out, and a note counts them.

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
    given = []
    for i, record in enumerate(_records(path, ("text",), limit), 1):
        before, _, word = record["text"].rstrip().rpartition(" ")
        if not before.strip():
            raise RecordInvalid(f"Text {i} of {path} has a single word, so nothing is before it; leave it out.")
        given.append((before, f" {word}"))
    made = [(text, row) for text in given if (row := _row(subject, *text)) is not None]
    notes = _left_out(subject, path, "texts", len(given), len(made))
    split, scored = [text for text, _ in made], score_ids(subject.net, [row for _, rows in made for row in rows])
    shifted = [_row(subject, before, split[i - 1][1]) for i, (before, _) in enumerate(split)] if len(split) > 1 else []
    null = score_ids(subject.net, [row for rows in shifted if rows for row in rows])
    figures = _words(scored)
    low, high = wilson(sum(each.greedy for each in scored), len(scored))
    data = {
        "file": Path(path).name,
        "texts": len(scored),
        "logprobs": [each.logprob for each in scored],
        "notes": notes,
    }
    summary = (
        f"The model writes {figures['accuracy']:.1%} of {len(scored)} last words (95% interval {low:.1%} to {high:.1%}), with "
        f"a perplexity of {figures['perplexity']:.4g}."
    )
    about = Provenance("last-words", subject.checkpoint)
    return Finding(about, summary, figures | {"low": low, "high": high}, data, null=_words(null) if null else None)


def _row(subject: Glass, before: str, after: str) -> Rows | None:
    return fitting_rows(subject.need_tokenizer(), before, [after], subject.net.most_tokens)


def _left_out(subject: Glass, path: Path, what: str, given: int, kept: int) -> list[str]:
    """A note about those beyond the context. Raises ContextExceeded if all are."""
    if kept == given:
        return []
    said = f"{given - kept} of {given} {what} of {path} have more tokens than the model's context of"
    if not kept:
        raise ContextExceeded(f"{said} {subject.net.most_tokens:,}; shorten them.")
    return [f"{said} {subject.net.most_tokens:,} and are left out; shorten them."]


def _words(scored: list[Scored]) -> dict[str, float]:
    nats = -fmean(each.logprob for each in scored)
    return {"accuracy": fmean(each.greedy for each in scored), "perplexity": exp(min(nats, 700.0))}


def _won(good: float, bad: float) -> float:
    return 0.5 if good == bad else float(good > bad)


def _records(path: Path, keys: tuple[str, ...], limit: int | None) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file, or of the .jsonl files of a folder, each of which has texts under `keys`."""
    require_whole(1, limit=1 if limit is None else limit)
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise FileMissing(f"{path} is a folder without .jsonl files; name a folder that has some, or a file.")
    for file in files:
        require_file(file, f"a file of JSON lines with {' and '.join(keys)}, or of a folder of them")
    found = False
    for file in files:
        count = 0
        for number, line in enumerate(_text(file).split("\n"), 1):  # other ends of a line may be in a JSON text
            if not line.strip():
                continue
            if count == limit:
                break
            yield _record(line, keys, f"Line {number} of {file}")
            count, found = count + 1, True
    if not found:
        raise RecordInvalid(f"{path} holds no records; give JSON lines with {' and '.join(keys)}.")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(file, error) from None


def _record(line: str, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordInvalid(f"{where} is not JSON ({why_not_json(error)}); write one object per line.") from None
    missing = [key for key in keys if not isinstance(record, dict) or not _is_text(record.get(key))]
    if missing:
        raise RecordInvalid(f"{where} has no text under {' and '.join(missing)}; write one object per line with it.")
    return dict(record)


def _is_text(value: object) -> bool:
    """Whether it is a text with something in it, and without lone surrogates, which no tokenizer reads."""
    return isinstance(value, str) and bool(value.strip()) and value.encode(errors="replace").decode() == value
