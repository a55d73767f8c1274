"""Who is let in: the loopback by name, and writes with the token; nothing outside the run and the static folder is served."""

from __future__ import annotations

import hashlib
import re

import pytest
from starlette.testclient import TestClient
from synthetic_run import write_run

from cloche.microscope import make_app
from cloche.microscope.app import STATIC
from cloche.microscope.serving.guard import TOKEN_HEADER, is_loopback

ASK = {"checkpoint": "step-001200", "prompt": "def "}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:9", "LOCALHOST", "[::1]", "[::1]:8000"])
def test_the_loopback_by_each_of_its_names(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil:1",
        "10.0.0.1",
        "[::2]:1",
        "localhost:x",
    ],
)
def test_other_hosts_are_refused(client, host):
    assert not is_loopback(host)
    answer = client.get("/api/run", headers={"host": host})
    assert answer.status_code == 403
    assert "127.0.0.1" in answer.json()["error"]


def test_a_write_needs_the_token_of_the_page(client):
    assert client.post("/api/lens", json=ASK).status_code == 403
    assert client.post("/api/lens", json=ASK, headers={TOKEN_HEADER: "guess"}).status_code == 403
    token = re.search(r'name="cloche-token" content="([^"]+)"', client.get("/").text)[1]
    assert client.post("/api/lens", json=ASK, headers={TOKEN_HEADER: token}).status_code == 200
    foreign = {TOKEN_HEADER: token, "origin": "https://evil.example"}
    assert client.post("/api/lens", json=ASK, headers=foreign).status_code == 403


def test_each_server_has_its_own_token(first):
    assert make_app(first.path).state.token != make_app(first.path).state.token


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/run", "/api/none", "/static/none.js"])
def test_every_answer_forbids_foreign_code(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/api/finding/logit-lens/..%2f..%2frun",
        "/api/finding/..%2f..%2f..%2f/run",
        "/api/features/..%2flogit-lens%2fplanted",
        "/api/history?run=..",
        "/api/history?run=../first",
        "/api/history?run=/etc",
        "/report?run=..%2f..",
    ],
)
def test_paths_stay_inside(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_links_that_lead_out_are_not_followed(tmp_path):
    run = write_run(tmp_path / "runs" / "first", steps=5)
    secret = tmp_path / "secret.json"
    secret.write_text('{"instrument": "logit-lens", "data": {"prompt": "secret"}}')
    (run.path / "findings" / "logit-lens" / "leak.json").symlink_to(secret)
    write_run(tmp_path / "elsewhere", steps=5)
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs" / "loop")
    with TestClient(make_app(run.path), base_url="http://127.0.0.1") as client:
        assert client.get("/api/finding/logit-lens/leak").status_code == 404
        assert client.get("/api/run").json()["runs"] == ["first"]


def test_vendored_files_are_those_that_were_published():
    licences = (STATIC / "vendor" / "LICENSES.md").read_text()
    named = dict(re.findall(r"^\| `([\w.-]+)` .*`([0-9a-f]{64})` \|$", licences, re.M))
    vendored = {path.name for path in (STATIC / "vendor").iterdir()} - {"LICENSES.md"}
    assert set(named) == vendored
    for name, digest in named.items():
        assert hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() == digest


def test_no_page_names_an_outside_address():
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.html"), *STATIC.glob("*.css")]:
        assert not re.search(r"https?://|//[a-z]+\.", path.read_text()), path
