"""The worker: started by the first question, restarted after it died, and never silent about why."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from synthetic_run import lens_data, write_run

from cloche import part_text
from cloche.errors import ClocheError
from cloche.microscope import make_app
from cloche.microscope.folder.reading import clean
from cloche.microscope.serving import worker
from cloche.microscope.serving.guard import TOKEN_HEADER
from cloche.microscope.serving.requests import Worker
from cloche.part import import_parts

LOCAL = "http://127.0.0.1"


@pytest.fixture
def ask(first, standin):
    """Asks the lens of an app whose worker is the stand-in; gives (status, body)."""
    app = make_app(first.path, standin(seconds=3.0))
    with TestClient(app, base_url=LOCAL) as client:

        def ask(prompt: str, checkpoint: str = "step-001200", **more):
            body = {"checkpoint": checkpoint, "prompt": prompt, **more}
            answer = client.post("/api/lens", json=body, headers={TOKEN_HEADER: app.state.token})
            return answer.status_code, answer.json()

        ask.app, ask.client = app, client
        yield ask


def test_the_worker_starts_with_the_first_question_and_stays(ask):
    assert ask.app.state.worker.pid is None
    status, found = ask("def ")
    assert status == 200
    assert found["data"] == clean(lens_data("def "))
    assert found["checkpoint"] == "step-001200"
    pid = ask.app.state.worker.pid
    ask("other")
    assert ask.app.state.worker.pid == pid


def test_the_same_question_is_answered_from_memory(ask):
    _, before = ask("def ")
    os.kill(ask.app.state.worker.pid, signal.SIGKILL)
    assert ask("def ") == (200, before)


def test_a_dead_worker_is_explained_and_replaced(ask):
    status, said = ask("die")
    assert status == 404
    assert "ended with status 3 saying: out of memory" in said["error"]
    assert "Try again" in said["error"]
    assert ask("def ")[0] == 200


def test_a_killed_worker_is_replaced(ask):
    ask("def ")
    process = ask.app.state.worker._process
    os.kill(process.pid, signal.SIGKILL)
    status, found = ask("import ")
    # The kill is noticed either before the question (a new worker answers) or while it is asked (a sentence says so).
    assert status == 200 or "killed by signal 9" in found["error"]
    assert ask("again")[0] == 200


def test_a_slow_answer_is_given_up(ask):
    status, said = ask("hang")
    assert status == 404
    assert "took longer than 3 seconds" in said["error"]
    assert ask("def ")[0] == 200


def test_what_the_worker_refuses_reaches_the_page(ask):
    assert ask("refuse") == (404, {"error": "The prompt has 900 tokens, the model reads 256: shorten it."})


@pytest.mark.parametrize(
    ("prompt", "checkpoint", "words"),
    [
        ("", "step-001200", "type some text"),
        (7, "step-001200", "type some text"),
        ("x" * 4001, "step-001200", "shorten it"),
        ("x", "step-000001", "it has step-000300"),
        ("x", "../../etc", "no checkpoint"),
    ],
)
def test_questions_that_cannot_be_asked(ask, prompt, checkpoint, words):
    status, said = ask(prompt, checkpoint)
    assert status == (400 if "prompt" in said["error"] else 404)
    assert words in said["error"]
    assert ask.app.state.worker.pid is None


def endless():
    for _ in range(100):
        yield b" " * 10_000


@pytest.mark.parametrize("path", ["/api/lens", "/api/feature"])
@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"nonsense", b"x" * 100_000, b"[" * 60_000, b'{"a":' * 9000, b"9" * 5000, b'"\xff"', endless()],
)
def test_bodies_that_are_not_a_question(ask, path, body):
    answer = ask.client.post(path, content=body, headers={TOKEN_HEADER: ask.app.state.token})
    assert answer.status_code == 400
    assert "JSON object" in answer.json()["error"] or "shorten it" in answer.json()["error"]


def test_the_server_takes_its_worker_along(first, standin):
    app = make_app(first.path, standin())
    with TestClient(app, base_url=LOCAL) as client:
        body = {"checkpoint": "step-001200", "prompt": "x"}
        client.post("/api/lens", json=body, headers={TOKEN_HEADER: app.state.token})
        pid = app.state.worker.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_worker_answers_errors_with_sentences(tmp_path):
    asked = [
        {"id": 1, "ask": "nothing"},
        {"id": 2, "ask": "lens", "checkpoint": str(tmp_path / "none"), "prompt": "x"},
        {"id": 3, "ask": "lens"},
    ]
    replies = io.StringIO()
    worker.work(io.StringIO("".join(json.dumps(q) + "\n" for q in asked)), replies)
    said = [json.loads(line) for line in replies.getvalue().splitlines()]
    assert [reply["id"] for reply in said] == [1, 2, 3]
    assert all("error" in reply and "\n" not in reply["error"] for reply in said)
    assert "cannot answer 'nothing'" in said[0]["error"]


def test_the_real_worker_reads_a_real_model(tmp_path):
    """A tiny model, its lens through the app and the worker's own process, against the same lens here."""
    import cloche
    from cloche.interp import logit_lens
    from cloche.model import save_network

    run = write_run(tmp_path / "run", steps=0, finished=False, findings=False)
    tokenizer = cloche.train_bpe(["def read(self, path):\n    return open(path).read()\n"] * 20, vocab=280)
    block = cloche.Block(
        mix=cloche.Attention(heads=2, kv_heads=2, position=cloche.RoPE(), mask=cloche.Causal()),
        map=cloche.GLU("silu", hidden=32),
    )
    network = cloche.LM(vocab=tokenizer.vocab, width=16, body=cloche.Stack(2, block)).build(seed=0)
    with run.new_checkpoint(10) as folder:
        save_network(network, folder)
        tokenizer.save(folder)
    app = make_app(run.path)
    with TestClient(app, base_url=LOCAL) as client:
        asked = {"checkpoint": "step-000010", "prompt": "def read(self"}
        answer = client.post("/api/lens", json=asked, headers={TOKEN_HEADER: app.state.token})
        same = {"checkpoint": "step-000010", "instrument": "logit-lens", "options": {"prompt": "def read(self"}}
        by_name = client.post("/api/look", json=same, headers={TOKEN_HEADER: app.state.token})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert by_name.json()["data"] == found["data"] and by_name.json()["panels"]
    expected = logit_lens(cloche.load(run.path / "checkpoints" / "step-000010"), "def read(self")
    assert found["checkpoint"] == "step-000010"
    assert found["data"]["tokens"] == expected.data["tokens"]
    assert found["data"]["layers"] == ["embed", "resid_post[0]", "resid_post[1]"]
    assert found["data"]["rank"] == expected.data["rank"]
    for row, wanted in zip(found["data"]["entropy"], expected.data["entropy"], strict=True):
        assert row == pytest.approx(wanted, abs=1e-4)


def test_the_worker_imports_what_this_process_was_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts_of_mine.py").write_text("from pathlib import Path; Path('was-imported').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(part_text, "imported", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    import_parts(["parts_of_mine"])
    (tmp_path / "was-imported").unlink()

    async def asked() -> None:
        worker = Worker()
        with pytest.raises(ClocheError, match="nowhere is not a checkpoint"):
            await worker.ask("lens", checkpoint="nowhere", prompt="a")
        await worker.close()

    asyncio.run(asked())
    assert (tmp_path / "was-imported").exists()
