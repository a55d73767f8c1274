"""`cloche tasks` and `cloche eval` as a person and a program use them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def grown_copy(grown: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(grown, tmp_path / "run"))


def test_tasks_are_listed_and_shown(call: Call) -> None:
    code, out, _ = call("tasks", "list")
    assert code == 0 and "Add" in out and "levels 1 to 8" in out
    known = json.loads(call("tasks", "list", "--json")[1])["tasks"]
    assert {"name": "Add", "levels": list(range(1, 9)), "settings": ""}.items() <= known[0].items()
    code, out, _ = call("tasks", "show", "Add", "--level", 3, "-n", 1)
    assert code == 0 and "291+423=[714]" in out and "corrupted (" in out and "causal graph" in out
    shown = json.loads(call("tasks", "show", "Add", "--level", 3, "-n", 2, "--json")[1])
    assert len(shown["items"]) == 2 and shown["parents"]["answer"] == ["carry_3", "digit_3", "digit_2", "digit_1"]


def test_a_corpus_is_checked_for_test_items(call: Call, tmp_path: Path) -> None:
    known = json.loads(call("tasks", "show", "Add", "--level", 6, "-n", 40, "--json")[1])["items"]
    planted = [item for item in known if item["split"] == "test"]
    (tmp_path / "corpus.txt").write_text("\n".join(f"{item['prompt']}{item['answer']}" for item in planted))
    code, out, err = call("tasks", "check", "Add", "--data", tmp_path, "--limit", 320, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found["data"]["held"]) >= {item["problem_id"] for item in planted} and found["null"]["whole"] == 0
    assert call("tasks", "check", "Add", "--data", tmp_path / "nowhere")[0] == 1


def test_a_run_is_evaluated_and_keeps_its_findings(call: Call, grown_copy: Path, tmp_path: Path) -> None:
    pairs, book = tmp_path / "pairs.jsonl", tmp_path / "book.txt"
    pairs.write_text('{"sentence_good": "It is.", "sentence_bad": "It are."}\n')
    book.write_text("import json\n" * 40)
    words = ("--tasks", "Add", "Add(renaming=2)", "--limit", 16, "--level", 1, "--pairs", pairs, "--text", book)
    code, out, err = call("eval", grown_copy, *words, "--json")
    assert code == 0, err
    found = json.loads(out)["findings"]
    assert [each["instrument"] for each in found] == ["eval", "minimal-pairs", "perplexity"]
    assert all(Path(each["path"]).is_file() for each in found)
    assert [row["task"] for row in found[0]["data"]["tasks"]] == ["Add", "Add(renaming=2)"]
    assert 0 < found[0]["null"]["accuracy"] < 0.2
    assert call("verify", grown_copy)[0] == 0


def test_look_and_trace_run_eval_by_the_same_name(call: Call, grown_copy: Path) -> None:
    words = ("eval", "tasks=Add,Add(renaming=2)", "tasks=Add(renaming=3)", "limit=8", "level=1")
    code, out, err = call("look", grown_copy, *words, "--json")
    assert code == 0, err
    assert len(json.loads(out)["findings"][0]["data"]["tasks"]) == 3
    code, out, err = call("trace", grown_copy, "eval", "tasks=Add", "limit=8", "level=1", "--json")
    assert code == 0, err
    assert json.loads(out)["data"]["figure"] == "accuracy"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "There is nothing to evaluate on: give --tasks, --pairs, --last-words or --text."),
        (("--tasks", "Ad"), "did you mean 'Add'?"),
        (("--tasks", "Add", "--level", "99"), "Add has levels 1 to 8, not 99."),
        (("--tasks", "Add(digits=2)"), "Add has no field 'digits'"),
        (("--tasks", "Add", "--shots", "500", "--level", "3"), "the model's context of 32; give fewer shots"),
        (("--pairs", "/nowhere"), "There is no file '/nowhere'; write the path of a file for --pairs."),
        (("--tasks", "nowhere.jsonl"), "There is no file 'nowhere.jsonl'; write the path of a file of questions."),
        (("--tasks", "Add", "--tokens", "9"), "--tokens is the most tokens that are read of --text; give that too"),
    ],
)
def test_what_eval_cannot_do_is_one_sentence(call: Call, grown: Path, words: tuple[str, ...], sentence: str) -> None:
    code, out, err = call("eval", grown, *words)
    assert code == 1 and sentence in err and err.count("\n") == 1 and not out


def test_what_was_evaluated_before_a_failure_is_kept(call: Call, grown_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}")
    words = ("--tasks", "Add", "--level", 1, "--limit", 4, "--pairs", tmp_path / "pairs.jsonl")
    code, out, err = call("eval", grown_copy, *words)
    assert code == 1 and "Line 1 of" in err and "Right answers" in out
    assert len(list((grown_copy / "findings" / "eval").glob("*.json"))) == 1


def test_a_finding_that_cannot_be_saved_is_printed_before_the_sentence(call: Call, grown_copy: Path) -> None:
    """As in a run of somebody else's, or on a full disk: minutes of computing would be lost."""
    shutil.rmtree(grown_copy / "findings", ignore_errors=True)
    (grown_copy / "findings").write_text("no folder")
    for verb, *words in (
        ("eval", "--tasks", "Add", "--level", 1, "--limit", 4),
        ("look", "eval", "tasks=Add", "limit=4", "level=1"),
        ("trace", "eval", "tasks=Add", "limit=4", "level=1"),
    ):
        code, out, err = call(verb, grown_copy, *words)
        assert code == 1 and "accuracy" in out
        assert err.splitlines()[-1].startswith("Not saved: cannot write")
        code, out, err = call(verb, grown_copy, *words, "--json")
        found = json.loads(out)
        assert code == 1 and found.get("findings", [found])[0]["path"] is None
        assert err.splitlines()[-1].startswith("Not saved: cannot write")


def test_so_many_tokens_of_a_text_are_read(call: Call, grown_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("import json\n" * 99)
    code, out, err = call("eval", grown_copy, "--text", tmp_path / "book.txt", "--tokens", 20, "--json")
    assert code == 0 and json.loads(out)["findings"][0]["data"]["tokens"] == 19 and "reading" in err
