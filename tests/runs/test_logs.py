import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cloche.errors import ClocheError
from cloche.runs import Run, read_from


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
    assert json.loads(lines[0], parse_constant=pytest.fail) == {"nan": None, "inf": None, "array": [1.0, None], "n": 3}
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
    assert path.read_bytes() == whole + b'{"step": 3}\n'


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
