"""The formats of published sets of questions, found from the content of a file."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cloche.errors import FileUnreadable, TaskInvalid, shown, why_not_json
from cloche.missing import require_file, unreadable
from cloche.tasks.grading import require_gradable, squeezed

__all__ = ["Row", "read_rows"]

YEARS = [f"{n:02d}" for n in range(100)]
PRONOUNS = {"$NOM_PRONOUN": "they", "$POSS_PRONOUN": "their", "$ACC_PRONOUN": "them"}
GENDERED = r"\b(he|she|they|his|her|their|him|them)\b"
TEXTS = {"prompt", "answer", "corrupted", "corrupted_answer", "attribute", "subject", "object", "input", "output"}
TEXTS |= {
    "clean",
    "corrupted_hard",
    "label",
    "clean_prefix",
    "patch_prefix",
    "clean_answer",
    "patch_answer",
    "sentence",
}
KNOWN = "prompt and answer, and may have corrupted, corrupted_answer and choices"


@dataclass(frozen=True)
class Row:
    """One question of a file; every one of `answers` is right, and the first is the stored one. `choices` are all answers of
    the file where the row has none of its own, and `right` of them are right. An answer keeps the space that it begins with."""

    prompt: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    right: int = 0
    corrupted: str | None = None
    corrupted_answers: tuple[str, ...] = ()


def read_rows(path: str) -> dict[str, Row]:
    """The questions of a file in order, by an id: their prompt and choices. All answers that the file gives to a prompt are
    right, and a question that is there more than once is read once.

    Raises FileMissing, FileUnreadable for a file that is not text or is cut short, and TaskInvalid for one without questions or
    with a row that has no answer.
    """
    found = require_file(path, "a file of questions")
    try:
        return _read(path, found.st_mtime_ns, found.st_size)
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None


@lru_cache(maxsize=8)
def _read(path: str, changed: int, size: int) -> dict[str, Row]:
    text = Path(path).read_text(encoding="utf-8-sig")
    rows: dict[str, Row] = {}
    answers: dict[str, dict[str, None]] = {}  # of a prompt, in order
    for where, record in _records(text, path):
        row = _row(record, f"{where} of {path}")
        _require_text(row, f"{where} of {path}")
        answers.setdefault(row.prompt, {}).update(dict.fromkeys(row.answers))
        rows.setdefault(f"{row.prompt} {'|'.join(row.choices)}", row)
    if not rows:
        raise TaskInvalid(f"{path} has no questions; its rows need {KNOWN}.")
    every = dict.fromkeys(row.answers[0].strip() for row in rows.values())
    listed = tuple(every)
    for key, row in rows.items():
        right = tuple(dict.fromkeys((*row.answers, *answers[row.prompt])))
        if row.choices:
            choices, known = tuple(map(str.strip, row.choices)), {squeezed(each) for each in right}
            rows[key] = replace(row, answers=right, choices=choices, right=sum(squeezed(c) in known for c in choices))
        else:
            rows[key] = replace(row, answers=right, choices=listed, right=sum(each.strip() in every for each in right))
    return rows


def _require_text(row: Row, where: str) -> None:
    """Raises TaskInvalid for a row without a prompt or answer, and for one whose answer no text could give."""
    if not row.prompt.strip() or not row.answers or not all(answer.strip() for answer in row.answers):
        raise TaskInvalid(f"{where} has no {'answer' if row.prompt.strip() else 'prompt'}; complete or remove it.")
    for answer in (*row.answers, *row.corrupted_answers):
        require_gradable(answer, where)
    try:
        "".join((row.prompt, *row.answers, *row.choices, row.corrupted or "", *row.corrupted_answers)).encode()
    except UnicodeEncodeError:
        raise TaskInvalid(f"{where} holds a lone surrogate, which is not Unicode text; replace it.") from None


def _records(text: str, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file, each with the words for its place."""
    start = text.lstrip()[:1]
    if start == ":":
        yield from _analogies(text, path)
    elif start in ("[", "{"):
        yield from _json(text, path)
    elif text.strip():
        heading = text.split("\n", 1)[0]
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in heading else ",", strict=True)
        try:
            for record in reader:
                yield f"Line {reader.line_num}", {name: value or "" for name, value in record.items() if name}
        except csv.Error as error:
            where = f"Line {reader.line_num + 1} of {path}"
            if "field limit" in str(error):
                most = f"{csv.field_size_limit():,}"
                raise FileUnreadable(f"{where} has a cell of more than {most} characters; write JSON lines.") from None
            raise FileUnreadable(f"{where} is damaged ({error}); copy the file again.") from None


def _json(text: str, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a JSON list, of a relation with its templates, or of JSON lines."""
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    by_line = lines[0][1].rstrip().endswith("}")  # an object on its own, not the beginning of a longer text
    try:
        whole: Any = None if by_line and len(lines) > 1 else json.loads(text)
        if whole is None:
            for i, line in lines:
                yield f"Line {i}", json.loads(line)
            return
    except (ValueError, RecursionError) as error:
        where = f"Line {i} of {path}" if by_line and len(lines) > 1 else path
        raise FileUnreadable(f"{where} is not JSON ({why_not_json(error)}); copy the file again.") from None
    shared: dict[str, Any] = {}
    if isinstance(whole, dict) and "samples" in whole:
        given = [whole.get(name) for name in ("prompt_templates_zs", "prompt_templates")]
        templates = [each for listed in given if isinstance(listed, list) for each in listed]
        if not templates or "{}" not in str(templates[0]):
            raise TaskInvalid(
                f"{path} has samples and no prompt template with a {{}} in it; add one as prompt_templates."
            )
        shared, whole = {"template": str(templates[0])}, whole["samples"]
    for i, record in enumerate(whole if isinstance(whole, list) else [whole], 1):
        yield f"Row {i}", {**shared, **record} if isinstance(record, dict) else record


def _analogies(text: str, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Lines of four words, a to b as c to d (Mikolov et al. 2013)."""
    for i, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if words and words[0] != ":":
            if len(words) != 4:
                raise TaskInvalid(f"Line {i} of {path} has {len(words)} words instead of four; complete or remove it.")
            yield f"Line {i}", {"prompt": "{} is to {} as {} is to".format(*words), "answer": f" {words[3]}"}


def _row(record: Any, where: str) -> Row:
    """The question in a record, by the names of its fields."""
    if isinstance(record, dict):
        record = {name: "" if _is_empty(value) else value for name, value in record.items()}
        lists = [name for name in TEXTS & record.keys() if isinstance(record[name], list | dict)]
        if lists:
            raise TaskInvalid(
                f"{where} has a list under {min(lists)}; write one text, and a row for each right answer."
            )
    match record:
        case {"clean": clean, "corrupted": corrupted, "label": label}:  # greater-than (Hanna et al. 2023)
            first = re.search(r"\d\d(\d\d)", str(corrupted))
            others = _later(first[1] if first else "", where)
            return Row(
                str(clean),
                _later(str(label).zfill(2), where),
                tuple(YEARS),
                corrupted=str(corrupted),
                corrupted_answers=others,
            )
        case {"clean": clean, "corrupted_hard": corrupted}:  # indirect object identification (Wang et al. 2023)
            changed = [(a, b) for a, b in zip(str(clean).split(), str(corrupted).split(), strict=False) if a != b]
            if len(changed) != 1:
                raise TaskInvalid(
                    f"{where}: clean and corrupted_hard must differ in one name, not in {len(changed)} words."
                )
            subject, other = changed[0]
            people = (f" {subject}", f" {other}")
            return Row(str(clean), people[1:], people, corrupted=str(corrupted), corrupted_answers=people[:1])
        case {"clean_prefix": clean, "patch_prefix": corrupted, "clean_answer": answer, "patch_answer": other}:
            agreeing, other = str(answer), str(other)  # subject-verb agreement (Marks et al. 2024)
            verbs = (agreeing, other)
            return Row(str(clean), verbs[:1], verbs, corrupted=str(corrupted), corrupted_answers=verbs[1:])
        case {"input": given, "output": answer}:  # function vectors (Todd et al. 2024)
            listed = tuple(f" {each}" for each in str(given).split(", "))
            return Row(f"Q: {given}\nA:", _spaced(answer), listed if f" {answer}" in listed and len(listed) > 1 else ())
        case {"template": template, "subject": subject, "object": answer}:  # relations (Hernandez et al. 2024)
            return Row(str(template).replace("{}", str(subject)), _spaced(answer))
        case {"prompt": prompt, "attribute": answer}:  # known facts (Meng et al. 2022)
            return Row(str(prompt), _spaced(answer))
        case {"occupation(0)": a, "other-participant(1)": b, "answer": answer, "sentence": sentence}:  # Winogender
            for name, word in {"$OCCUPATION": a, "$PARTICIPANT": b, **PRONOUNS}.items():
                sentence = str(sentence).replace(name, str(word))
            return _referent(str(sentence), (str(a), str(b)), str(answer), where)
        case {"sentid": sentid, "sentence": sentence} if str(sentid).count(".") >= 3:
            a, b, answer, *_ = str(sentid).split(".")
            return _referent(str(sentence), (str(a), str(b)), str(answer), where)
        case {"prompt": prompt}:
            return _generic(str(prompt), record, where)
    names = ", ".join(map(str, record))[:100] if isinstance(record, dict) else type(record).__name__
    raise TaskInvalid(f"{where} is of no known format (it has {names}); rows need {KNOWN}.")


def _is_empty(value: Any) -> bool:
    """Whether a cell is null, or what a table writes for an empty one (NaN) and for a number that it could not hold."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _generic(prompt: str, record: Mapping[str, Any], where: str) -> Row:
    answer, corrupted, other = (
        None if record.get(name, "") == "" else record[name] for name in ("answer", "corrupted", "corrupted_answer")
    )
    choices = record.get("choices") or ()
    if isinstance(choices, str):
        choices = choices.split("|")
    if not isinstance(choices, list | tuple) or not all(isinstance(each, str | int | float) for each in choices):
        raise TaskInvalid(f"{where} has choices that are not a list of texts; write them as such, or between |.")
    if choices and squeezed(str(answer)) not in map(squeezed, map(str, choices)):
        raise TaskInvalid(
            f"{where}: the answer {shown(answer)} is not among the choices; add it, or leave the choices out."
        )
    if (corrupted is None) != (other is None):
        raise TaskInvalid(f"{where} has one of corrupted and corrupted_answer; add the other.")
    space = "" if prompt[-1:].isspace() else " "
    spaced = [
        tuple(_spaced(each, space)[0] for each in group) for group in (choices, () if other is None else (other,))
    ]
    twin = None if corrupted is None else str(corrupted)
    return Row(prompt, _spaced(answer, space), spaced[0], corrupted=twin, corrupted_answers=spaced[1])


def _spaced(answer: Any, space: str = " ") -> tuple[str]:
    text = "" if answer is None else str(answer)
    return (text if text[:1].isspace() or not text else space + text,)


def _later(year: str, where: str) -> tuple[str, ...]:
    if year not in YEARS[:-1]:
        raise TaskInvalid(f"{where}: the label must be the last two digits of a year before 99, not {shown(year)}.")
    return tuple(YEARS[int(year) + 1 :])


def _referent(sentence: str, people: tuple[str, str], answer: str, where: str) -> Row:
    """Whom the pronoun of a sentence refers to (Rudinger et al. 2018)."""
    pronoun = re.search(GENDERED, sentence)
    if answer not in ("0", "1") or pronoun is None:
        raise TaskInvalid(f"{where} has no answer, 0 or 1, or no pronoun; complete or remove it.")
    choices = tuple(" someone" if each == "someone" else f" the {each}" for each in people)
    return Row(f'{sentence} Here "{pronoun[0]}" refers to', (choices[int(answer)],), choices)
