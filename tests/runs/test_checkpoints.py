import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from cloche.errors import ClocheError
from cloche.runs import Run, verify


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "")


def write(run: Run, step: int, weights: bytes) -> None:
    with run.new_checkpoint(step) as folder:
        (folder / "model.safetensors").write_bytes(save({"w": np.frombuffer(weights, np.uint8)}))
        (folder / "deep").mkdir()
        (folder / "deep" / "state.json").write_text("{}")


def test_a_checkpoint_appears_with_the_hash_of_each_file(run: Run) -> None:
    with run.new_checkpoint(500) as folder:
        (folder / "model.safetensors").write_bytes(b"weights")
        assert run.checkpoints() == [], "nothing to see before it is complete"
    (checkpoint,) = run.checkpoints()
    assert (checkpoint.step, checkpoint.path, checkpoint.name) == (
        500,
        run.path / "checkpoints/step-000500",
        "step-000500",
    )
    assert checkpoint.manifest == {
        "step": 500,
        "files": {"model.safetensors": {"sha256": hashlib.sha256(b"weights").hexdigest(), "bytes": 7}},
        "logs": {},
    }


def test_an_exception_leaves_nothing_behind(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run.new_checkpoint(1) as folder:  # noqa: PT012
        (folder / "model.safetensors").write_bytes(b"half")
        raise ZeroDivisionError
    assert list((run.path / "checkpoints").iterdir()) == []


def test_choosing_a_checkpoint(run: Run) -> None:
    with pytest.raises(ClocheError, match="no checkpoint yet"):
        run.checkpoint("last")
    for step in (20, 3, 1_000_000):
        write(run, step, b"%d" % step)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3, 20, 1_000_000]
    assert run.checkpoint("last").step == 1_000_000
    assert run.checkpoint(20) == run.checkpoint("step-000020") == run.checkpoint("20")
    for absent in (7, "7", "step-000007", "best"):
        with pytest.raises(ClocheError, match="those of steps 3, 20, 1000000"):
            run.checkpoint(absent)


def test_a_step_is_written_once(run: Run) -> None:
    write(run, 5, b"first")
    with pytest.raises(ClocheError, match="exists already"):
        write(run, 5, b"second")
    assert b"first" in (run.checkpoint(5).path / "model.safetensors").read_bytes()


KILLED = """
import sys
from cloche.runs import Run
with Run.open(sys.argv[1]).new_checkpoint(2) as folder:
    (folder / "model.safetensors").write_bytes(b"half")
    print("written", flush=True)
    sys.stdin.read()
"""


def test_kill_9_while_writing_leaves_a_leftover_that_the_next_checkpoint_removes(run: Run) -> None:
    write(run, 1, b"one")
    command = [sys.executable, "-c", KILLED, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        write(run, 3, b"three")
        assert len(list((run.path / "checkpoints").glob(".*"))) == 1, "a living writer's folder is left alone"
        os.kill(writer.pid, signal.SIGKILL)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [1, 3]
    assert verify(run.path).problems == []
    write(run, 2, b"two")
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == [
        "step-000001",
        "step-000002",
        "step-000003",
    ]


def test_a_checkpoint_says_how_far_each_log_had_come(run: Run) -> None:
    with run.log("metrics") as log:
        log.append({"step": 1})
        write(run, 1, b"one")
        log.append({"step": 2})
    (chain,) = re.findall(rb'"step": 1, "chain": "(\w+)"', run.log_path("metrics").read_bytes())
    assert run.checkpoint(1).manifest["logs"] == {"metrics": {"records": 1, "chain": chain.decode()}}


def test_a_checkpoint_that_is_removed_on_purpose_is_not_missed_and_one_that_was_deleted_is(run: Run) -> None:
    for step in (1, 2):
        write(run, step, b"%d" % step)
        with run.log("events") as log:
            log.append({"step": step, "time": 0.5, "kind": "checkpoint", "checkpoint": f"step-{step:06d}"})
    run.remove_checkpoint(1)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [2]
    assert verify(run.path).problems == []
    shutil.rmtree(run.path / "checkpoints/step-000002")
    (problem,) = verify(run.path).problems
    assert (problem.where, "saved" in problem.what) == ("checkpoints/step-000002", True)


def test_a_manifest_is_never_written_into_a_file_that_is_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    with pytest.raises(ClocheError, match=r"manifest\.json"), run.new_checkpoint(1) as folder:
        os.link(tmp_path / "theirs", folder / "manifest.json")
    assert (tmp_path / "theirs").read_text() == "theirs" and not run.checkpoints()
