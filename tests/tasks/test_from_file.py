"""Published sets of questions are read where they are: every format, twins, and one sentence for what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import cloche
from cloche.errors import ClocheError, FileMissing, FileUnreadable, SettingInvalid, TaskInvalid
from cloche.part import part_from_line
from cloche.tasks import FromFile, Item, PromptPair, Task, attacks

Shared = Callable[[str], Path]
EXPECTED = {  # file: different questions, the first prompt with its gap and answer, the first twin's answer
    "greater_than_data.csv": (975, "The contract lasted from the year 1352 to the year 13|53", "02"),
    "ioi_dual_path.json": (841, "... Eleanor wanted to give a watermelon to| Deanna", None),
    "ioi_llama.csv": (499, "... Aaron decided to give a drink to| Amber", "Aaron"),
    "known_1000.json": (1208, "Vinson Massif is located in the continent of| Antarctica", None),
    "questions-words.txt": (19354, "Athens is to Greece as Baghdad is to| Iraq", None),
    "function_vectors/abstractive/country-capital.json": (197, "Q: Afghanistan\nA:| Kabul", None),
    "function_vectors/extractive/animal_v_object_3.json": (1000, "Q: paintbrush, paper, mantis\nA:| mantis", None),
    "relations/factual/city_in_country.json": (27, "New York City is part of the country of| United States", None),
    "sva/simple_test.json": (85, "The uncle| has", "have"),
    "winogender/all_sentences.tsv": (720, '... pay with cash. Here "he" refers to| the customer', None),
    "winogender/templates.tsv": (120, '... pay with cash. Here "they" refers to| the customer', None),
}


def written(path: Path, text: str) -> FromFile:
    path.write_text(text, encoding="utf-8")
    return FromFile(str(path))


def items(task: FromFile) -> list[Item]:
    return list(task.distinct(1))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_published_file_is_read_whole(shared: Shared, name: str) -> None:
    task = FromFile(str(shared(f"interp/{name}")))
    n, first, twin = EXPECTED[name]
    found = items(task)
    assert len(found) == n
    assert f"{found[0].prompt}|{found[0].gap}{found[0].answer}".endswith(first.removeprefix("..."))
    assert (found[0].corrupted and found[0].corrupted.answer) == twin
    for item in found[:: len(found) // 20]:
        assert task.verify(item, item.answer).strict == 1
        assert item.answer in task.choices(item.values)
        assert 0 < task.chance(item.values) <= 1
        assert not [name for name, text in attacks(task, item).items() if task.verify(item, text).strict]
        if item.corrupted:
            assert task.verify(item, item.corrupted.answer).strict == 0
            assert task.graph(item).predict(prompt=item.corrupted.prompt)["answer"] != item.answer


@pytest.mark.parametrize("folder", ["function_vectors", "relations", "sva", "winogender"])
def test_every_file_of_a_folder_is_read(shared: Shared, folder: str) -> None:
    paths = sorted(path for path in shared(f"interp/{folder}").rglob("*.*") if "_train" not in path.name)
    assert len(paths) > 1
    for path in paths:
        task = FromFile(str(path))
        for item in task.examples(20):
            assert task.verify(item, item.answer).strict == 1


def test_every_answer_of_a_prompt_is_right(shared: Shared) -> None:
    task = FromFile(str(shared("interp/greater_than_data.csv")))
    item = items(task)[0]
    assert [task.verify(item, year).strict for year in ("52", "53", "99", "04")] == [0, 1, 1, 0]
    assert task.chance(item.values) == pytest.approx(0.47)


def test_pairs_of_a_file_line_up(shared: Shared) -> None:
    tokenizer = cloche.train_bpe(["a"], vocab=259)
    found = FromFile(str(shared("interp/greater_than_data.csv"))).items(tokenizer, 20)
    assert len(found) == 20 and not found.refused


def test_a_cell_may_hold_several_lines(tmp_path: Path) -> None:
    task = written(tmp_path / "rows.csv", 'prompt,answer\n"Two\nlines:",yes\n')
    assert [item.prompt for item in items(task)] == ["Two\nlines:"]


GENERIC = {
    "rows.jsonl": '{"prompt": "2+2=", "answer": 4, "corrupted": "2+3=", "corrupted_answer": "5", "choices": [4, 5]}\n\n',
    "rows.json": '[{"prompt": "2+2=", "answer": "4", "corrupted": "2+3=", "corrupted_answer": "5", "choices": ["4", "5"]}]',
    "rows.csv": "prompt,answer,corrupted,corrupted_answer,choices\n2+2=,4,2+3=,5,4|5\n",
    "rows.tsv": "prompt\tanswer\tcorrupted\tcorrupted_answer\tchoices\n2+2=\t4\t2+3=\t5\t4|5\n",
}


@pytest.mark.parametrize("name", GENERIC)
def test_generic_rows(tmp_path: Path, name: str) -> None:
    task = written(tmp_path / name, GENERIC[name])
    (item,) = items(task)
    assert (item.prompt, item.answer, item.level) == ("2+2=", "4", 1)
    assert item.corrupted and (item.corrupted.prompt, item.corrupted.answer) == ("2+3=", "5")
    assert list(task.choices(item.values)) == ["4", "5"] and task.chance(item.values) == pytest.approx(0.5)
    assert task.example(1, 5) == item


def test_answers_to_one_prompt_are_put_together(tmp_path: Path) -> None:
    rows = [{"prompt": "A colour:", "answer": each} for each in ("red", "blue", "red")]
    task = written(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, rows)))
    (item,) = items(task)
    assert [task.verify(item, each).strict for each in ("red", "blue", "green")] == [1, 1, 0]


BAD = {
    "empty": ("", TaskInvalid, "has no questions"),
    "an empty list": ("[]", TaskInvalid, "has no questions"),
    "a heading alone": ("prompt,answer\n", TaskInvalid, "has no questions"),
    "cut JSON": ('[{"prompt": "a", "answer": "b"}, {"pro', FileUnreadable, "is not JSON"),
    "a cut line": ('{"prompt": "a", "answer": "b"}\n{"prompt": "c", "ans', FileUnreadable, "Line 2 of .* is not JSON"),
    "a row without an answer": (
        '{"prompt": "a", "answer": "b"}\n{"prompt": "c"}\n',
        TaskInvalid,
        "Line 2 of .* has no answer",
    ),
    "an empty answer": ("prompt,answer\na,b\nc,\n", TaskInvalid, "Line 3 of .* has no answer"),
    "null": ('[{"prompt": "a", "answer": null}]', TaskInvalid, "Row 1 of .* has no answer"),
    "no prompt": ('[{"prompt": " ", "answer": "b"}]', TaskInvalid, "Row 1 of .* has no prompt"),
    "unknown columns": (
        "question,reply\na,b\n",
        TaskInvalid,
        r"Line 2 of .* no known format \(it has question, reply\)",
    ),
    "not objects": ("[1, 2]", TaskInvalid, r"no known format \(it has int\)"),
    "an open quote": ('prompt,answer\n"a,b\n', FileUnreadable, "Line 2 of .* is damaged"),
    "three words": (": family\nboy girl king\n", TaskInvalid, "Line 2 of .* has 3 words instead of four"),
    "half a twin": ('{"prompt": "a", "answer": "b", "corrupted": "c"}', TaskInvalid, "add the other"),
    "a foreign choice": ('{"prompt": "a", "answer": "b", "choices": ["c"]}', TaskInvalid, "is not among the choices"),
    "a year of three digits": (
        "clean,corrupted,label\na 13,b 01 to the year 13,131\n",
        TaskInvalid,
        "two digits of a year",
    ),
    "no template": ('{"samples": [{"subject": "a", "object": "b"}]}', TaskInvalid, "no prompt template"),
    "a number for a prompt": ('[{"clean": 1, "corrupted": 2, "label": 3}]', TaskInvalid, "Row 1"),
    "samples that are no list": ('{"samples": 3, "prompt_templates": ["{}"]}', TaskInvalid, "no known format"),
    "an answer of two lines": ('{"prompt": "a", "answer": "b\\nc"}', TaskInvalid, "which cannot be graded"),
    "an answer that holds the mark": ('{"prompt": "a", "answer": "Answer: b"}', TaskInvalid, "which cannot be graded"),
    "an endless answer": (json.dumps({"prompt": "a", "answer": "b" * 10**6}), TaskInvalid, "which cannot be graded"),
    "a lone surrogate": ('{"prompt": "a\\ud800", "answer": "b"}', TaskInvalid, "Row 1 of .* lone surrogate"),
    "a list of answers": ('{"prompt": "a", "answer": ["b", "c"]}', TaskInvalid, "a row for each right answer"),
    "no list of choices": ('{"prompt": "a", "answer": "b", "choices": 5}', TaskInvalid, "not a list of texts"),
    "no list of templates": ('{"samples": [], "prompt_templates": 5}', TaskInvalid, "no prompt template"),
    "an empty prompt beside a twin": (
        '{"clean_prefix": null, "patch_prefix": "b", "clean_answer": " is", "patch_answer": " are"}',
        TaskInvalid,
        "Row 1 of .* has no prompt",
    ),
    "a cell that a table left empty": ('[{"prompt": NaN, "answer": "b"}]', TaskInvalid, "Row 1 of .* has no prompt"),
    "a number that is none": ('{"prompt": "a", "answer": 1e999}', TaskInvalid, "Row 1 of .* has no answer"),
    "an endless number": (f'[{{"prompt": "a", "n": {"9" * 5000}}}]', FileUnreadable, "more than 4,300 digits"),
    "an endless cell": (
        f"prompt,answer\n{'a' * 200_000},b\n",
        FileUnreadable,
        "a cell of more than 131,072 characters",
    ),
    "deep": ("[" * 100_000, FileUnreadable, "is nested too deeply"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_sentence(tmp_path: Path, case: str) -> None:
    text, error, match = BAD[case]
    task = written(tmp_path / "rows", text)
    with pytest.raises(error, match=match) as raised:
        items(task)
    assert isinstance(raised.value, ClocheError) and "\n" not in str(raised.value)


def test_what_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match=r"There is no file .*; write the path of a file of questions"):
        items(FromFile(str(tmp_path / "none.csv")))
    with pytest.raises(FileMissing, match=r"There is no file .*; write the path of a file of questions"):
        items(FromFile(""))
    with pytest.raises(FileMissing, match=r"There is no file .*; write the path of a file of questions"):
        items(FromFile("a\0b"))
    for path in (str(tmp_path), "/dev/zero"):
        if Path(path).exists():
            with pytest.raises(FileUnreadable, match="a folder or a device"):
                items(FromFile(path))
    with pytest.raises(SettingInvalid, match=r"path.*must be of type str"):
        FromFile(5)  # type: ignore[arg-type]
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00prompt")
    with pytest.raises(FileUnreadable, match="is not UTF-8 text"):
        items(FromFile(str(tmp_path / "bytes")))


def test_it_is_a_value_and_has_no_variants(tmp_path: Path) -> None:
    task = written(tmp_path / "rows.jsonl", '{"prompt": "a", "answer": "b"}')
    assert part_from_line(task.to_line(), Task) == task
    with pytest.raises(TaskInvalid, match="have no isomorphic form"):
        task.variant(3).example(1)


def test_answers_with_other_blanks_are_right_and_a_twin_has_another_answer(tmp_path: Path) -> None:
    row = {"prompt": "a", "answer": "x  y", "choices": ["x y", "z"], "corrupted": "b", "corrupted_answer": "x y "}
    task = written(tmp_path / "rows.jsonl", json.dumps(row))
    (item,) = items(task)
    assert [task.verify(item, each).strict for each in ("x y", "x\ty", "xy")] == [1, 1, 0]
    assert task.chance(item.values) == pytest.approx(0.5) and item.corrupted is None


def test_only_the_end_of_a_line_ends_a_line_of_json(tmp_path: Path) -> None:
    task = written(tmp_path / "rows.jsonl", '{"prompt": "a\u2028b", "answer": "c"}\n{"prompt": "d\x85e", "answer": 0}')
    assert [(item.prompt, item.answer) for item in items(task)] == [("a\u2028b", "c"), ("d\x85e", "0")]


def test_a_pair_of_ones_own_has_answers_that_a_text_can_give() -> None:
    task = PromptPair("a", "b", " x  y", " z")
    item = task.example(1)
    assert [task.verify(item, each).strict for each in ("x y", item.answer, "z")] == [1, 1, 0]
    for texts, match in {
        ("a", "a", "x", "y"): "give two that differ",
        ("a", "b", "x", "y\nz"): "cannot be graded",
        ("a", "b", "x y", "x  y"): "give the right one of each prompt",
        ("a", "b", "x", ""): "not empty",
    }.items():
        with pytest.raises(TaskInvalid, match=match):
            PromptPair(*texts)
