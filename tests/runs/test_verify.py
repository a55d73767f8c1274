"""Each kind of damage, planted alone in a whole run, must be found where it is; a whole run must give nothing."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from whole_run import finite, make

from bench.runs.faults import KINDS, faults, snapshot
from cloche.errors import ClocheError
from cloche.files import write_atomically
from cloche.runs import Run, manifest, verify
from cloche.runs.manifest import Entry, sealed, unsealed


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def whole(template: Run, tmp_path: Path) -> Run:
    shutil.copytree(template.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def wheres(run: Run) -> list[str]:
    return [problem.where for problem in verify(run.path).problems]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def reseal(checkpoint: Path, **files: bytes) -> None:
    """Replaces files of a checkpoint and signs the manifest anew, as another program might that writes checkpoints."""
    document = unsealed((checkpoint / "manifest.json").read_bytes())
    for name, data in files.items():
        name = name.replace("__", ".")
        (checkpoint / name).write_bytes(data)
        document["files"][name] = Entry.of(data).to_dict()
    (checkpoint / "manifest.json").write_bytes(sealed(document))


def in_order(path: Path, *order: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[i] for i in order) + b"".join(lines[len(order) :]))


def first_record(path: Path) -> None:
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def rewrite_number(run: Path) -> None:
    edit(run / "log/metrics.jsonl", b'"loss": 5.125', b'"loss": 4.125')


STEP1, STEP2 = "checkpoints/step-000001", "checkpoints/step-000002"
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
LONG = b'{"step": ' + b"9" * 5000 + b"}"

DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "flipped weights": (lambda run: flip(run / STEP1 / "model.safetensors"), f"{STEP1}/model.safetensors", "differs"),
    "missing weights": (
        lambda run: (run / STEP2 / "model.safetensors").unlink(),
        f"{STEP2}/model.safetensors",
        "missing",
    ),
    "cut state": (lambda run: os.truncate(run / STEP2 / "state.json", 3), f"{STEP2}/state.json", "bytes"),
    "missing manifest": (lambda run: (run / STEP1 / "manifest.json").unlink(), f"{STEP1}/manifest.json", "missing"),
    "manifest of nothing": (
        lambda run: (run / STEP1 / "manifest.json").write_text('{"step": 1}'),
        f"{STEP1}/manifest.json",
        "not readable as the manifest",
    ),
    "edited manifest": (
        lambda run: edit(run / STEP1 / "manifest.json", b'"records": 6', b'"records": 5'),
        f"{STEP1}/manifest.json",
        "not as it was written",
    ),
    "deep manifest": (lambda run: (run / STEP1 / "manifest.json").write_bytes(DEEP), f"{STEP1}/manifest.json", "JSON"),
    "long number": (lambda run: (run / STEP1 / "manifest.json").write_bytes(LONG), f"{STEP1}/manifest.json", "JSON"),
    "same weights": (
        lambda run: reseal(run / STEP2, model__safetensors=finite(64, 1)),
        f"{STEP2}/model.safetensors",
        "same weights as step-000001",
    ),
    "state of another step": (
        lambda run: reseal(run / STEP2, state__json=b'{"step": 1}'),
        f"{STEP2}/state.json",
        "step 1",
    ),
    "renamed checkpoint": (lambda run: (run / STEP2).rename(run / "checkpoints/step-000003"), STEP2, "missing"),
    "deleted checkpoint": (lambda run: shutil.rmtree(run / STEP1), STEP1, "missing: it was saved"),
    "deleted checkpoints": (lambda run: shutil.rmtree(run / "checkpoints"), STEP1, "missing"),
    "deleted checkpoints and events": (
        lambda run: (shutil.rmtree(run / "checkpoints"), (run / "log/events.jsonl").unlink()),
        STEP1,
        "missing",
    ),
    "folder for a checkpoint": (lambda run: (shutil.rmtree(run / STEP1), (run / STEP1).touch()), STEP1, "missing"),
    "torn log": (
        lambda run: edit(run / "log/events.jsonl", b'finished"', b'finished"\n'),
        "log/events.jsonl",
        "damaged",
    ),
    "torn end of a log": (
        lambda run: (run / "log/metrics.jsonl").open("ab").write(b'{"step"'),
        "log/metrics.jsonl",
        "torn",
    ),
    "edited number": (rewrite_number, "log/metrics.jsonl", "record 2 (byte 70) is not as it was written"),
    "swapped records": (lambda run: in_order(run / "log/health.jsonl", 0, 2, 1), "log/health.jsonl", "record 2"),
    "record written twice": (lambda run: in_order(run / "log/health.jsonl", 0, 0), "log/health.jsonl", "record 2"),
    "cut log": (
        lambda run: first_record(run / "log/samples.jsonl"),
        "log/samples.jsonl",
        "has 1 records where step-000002's manifest counted 9",
    ),
    "empty log": (lambda run: os.truncate(run / "log/samples.jsonl", 0), "log/samples.jsonl", "has 0 records"),
    "deleted log": (lambda run: (run / "log/samples.jsonl").unlink(), "log/samples.jsonl", "counted 9 records"),
    "deleted logs": (lambda run: shutil.rmtree(run / "log"), "log/events.jsonl", "missing"),
    "the log of another": (
        lambda run: shutil.copy(run / "log/samples.jsonl", run / "log/health.jsonl"),
        "log/health.jsonl",
        "record 1",
    ),
    "log of another kind": (
        lambda run: ((run / "log/health.jsonl").unlink(), (run / "log/health.jsonl").mkdir()),
        "log/health.jsonl",
        "folder",
    ),
    "flipped token": (lambda run: flip(run / "data/train-00000.bin"), "data/train-00000.bin", "differs"),
    "missing data": (lambda run: shutil.rmtree(run / "data"), "data/data.json", "missing"),
    "edited data.json": (lambda run: edit(run / "data/data.json", b"uint16", b"uint32"), "data/data.json", "differs"),
    "edited tokenizer": (lambda run: edit(run / "tokenizer.json", b"0", b"1"), "tokenizer.json", "differs"),
    "edited dictionary": (
        lambda run: edit(run / "dictionaries/first/dictionary.json", b"4", b"5"),
        "dictionaries/first/dictionary.json",
        "differs",
    ),
    "missing dictionary": (
        lambda run: shutil.rmtree(run / "dictionaries"),
        "dictionaries/first/dictionary.safetensors",
        "missing",
    ),
    "edited finding": (
        lambda run: edit(run / "findings/lens/a.json", b"2026", b"2025"),
        "findings/lens/a.json",
        "differs",
    ),
    "missing arrays": (
        lambda run: (run / "findings/lens/a.safetensors").unlink(),
        "findings/lens/a.safetensors",
        "missing",
    ),
    "edited report": (lambda run: edit(run / "report.html", b"2", b"3"), "report.html", "differs"),
    "edited recipe": (lambda run: edit(run / "recipe.toml", b"2", b"3"), "recipe.toml", "differs"),
    "missing recipe": (lambda run: (run / "recipe.toml").unlink(), "recipe.toml", "missing"),
    "edited run.json": (lambda run: edit(run / "run.json", b'"seed": 0', b'"seed": 1'), "run.json", "differs"),
    "missing run.json": (lambda run: (run / "run.json").unlink(), "run.json", "missing"),
    "missing manifest.json": (lambda run: (run / "manifest.json").unlink(), "manifest.json", "missing"),
    "edited manifest.json": (lambda run: edit(run / "manifest.json", b"a.json", b"b.json"), "manifest.json", "damaged"),
    "longer manifest.json": (lambda run: (run / "manifest.json").open("ab").write(b"\n"), "manifest.json", "damaged"),
    "deep manifest.json": (lambda run: (run / "manifest.json").write_bytes(DEEP), "manifest.json", "damaged"),
    "bytes in a lock": (lambda run: (run / ".lock").write_bytes(b"x"), ".lock", "lock"),
}


def test_a_whole_run_has_no_problem(whole: Run) -> None:
    assert verify(whole.path) == verify(Run.open(whole.path).path)
    assert (verify(whole.path).problems, verify(whole.path).notes) == ([], [])


@pytest.mark.parametrize("kind", DAMAGE)
def test_planted_damage_is_found_where_it_is(whole: Run, kind: str) -> None:
    damage, where, what = DAMAGE[kind]
    damage(whole.path)
    problems = verify(whole.path).problems
    assert [problem.fix for problem in problems if problem.where == where and what in problem.what], problems


def test_one_problem_hides_no_other(whole: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = whole.path
    (run / STEP1 / "manifest.json").write_bytes(DEEP)
    os.truncate(run / "findings/lens/a.json", 0)
    os.mkfifo(run / "findings/lens/pipe.json")
    (run / "tokenizer.json").unlink()
    (run / "tokenizer.json").mkdir()
    shutil.move(run / "data/train-00000.bin", run.with_name("elsewhere"))
    (run / "data/train-00000.bin").symlink_to(run.with_name("elsewhere"))
    rewrite_number(run)
    in_order(run / "log/events.jsonl", 1, 0)
    shutil.rmtree(run / STEP2)
    (run / "run.json").write_bytes(LONG)
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(run)  # the whole path is longer than a socket's name may be
        server.bind("socket")
    assert set(wheres(whole)) == {
        f"{STEP1}/manifest.json", "findings/lens/a.json", "findings/lens/pipe.json", "tokenizer.json", "data/train-00000.bin",
        "log/metrics.jsonl", "log/events.jsonl", STEP2, "run.json", "socket",
    }  # fmt: skip


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", DEEP, LONG, b'{"files": 3}', b'{"files": {"x": {}}, "logs": []}'])
def test_what_no_manifest_vouches_for_is_still_checked_for_being_readable(whole: Run, broken: bytes) -> None:
    (whole.path / "manifest.json").write_bytes(broken)
    assert wheres(whole) == ["manifest.json"]
    (whole.path / "findings/lens/a.json").write_bytes(DEEP)
    (whole.path / "recipe.toml").write_bytes(b"= =")
    (whole.path / "dictionaries/first/dictionary.safetensors").write_bytes(finite(4, float("inf")))
    flip(whole.path / STEP1 / "config.json")
    rewrite_number(whole.path)
    assert wheres(whole) == [
        f"{STEP1}/config.json", "dictionaries/first/dictionary.safetensors", "findings/lens/a.json", "log/metrics.jsonl",
        "manifest.json", "recipe.toml",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", 7), ("format", "2"), ("created", "yesterday"), ("seed", None), ("seed", 1.5), ("commands", [["a", 1]])],
)
def test_absurd_fields_of_run_json_are_named_though_its_hash_is_right(whole: Run, key: str, value: object) -> None:
    whole.write_json("run.json", {**whole.info, key: value})
    (problem,) = verify(whole.path).problems
    assert problem.where == "run.json" and key in problem.what


@pytest.mark.parametrize(("dtype", "value"), [("<f4", np.nan), ("<f4", -np.inf), ("<f2", np.nan), ("<f8", np.inf)])
def test_weights_that_are_not_finite_are_a_problem_though_their_hash_is_right(
    whole: Run, dtype: str, value: float
) -> None:
    values = np.linspace(-9, 9, 700_001).astype(dtype)
    reseal(whole.path / STEP2, model__safetensors=save({"a": values, "b": values}))
    assert wheres(whole) == []
    values[600_000] = value
    reseal(whole.path / STEP2, model__safetensors=save({"a": np.zeros(3, dtype), "b": values}))
    (problem,) = verify(whole.path).problems
    assert "not finite in 'b'" in problem.what


def test_bfloat16_weights_that_are_not_finite(whole: Run) -> None:
    for bits, found in ((0x7F7F, 0), (0x7F80, 1), (0xFFC0, 1)):
        data = np.array([0x3F80, bits], "<u2").tobytes()
        header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
        reseal(whole.path / STEP2, model__safetensors=len(header).to_bytes(8, "little") + header + data)
        assert len(wheres(whole)) == found


def test_foreign_files_are_notes_and_hard_links_are_nothing(whole: Run) -> None:
    (whole.path / "notes.txt").write_text("mine")
    (whole.path / "mine").mkdir()
    for name in "ab":
        (whole.path / "mine" / name).write_text(name)
    (whole.path / STEP1 / "sharing.md").write_text("mine")
    (whole.path / "log/mine.jsonl").write_text('{"a": 1}\n')
    (whole.path / "report.html").rename(whole.path.with_name("report"))
    os.link(whole.path.with_name("report"), whole.path / "report.html")
    found = verify(whole.path)
    assert found.problems == []
    assert [note.where for note in found.notes] == [f"{STEP1}/sharing.md", "log/mine.jsonl", "mine", "notes.txt"]
    assert "2 files" in found.notes[2].what


@pytest.mark.parametrize(
    ("logged", "rightly"),
    [
        ([("metrics", {"step": 1, "weights": "a"}), ("metrics", {"step": 2, "weights": "a"})], True),
        ([("metrics", {"step": 1, "weights": "a"}), ("metrics", {"step": 2, "weights": "b"})], False),  # a wrong copy
        ([("events", {"step": 1, "weights": "a"}), ("events", {"step": 2, "weights": "a"})], True),
        ([("events", {"step": 0, "weights": "a"}), ("metrics", {"step": 3, "weights": "a"})], True),
        ([("events", {"step": 0, "weights": "a"}), ("metrics", {"step": 3, "weights": "b"})], False),
        ([("metrics", {"step": 2, "weights": "a"})], False),
        ([("events", {"step": 2, "kind": "spike"})], True),  # the one step between them was skipped
        ([("events", {"step": 1, "kind": "spike"})], False),
    ],
)
def test_equal_checkpoints_are_right_where_the_logs_say_that_nothing_moved(
    whole: Run, logged: list[tuple[str, dict[str, object]]], rightly: bool
) -> None:
    reseal(whole.path / STEP2, model__safetensors=finite(64, 1))
    for name, record in logged:
        with whole.log(name) as log:
            log.append(record)
    assert wheres(whole) == ([] if rightly else [f"{STEP2}/model.safetensors"])


def test_a_name_that_is_no_text_is_one_line(whole: Run) -> None:
    with open(os.fsencode(whole.path / "a\nb") + b"\xff", "wb"):
        pass
    (note,) = verify(whole.path).notes
    assert note.where == "a\\nb\\xff"


def test_what_comes_after_the_last_anchor_of_an_unfinished_run_may_be_cut_and_before_it_not(whole: Run) -> None:
    with whole.log("metrics") as log:
        log.append({"step": 3})
        log.append({"step": 4})
    lines = whole.log_path("metrics").read_bytes().splitlines(keepends=True)
    for keep, problems in ((11, 0), (10, 0), (9, 0), (8, 1)):
        whole.log_path("metrics").write_bytes(b"".join(lines[:keep]))
        assert len(wheres(whole)) == problems


def test_a_log_that_is_being_written_is_not_called_torn(whole: Run) -> None:
    with whole.log("metrics", lambda said: None):
        with open(whole.log_path("metrics"), "ab") as file:
            file.write(b'{"step"')
        assert wheres(whole) == []
    assert wheres(whole) == []


def test_leftovers_of_a_killed_write_are_no_problem(whole: Run) -> None:
    (whole.path / "checkpoints/.writing-step-000003-00").mkdir()
    (whole.path / "findings/lens/.writing-b.json-00").write_bytes(b"{")
    assert wheres(whole) == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survives", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["findings/lens/a.json", "findings/lens/new.json"])
def test_a_kill_at_any_write_neither_raises_a_false_alarm_nor_hides_one(
    whole: Run, monkeypatch: pytest.MonkeyPatch, survives: int, name: str
) -> None:
    """The announcement, the file and the settled entry are three atomic writes; the process ends after any of them."""
    done = 0

    def write(path: Path, data: bytes) -> None:
        nonlocal done
        done += 1
        if done >= survives:
            raise Killed
        write_atomically(path, data)

    for module in ("manifest", "folder"):
        monkeypatch.setattr(f"cloche.runs.{module}.write_atomically", write)
    if survives <= 3:
        with pytest.raises(Killed):
            whole.write_json(name, {"id": 7})
    else:
        whole.write_json(name, {"id": 7})
    monkeypatch.undo()
    assert verify(whole.path).problems == []
    was_written = (whole.path / name).exists() and "7" in (whole.path / name).read_text()
    assert was_written == (survives > 2)
    Run.open(whole.path).write_bytes("report.html", b"the next write settles what the killed one announced")
    assert b'"was"' not in (whole.path / "manifest.json").read_bytes()
    assert verify(whole.path).problems == [] == verify(whole.path).notes
    if (whole.path / name).exists():
        (whole.path / name).write_bytes(b"{}")
        assert wheres(whole) == [name]


def test_a_file_that_was_damaged_while_a_killed_write_was_announced_is_found(whole: Run) -> None:
    with pytest.raises(Killed), manifest.recording(whole.path, {"report.html": Entry.of(b"new")}):  # noqa: PT012
        (whole.path / "report.html").write_bytes(b"neither the old nor the new")
        raise Killed
    assert wheres(whole) == ["report.html"]
    whole.write_bytes("findings/lens/b.json", b"{}")
    assert wheres(whole) == ["report.html"], "another write does not make it right"


def test_a_write_does_not_make_a_lost_manifest_anew(whole: Run) -> None:
    (whole.path / "manifest.json").unlink()
    whole.write_bytes("report.html", b"x")
    assert wheres(whole) == ["manifest.json"]


def test_what_is_removed_on_purpose_is_not_missed(whole: Run) -> None:
    whole.remove("findings/lens/a.json")
    shutil.rmtree(whole.path / "dictionaries/first")
    assert wheres(whole) == ["dictionaries/first/dictionary.json", "dictionaries/first/dictionary.safetensors"]
    whole.remove("dictionaries/first")
    assert wheres(whole) == []
    with pytest.raises(ClocheError, match="has no findings/lens/a"):
        whole.remove("findings/lens/a.json")


def test_a_folder_is_replaced_whole_and_never_over_a_foreign_file(whole: Run) -> None:
    def write(text: str) -> None:
        with whole.writing_folder("dictionaries/first") as folder:
            (folder / "dictionary.json").write_text(text)
            (folder / "dictionary.safetensors").write_bytes(finite(4, 2))

    write('{"k": 5}')
    assert wheres(whole) == []
    (whole.path / "dictionaries/first/mine.txt").write_text("mine")
    with pytest.raises(ClocheError, match=r"mine\.txt"):
        write('{"k": 6}')
    assert (whole.path / "dictionaries/first/dictionary.json").read_text() == '{"k": 5}'
    assert wheres(whole) == []


def test_what_is_not_a_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ClocheError, match="no folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(ClocheError, match="is not a run"):
        verify(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 1}')
    with pytest.raises(ClocheError, match="run of format 1"):
        verify(tmp_path)


def test_drawn_faults_are_found(whole: Run, tmp_path: Path) -> None:
    """40 of those that `test_injected_faults.py` draws 300 of from a run that was grown."""
    before, missed, kinds = snapshot(whole.path), [], set()
    for number, fault in enumerate(islice(faults(whole.path, seed=4), 40)):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(whole.path, copy)
        fault.apply(copy)
        kinds.add(fault.description.partition(":")[0])
        if bool(verify(copy).problems) != (snapshot(copy) != before):
            missed.append(fault.description)
    assert missed == []
    assert len(kinds) > len(KINDS) - 4, "the draw covers almost every kind"
