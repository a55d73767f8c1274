import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cloche.errors import ClocheError
from cloche.runs import Run, read_from, verify


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "")


def test_records_come_back_in_order_and_each_is_there_at_once(run: Run) -> None:
    with run.log("metrics") as log:
        for step in range(5):
            log.append({"step": step, "loss": 1.0 / (step + 1)})
            assert run.read_log("metrics")[-1] == {"step": step, "loss": 1.0 / (step + 1)}
    assert [record["step"] for record in run.read_log("metrics")] == [0, 1, 2, 3, 4]
    assert run.read_log("never-written") == []


def test_every_line_is_strict_json(run: Run) -> None:
    with run.log("health") as log:
        log.append(
            {"nan": float("nan"), "inf": -np.inf, "array": np.array([1.0, np.nan], np.float32), "n": np.int64(3)}
        )
        log.append({"text": "line\u2028separator \x85 \r\n \udcff é"})
    lines = run.log_path("health").read_bytes().split(b"\n")
    assert json.loads(lines[0], parse_constant=pytest.fail).keys() == {"nan", "inf", "array", "n", "chain"}
    assert run.read_log("health")[0] == {"nan": None, "inf": None, "array": [1.0, None], "n": 3}
    assert run.read_log("health")[1] == {"text": "line\u2028separator \x85 \r\n \udcff é"}


def test_a_second_writer_is_refused_and_a_later_one_is_not(run: Run) -> None:
    first = run.log("metrics")
    with pytest.raises(ClocheError, match="another process is writing"):
        run.log("metrics")
    run.log("health").close()
    first.append({"step": 1})
    first.close()
    with run.log("metrics") as second:
        second.append({"step": 2})
    assert [record["step"] for record in run.read_log("metrics")] == [1, 2]
    with pytest.raises(ValueError, match="closed"):
        first.append({"step": 3})


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step": 3}', b"\x00" * 100_000])
def test_a_torn_last_line_is_dropped_on_reading_and_cut_by_the_next_writer(run: Run, torn: bytes) -> None:
    with run.log("metrics") as log:
        log.append({"step": 1})
        log.append({"step": 2})
    path = run.log_path("metrics")
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert [record["step"] for record in run.read_log("metrics")] == [1, 2]
    assert path.read_bytes() == whole + torn, "reading must not write"
    with run.log("metrics") as log:
        log.append({"step": 3})
    assert re.fullmatch(re.escape(whole) + rb'{"step": 3, "chain": "[0-9a-f]{12}"}\n', path.read_bytes())


def test_a_file_of_nothing_but_a_torn_line(run: Run) -> None:
    run.log_path("metrics").parent.mkdir()
    run.log_path("metrics").write_bytes(b'{"st')
    assert run.read_log("metrics") == []
    run.log("metrics").close()
    assert run.log_path("metrics").read_bytes() == b""


def test_a_damaged_line_in_the_middle_is_named(run: Run) -> None:
    run.log_path("metrics").parent.mkdir()
    run.log_path("metrics").write_bytes(b'{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(ClocheError, match="at byte 12"):
        run.read_log("metrics")


def test_incremental_reading(run: Run) -> None:
    path = run.log_path("metrics")
    assert read_from(path) == ([], 0)
    with run.log("metrics") as log:
        log.append({"step": 1})
        records, offset = read_from(path)
        assert records == [{"step": 1}]
        assert read_from(path, offset) == ([], offset)
        log.append({"step": 2})
        log.append({"step": 3})
    with open(path, "ab") as file:
        file.write(b'{"step"')
    records, offset = read_from(path, offset)
    assert [record["step"] for record in records] == [2, 3]
    with open(path, "ab") as file:
        file.write(b": 4}\n")
    assert read_from(path, offset)[0] == [{"step": 4}]


def test_incremental_reading_starts_again_when_the_log_was_rewritten_shorter(run: Run) -> None:
    with run.log("metrics") as log:
        for step in range(10):
            log.append({"step": step})
    _, offset = read_from(run.log_path("metrics"))
    run.truncate_logs(3)
    records, _ = read_from(run.log_path("metrics"), offset)
    assert [record["step"] for record in records] == [0, 1, 2, 3]


def test_truncation_drops_later_steps_from_every_log_and_keeps_bytes(run: Run) -> None:
    with run.log("metrics") as metrics, run.log("events") as events:
        events.append({"kind": "note without a step"})
        for step in (100, 200, 300):
            metrics.append({"step": step, "loss": 0.1})
            events.append({"step": step, "kind": "checkpoint"})
        with pytest.raises(ClocheError, match="another process is writing"):
            run.truncate_logs(200)
    before = run.log_path("metrics").read_bytes()
    assert run.truncate_logs(200) == 2
    assert run.log_path("metrics").read_bytes() == before[: before.index(b'{"step": 300')]
    assert [record.get("step") for record in run.read_log("events")] == [None, 100, 200]
    assert run.truncate_logs(200) == 0
    with run.log("metrics") as metrics:
        metrics.append({"step": 201})
    assert [record["step"] for record in run.read_log("metrics")] == [100, 200, 201]


def test_the_chain_is_as_the_documentation_defines_it(run: Run) -> None:
    with run.log("metrics") as log:
        log.append({"step": 1, "text": "é"})
        log.append({})
    with run.log("metrics") as log:
        log.append({"step": 2})
    previous = b"metrics"
    for line in run.log_path("metrics").read_bytes().splitlines():
        head = line[: line.index(b'"chain"')]
        previous = hashlib.sha256(previous + head).hexdigest()[:12].encode()
        assert line == head + b'"chain": "' + previous + b'"}'
    with run.log("metrics") as log, pytest.raises(ValueError, match="chain"):
        log.append({"chain": 1})


def test_records_without_a_step_survive_truncation_and_the_chain_holds(run: Run) -> None:
    with run.log("events") as log:
        for record in ({"step": 1}, {"step": 9}, {"kind": "note"}, {"step": 2}):
            log.append(record)
    run.anchor_logs()
    assert verify(run.path).problems == []
    assert run.truncate_logs(2) == 1
    assert run.read_log("events") == [{"step": 1}, {"kind": "note"}, {"step": 2}]
    assert verify(run.path).problems == []


def deleted(path: Path) -> None:
    path.unlink()


def renamed(path: Path) -> None:
    path.rename(path.with_name("mine.txt"))


def in_a_deleted_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def saved_anew_by_an_editor(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes().replace(b"1", b"7"))
    path.with_name("new").rename(path)


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("last", [False, True], ids=["before-a-record", "before-closing"])
@pytest.mark.parametrize(
    "happen", [deleted, renamed, in_a_deleted_folder, saved_anew_by_an_editor, replaced_by_a_folder]
)
def test_a_log_that_goes_away_under_its_writer_is_put_back_and_said(
    run: Run, happen: Callable[[Path], None], last: bool
) -> None:
    path, said = run.log_path("metrics"), list[str]()
    log = run.log("metrics", said.append)
    log.append({"step": 1})
    if last:
        log.append({"step": 2})
    happen(path)
    if not last:
        log.append({"step": 2})
    log.close()
    assert run.read_log("metrics") == [{"step": 1}, {"step": 2}]
    assert len(said) == 1 and "put back with all its records" in said[0]
    kept = path.with_name("metrics.jsonl.replaced-1")
    assert kept.exists() == (happen in (saved_anew_by_an_editor, replaced_by_a_folder)), "nothing is overwritten"
    run.anchor_logs()
    assert verify(run.path).problems == []


@pytest.mark.parametrize("change", ["empty", "cut", "append"])
def test_a_log_that_is_changed_in_place_under_its_writer_is_said(run: Run, change: str) -> None:
    path = run.log_path("metrics")
    with run.log("metrics") as log:
        log.append({"step": 1})
        log.append({"step": 2})
        size = path.stat().st_size
        if change == "append":
            with open(path, "ab") as file:
                file.write(b"torn")
        else:
            os.truncate(path, 0 if change == "empty" else size - 3)
        with pytest.warns(UserWarning, match=r"metrics\.jsonl was changed by something else"):
            log.append({"step": 3})
    assert run.read_log("metrics")[-1] == {"step": 3}
    assert [problem.where for problem in verify(run.path).problems] == (
        [] if change == "append" else ["log/metrics.jsonl"]
    )


def test_a_run_that_is_moved_or_deleted_under_its_writer_ends_in_a_sentence(run: Run) -> None:
    log = run.log("metrics")
    run.path.rename(run.path.with_name("moved"))
    with pytest.raises(ClocheError, match="was moved or deleted while it was written to"):
        log.append({"step": 1})
    assert not run.path.exists()


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_a_log_that_is_not_a_plain_file_is_refused_at_once(run: Run, kind: str) -> None:
    path = run.log_path("metrics")
    path.parent.mkdir()
    {"pipe": os.mkfifo, "link": lambda p: p.symlink_to("/dev/null"), "folder": Path.mkdir}[kind](path)  # type: ignore[operator]
    for touch in (run.read_log, run.log):
        with pytest.raises(ClocheError, match=r"metrics\.jsonl"):
            touch("metrics")


def test_a_foreign_line_stays_and_is_reported_and_what_follows_it_is_sound(run: Run) -> None:
    with run.log("metrics") as log:
        log.append({"step": 1})
    with open(run.log_path("metrics"), "ab") as file:
        file.write(b'{"step": 7}\nnot JSON\n' + b"x" * 200_000 + b"\n")
    with run.log("metrics") as log:
        log.append({"step": 2})
    run.anchor_logs()
    (problem,) = verify(run.path).problems
    assert "record 2" in problem.what and "2 after it" in problem.what


@pytest.mark.parametrize("name", ["../metrics", "a/b", "", "Metrics", "a.b"])
def test_a_log_cannot_leave_its_folder(run: Run, name: str) -> None:
    with pytest.raises(ClocheError, match="cannot name a log"):
        run.log(name)


WRITER = """
import sys
from cloche.runs import Run
log = Run.open(sys.argv[1]).log("metrics")
step = 0
while True:
    step += 1
    log.append({"step": step, "padding": "x" * 3000})
    print(step, flush=True)
"""


def test_kill_9_in_mid_stream_loses_no_appended_record(run: Run) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(run.path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(200):
            confirmed = int(writer.stdout.readline())
        with pytest.raises(ClocheError, match="another process is writing"):
            run.log("metrics")
        os.kill(writer.pid, signal.SIGKILL)
        confirmed = max([confirmed, *(int(line) for line in writer.stdout.read().split())])
    steps = [record["step"] for record in run.read_log("metrics")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= confirmed >= 200
    with run.log("metrics") as log:
        log.append({"step": len(steps) + 1})
    assert run.read_log("metrics")[-1] == {"step": len(steps) + 1}
