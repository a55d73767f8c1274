"""Following a run: what is appended arrives once, whatever happens to the folder or the connection."""

from __future__ import annotations

import json
import shutil

import httpx
import pytest
from synthetic_run import add_checkpoint, append, health, lens_data, metric, sample, write_finding, write_run

from cloche.microscope.folder.follow import MOST_BACKLOG_BYTES, Follower, as_text
from cloche.microscope.folder.logbook import Logbook
from cloche.microscope.folder.reading import RunFiles
from cloche.microscope.library import Library


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "live", steps=300, finished=False, findings=False)


def follow_from_here(run) -> Follower:
    follower = Follower(Library(run.path), {"live": {}})
    follower.poll()
    return follower


def test_each_appended_record_arrives_once(run):
    follower = follow_from_here(run)
    assert follower.poll() == []
    append(run, "metrics", metric(305))
    append(run, "health", health(310))
    append(run, "samples", sample(400, "import "))
    append(run, "steps", {"step": 305, "loss": [3.5] * 5})  # which no page shows
    events = follower.poll()
    assert [(name, data["log"], len(data["records"])) for name, data in events] == [
        ("records", "metrics", 1), ("records", "health", 1), ("records", "samples", 1),
    ]  # fmt: skip
    assert events[0][1]["records"][0]["step"] == 305
    assert follower.poll() == []


def test_a_torn_line_waits_for_its_end(run):
    follower = follow_from_here(run)
    with open(run.path / "log" / "metrics.jsonl", "a") as file:
        file.write('{"step": 305, "lo')
        file.flush()
        assert follower.poll() == []
        file.write('ss": 3.5}\n')
    assert follower.poll() == [("records", {"run": "live", "log": "metrics", "records": [{"step": 305, "loss": 3.5}]})]


def test_it_goes_on_where_the_history_ended(run):
    cursors = Logbook(RunFiles(run.path)).history()["cursors"]
    append(run, "metrics", metric(305), metric(310))
    follower = Follower(Library(run.path), {"live": cursors})
    records = [data["records"] for name, data in follower.poll() if name == "records" and data["log"] == "metrics"]
    assert [[record["step"] for record in part] for part in records] == [[305, 310]]


def test_a_resumed_run_is_read_anew(run):
    follower = follow_from_here(run)
    run.truncate_logs(200)
    append(run, "metrics", metric(205))
    events = [event for event in follower.poll() if event[1].get("log") == "metrics"]
    assert [name for name, _ in events] == ["rewritten", "records"]
    steps = [record["step"] for record in events[1][1]["records"] if "loss" in record]
    assert steps == list(range(5, 206, 5))


def test_new_checkpoints_and_findings_are_told(run):
    follower = follow_from_here(run)
    add_checkpoint(run, 400)
    write_finding(run, "logit-lens", "new", "One.", lens_data())
    events = dict(follower.poll())
    assert events["checkpoints"]["checkpoints"] == ["step-000300", "step-000400"]
    assert [head["id"] for head in events["findings"]["findings"]] == ["new"]
    assert follower.poll() == []


def test_logs_that_do_not_exist_yet(tmp_path):
    run = write_run(tmp_path / "live", steps=0, finished=False, findings=False)
    (run.path / "log" / "health.jsonl").unlink(missing_ok=True)
    follower = follow_from_here(run)
    append(run, "health", health(10))
    assert [data["records"][0]["step"] for name, data in follower.poll() if name == "records"] == [10]


def test_an_event_on_the_wire():
    text = as_text("records", {"n": 1}, {"live": {"metrics": "7-12"}})
    assert text == b'id: {"live":{"metrics":"7-12"}}\nevent: records\ndata: {"n":1}\n\n'


def test_a_damaged_line_is_told_once_and_the_rest_arrives(run):
    follower = follow_from_here(run)
    with open(run.path / "log" / "metrics.jsonl", "a") as file:
        file.write("not json\n[1]\n" + "[" * 100_000 + "\n" + '{"step": ' + "9" * 5000 + "}\n")
    append(run, "metrics", metric(305))
    (records, trouble) = follower.poll()
    assert [record["step"] for record in records[1]["records"]] == [305]
    assert (
        trouble[0] == "trouble" and "log/metrics.jsonl has 4 lines that are not a JSON object" in trouble[1]["message"]
    )
    assert follower.poll() == []


def test_a_reader_far_behind_fetches_the_history_again(run):
    follower = follow_from_here(run)
    lines = b"".join(json.dumps(metric(step)).encode() + b"\n" for step in range(301, 3001))
    with open(run.path / "log" / "metrics.jsonl", "ab") as file:
        file.write(lines)
    assert len(lines) > MOST_BACKLOG_BYTES
    assert follower.poll() == [("behind", {"run": "live", "log": "metrics"})]
    append(run, "metrics", metric(3001))
    assert [data["records"][0]["step"] for _, data in follower.poll()] == [3001]


def test_a_run_that_is_deleted_while_open_is_a_sentence(run):
    follower = follow_from_here(run)
    shutil.rmtree(run.path)
    events = follower.poll()
    assert [data["message"] for name, data in events if name == "trouble"] == [
        f"The run folder {run.path} is gone: it was moved or deleted."
    ]
    assert follower.poll() == []


def read_event(lines) -> tuple[str, dict, str | None]:
    """The next event that carries something: name, data, id."""
    fields: dict[str, str] = {}
    for line in lines:
        if line == "" and fields:
            return fields["event"], json.loads(fields["data"]), fields.get("id")
        if line and not line.startswith(":"):
            key, _, value = line.partition(": ")
            fields[key] = value
    raise AssertionError("the stream ended")


def test_the_stream_of_a_real_server_resumes_by_the_last_event_id(run, serving):
    url = serving(run.path)
    start = httpx.get(f"{url}api/history").json()["cursors"]
    asked = {"from": json.dumps({"live": {**start, "health": "", "samples": ""}})}

    def until_metrics(stream) -> tuple[dict, str]:
        lines = stream.iter_lines()
        while True:
            name, data, ident = read_event(lines)
            if name == "records" and data["log"] == "metrics":
                while ident is None:
                    _, _, ident = read_event(lines)
                return data, ident

    with httpx.stream("GET", f"{url}api/stream", params=asked, timeout=20) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        append(run, "metrics", metric(305))
        data, ident = until_metrics(stream)
        assert [record["step"] for record in data["records"]] == [305]
        # An id comes with the last event of a batch; health and samples of the first poll came before or with it.
    append(run, "metrics", metric(310))
    with httpx.stream("GET", f"{url}api/stream", params=asked, headers={"last-event-id": ident}, timeout=20) as stream:
        data, _ = until_metrics(stream)
        assert [record["step"] for record in data["records"]] == [310]
