"""What the app tells of a run: every endpoint against the planted values."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import pytest
from starlette.testclient import TestClient
from synthetic_run import FEATURES, HEADS, LAYERS, PROMPTS, append, bpb, health, lens_data, loss, metric, write_run

from cloche.errors import ClocheError
from cloche.microscope import make_app
from cloche.microscope.folder.history import MOST_POINTS
from cloche.microscope.folder.logbook import Logbook
from cloche.microscope.folder.reading import RunFiles, clean
from cloche.microscope.folder.records import HEALTH_COLUMNS
from cloche.runs import verify


def test_the_synthetic_run_is_like_real_ones(first):
    assert verify(first.path).problems == []


def test_history_is_columns_of_known_values(client):
    found = client.get("/api/history").json()
    assert found["train"]["columns"]["step"] == list(range(5, 1201, 5))
    assert found["train"]["columns"]["loss"][-1] == pytest.approx(loss(1200), rel=1e-6)
    assert found["train"]["columns"]["tokens"][0] == 5 * 4096
    assert found["validation"]["columns"]["step"] == list(range(100, 1201, 100))
    assert found["validation"]["columns"]["val_bpb"] == pytest.approx(
        [bpb(step) for step in range(100, 1201, 100)], rel=1e-6
    )
    assert [event["kind"] for event in found["events"]].count("checkpoint") == 4
    assert 0 <= found["age"] < 600
    assert {len(column) for column in found["train"]["columns"].values()} == {240}


def test_the_run_and_its_neighbour(client):
    about = client.get("/api/run").json()
    assert about["name"] == "first"
    assert about["checkpoints"] == ["step-000300", "step-000600", "step-000900", "step-001200"]
    assert about["runs"] == ["first", "second"]
    assert about["question"] == "How does a small model learn to read Python?"
    assert about["data"]["splits"]["train"]["bytes"] == 31_000_000
    second = client.get("/api/history", params={"run": "second"}).json()
    assert second["train"]["columns"]["step"][-1] == 900


def test_health_and_samples(client):
    found = client.get("/api/health").json()
    assert found["total"] == 120
    assert found["records"][-1] == clean(health(1200))
    assert len(found["records"][0]["attention_entropy"]) == LAYERS
    assert len(found["records"][0]["attention_entropy"][0]) == HEADS
    samples = client.get("/api/samples").json()["records"]
    assert len(samples) == 12 * len(PROMPTS)
    assert "# sample of step 1200" in samples[-1]["text"]


def test_a_long_health_log_is_thinned_but_keeps_its_ends(tmp_path):
    run = write_run(tmp_path / "long", steps=10)
    append(run, "health", *[health(step) for step in range(11, 3011)])
    records = Logbook(RunFiles(run.path)).health()["records"]
    assert len(records) == HEALTH_COLUMNS
    assert (records[0]["step"], records[-1]["step"]) == (10, 3010)


def test_findings_and_features(client):
    heads = client.get("/api/findings").json()["findings"]
    assert {(head["instrument"], head["id"]) for head in heads} == {
        ("logit-lens", "planted"),
        ("features", "resid_post-2"),
    }
    assert {head["of"] for head in heads} == {"def read(self", "resid_post-2"}
    assert client.get("/api/finding/logit-lens/latest").json()["data"] == clean(lens_data())
    listed = client.get("/api/features/latest").json()
    assert [feature["id"] for feature in listed["features"][:2]] == [7, 0]
    assert len(listed["features"]) == FEATURES
    assert sum(listed["density"]["series"][0]["values"]) == FEATURES
    assert " return" in listed["features"][0]["example"]["tokens"]
    page = client.get("/api/features/resid_post-2/7").json()
    assert page["top_logits"][0] == [" return", 3.0]
    assert len(page["examples"]) == 5


def test_a_snippet_holds_the_peak_of_a_long_example():
    from cloche.microscope.folder.features import SNIPPET_TOKENS, snippet

    tokens = [str(i) for i in range(200)]
    for peak in (0, 3, 100, 197, 199):
        example = {"tokens": tokens, "acts": [1.0 if i == peak else 0.0 for i in range(200)]}
        cut = snippet({"examples": [example]})
        assert cut["tokens"][cut["peak"]] == str(peak)
        assert len(cut["tokens"]) == SNIPPET_TOKENS
    assert snippet({"examples": []}) is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/history?run=third", "choose one of first, second"),
        ("/api/finding/logit-lens/none", "it has planted"),
        ("/api/finding/patching/latest", "none yet"),
        ("/api/features/latest/999", "ask for it by its number"),
        ("/api/stream?from=%7B%22third%22:%7B%7D%7D", "choose one of first, second"),
        ("/report", "no report yet: `cloche report"),
    ],
)
def test_what_is_not_there_is_one_sentence(client, path, words):
    answer = client.get(path)
    assert answer.status_code == 404
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/stream?from=[]", "give JSON such as"),
        ("/api/stream?from=" + "[" * 5000, "give JSON such as"),
        ("/api/stream?from=" + "9" * 5000, "give JSON such as"),
        ("/api/features/latest/" + "9" * 5000, "by its number"),
        ("/api/features/latest/²", "by its number"),
        ("/api/history?x=step&from=a&to=2", "two numbers"),
    ],
)
def test_a_request_out_of_bounds_is_refused(client, path, words):
    answer = client.get(path)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_an_empty_run_opens(tmp_path):
    run = write_run(tmp_path / "empty", steps=0, finished=False, findings=False)
    with TestClient(make_app(run.path), base_url="http://127.0.0.1") as client:
        assert client.get("/api/history").json()["train"]["columns"]["step"] == []
        assert client.get("/api/health").json()["records"] == []
        assert client.get("/api/findings").json() == {"findings": [], "damaged": []}
        assert client.get("/api/run").json()["checkpoints"] == []


def test_numbers_that_json_cannot_carry_become_null(tmp_path):
    run = write_run(tmp_path / "run", steps=5, finished=False, findings=False)
    with open(run.path / "log" / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "loss": NaN, "grad_norm": Infinity}\n')
    with TestClient(make_app(run.path), base_url="http://127.0.0.1") as client:
        train = client.get("/api/history").json()["train"]["columns"]
    assert train["loss"] == [pytest.approx(metric(5)["loss"], rel=1e-6), None]
    assert train["grad_norm"][1] is None


def test_a_damaged_finding_keeps_nobody_from_the_others(tmp_path):
    run = write_run(tmp_path / "run", steps=5)
    for name, text in {"torn": '{"data": {', "list": "[1]", "bare": '{"summary": "no data"}'}.items():
        (run.path / "findings" / "logit-lens" / f"{name}.json").write_text(text)
    with TestClient(make_app(run.path), base_url="http://127.0.0.1") as client:
        found = client.get("/api/findings").json()
        assert len(found["findings"]) == 2
        assert [sentence.split()[0] for sentence in found["damaged"]] == [
            f"findings/logit-lens/{name}.json" for name in ("bare", "list", "torn")
        ]
        assert client.get("/api/finding/logit-lens/latest").status_code == 200
        assert client.get("/api/finding/logit-lens/torn").status_code == 404


def test_a_damaged_log_is_one_sentence_beside_what_can_be_read(tmp_path):
    run = write_run(tmp_path / "run", steps=5)
    for log in ("metrics", "health", "samples", "events"):
        with open(run.path / "log" / f"{log}.jsonl", "a") as file:
            file.write("not json\n")
    append(run, "metrics", metric(10))
    with TestClient(make_app(run.path), base_url="http://127.0.0.1") as client:
        found = client.get("/api/history").json()
        assert found["train"]["columns"]["step"] == [5, 10]
        assert "log/metrics.jsonl has a line that is not a JSON object" in found["damaged"][0]
        for path in ("/api/health", "/api/samples"):
            assert "not" in client.get(path).json()["damaged"][0]


def test_a_folder_without_a_run_is_one_sentence(tmp_path):
    with pytest.raises(ClocheError, match=r"run\.json"):
        make_app(tmp_path)


def test_opening_a_run_imports_no_torch(first):
    code = (
        "import sys; from starlette.testclient import TestClient\n"
        "from cloche.microscope import make_app, serve, write_report\n"
        f"with TestClient(make_app({str(first.path)!r}), base_url='http://127.0.0.1') as client:\n"
        "    assert client.get('/').status_code == client.get('/api/history').status_code == 200\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_list_of_features_tells_where_each_lives(measured):
    with TestClient(make_app(measured.path), base_url="http://127.0.0.1") as client:
        across = client.get("/api/features/across").json()
        assert across["places"] == ["resid_post[1]", "step-000600/resid_post[2]"]
        assert {f["id"]: f["shares"] for f in across["features"]}[10] == [0.75, 0.25]
        before = client.get("/api/features/latest").json()
        assert before["places"] is None and before["features"][0]["shares"] is None
        heads = client.get("/api/findings").json()["findings"]
        assert {head["instrument"] for head in heads} >= {"dictionary", "activation-density", "sparse-probing"}
        assert [head["of"] for head in heads if head["instrument"] == "dictionary"] == [
            *("resid_post-2", "bare", "resid_post-2", "resid_post-2")
        ]


def test_a_long_history_keeps_its_spikes_and_is_whole_in_a_window(tmp_path):
    run = write_run(tmp_path / "long", steps=0, findings=False)
    records = [metric(step, 0.3 * math.sin(step)) for step in range(1, 30_001)]
    records[12_345]["loss"], records[23_456]["grad_norm"], records[20_000]["loss"] = 77.0, 99.0, math.nan
    append(run, "metrics", *records)
    with TestClient(make_app(run.path), base_url="http://127.0.0.1") as client:
        whole = client.get("/api/history")
        train = whole.json()["train"]
        assert train["total"] == 30_000 and len(train["columns"]["step"]) <= MOST_POINTS and len(whole.content) < 10**6
        step, loss_, index = (train["columns"][key] for key in ("step", "loss", "index"))
        assert (step[0], step[-1], loss_[step.index(12_346)]) == (1, 30_000, 77.0)
        assert train["columns"]["grad_norm"][step.index(23_457)] == 99.0
        # The means of the stretches are those of the records, so that smoothing is of all of them.
        known = [record["loss"] for record in records if not math.isnan(record["loss"])]
        counts = [b - a for a, b in pairwise([-1, *index])]
        mean = sum(m * n for m, n in zip(train["means"]["loss"], counts, strict=True)) / 30_000
        assert mean == pytest.approx(sum(known) / len(known), rel=1e-3)
        query = {"x": "step", "from": 12_000, "to": 13_000}
        near = client.get("/api/history", params=query).json()["train"]["columns"]
        assert near["step"] == list(range(11_999, 13_002))
        assert near["loss"] == pytest.approx([record["loss"] for record in records[11_998:13_001]])
        append(run, "metrics", metric(30_001))
        assert client.get("/api/history").json()["train"]["total"] == 30_001
        run.truncate_logs(100)
        assert client.get("/api/history").json()["train"]["total"] == 100
