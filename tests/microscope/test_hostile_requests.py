"""A server that is sent what no browser of ours would send: it refuses in a sentence or hangs up, and keeps serving."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
from synthetic_run import append, metric, write_run

from bench.microscope.hostile_requests import SECRET, complaint, hostile_requests, send
from cloche.microscope.serving import bounds
from cloche.microscope.serving.guard import TOKEN_HEADER
from cloche.microscope.serving.requests import MOST_WAITING
from cloche.microscope.serving.server import make_server


@pytest.fixture(scope="module")
def short():
    """Limits that a test can wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "BODY_SECONDS", 0.4)
        for name, value in {
            "header_seconds": 0.4,
            "unread_seconds": 0.8,
            "tick_seconds": 0.1,
            "most_connections": 24,
        }.items():
            patch.setattr(bounds.BoundedProtocol, name, value)
        yield


@pytest.fixture(scope="module")
def served(short, standin, tmp_path_factory):
    """(run, port, token) of a server over a run with a secret beside it and links to the secret inside."""
    home = tmp_path_factory.mktemp("hostile")
    run = write_run(home / "first")
    (home / "secret.json").write_text(json.dumps({"data": {"prompt": SECRET}}))
    (run.path / "findings" / "logit-lens" / "leak.json").symlink_to(home / "secret.json")
    server, listener, _ = make_server(run.path, worker=standin())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield run, listener.getsockname()[1], server.config.app.state.token
    server.should_exit = True
    thread.join(10)


def wrong_answers(served, seed: int, count: int) -> list[str]:
    _, port, token = served
    found = []
    for request in hostile_requests(seed, count, token):
        why = complaint(send(port, request, patience=8.0))
        if why:
            found.append(f"{request}: {why}")
    return found


def test_hostile_requests_are_refused_and_the_server_lives(served):
    assert wrong_answers(served, seed=1, count=120) == []
    assert httpx.get(f"http://127.0.0.1:{served[1]}/api/run").json()["name"] == "first"


@pytest.mark.slow
def test_many_hostile_requests_are_refused(served):
    assert wrong_answers(served, seed=2, count=500) == []


def closed_after(connection: socket.socket, most: float = 9.0) -> float:
    """Seconds until the server ends the connection."""
    began = time.monotonic()
    connection.settimeout(most)
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


def sent_until_refused(connection: socket.socket, part: bytes, most: int, pause: float = 0.0) -> int:
    """How many times a part could be sent before the server ended the connection."""
    for i in range(most):
        try:
            connection.sendall(part)
        except ConnectionError:
            return i
        time.sleep(pause)
    return most


SLOW = {
    "nothing": b"",
    "half a line": b"GET / HT",
    "headers without an end": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
    "a second request": b"GET /api/none HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /api/run HT",
    "a body that nobody reads": b"GET /api/none HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx",
}


@pytest.mark.parametrize("begin", SLOW.values(), ids=SLOW)
def test_a_request_that_does_not_end_is_given_up(served, begin):
    with socket.create_connection(("127.0.0.1", served[1])) as connection:
        connection.sendall(begin)
        assert closed_after(connection) < 7  # the limit of this test, or the five seconds of an idle connection


def test_headers_that_trickle_in_are_given_up(served):
    with socket.create_connection(("127.0.0.1", served[1])) as connection:
        began = time.monotonic()
        assert sent_until_refused(connection, b"G", 200, pause=0.02) < 200
        assert time.monotonic() - began < 3


def test_an_endless_chunked_body_is_refused_at_its_bound(served):
    _, port, token = served
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST /api/lens HTTP/1.1\r\nHost: 127.0.0.1\r\n{TOKEN_HEADER}: {token}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        # What the kernel's buffers take; the server reads 64 KB.
        assert sent_until_refused(connection, b"10000\r\n" + b"x" * 65_536 + b"\r\n", 3000) < 1000


def test_a_body_that_stalls_is_refused(served):
    _, port, token = served
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST /api/lens HTTP/1.1\r\nHost: 127.0.0.1\r\n{TOKEN_HEADER}: {token}\r\nContent-Length: 50\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        connection.settimeout(9)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert b"400 Bad Request" in answer and b"took more than" in answer


def memory() -> int:
    """Bytes that this process, which serves too, has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_streams_that_nobody_reads_hold_little_and_end(served):
    run, port, _ = served
    log = run.path / "log" / "metrics.jsonl"
    line = json.dumps(metric(2000)).encode() + b"\n"
    with open(log, "ab") as file:
        file.write(line * 60_000)  # 15 MB
    before = memory()
    ask = b'GET /api/stream?from={"first":{"metrics":""}} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n'.replace(b'"', b"%22")
    streams = []
    for _ in range(16):
        stream = socket.socket()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.connect(("127.0.0.1", port))
        stream.sendall(ask)
        streams.append(stream)
    for _ in range(8):
        with open(log, "ab") as file:
            file.write(line * 900)  # each time as much as a reader may be behind
        time.sleep(0.4)
    grown = memory() - before
    for stream in streams:
        stream.close()
    assert grown < 60 << 20


def test_connections_beyond_the_limit_are_ended(served):
    opened = [socket.create_connection(("127.0.0.1", served[1])) for _ in range(60)]
    try:
        time.sleep(0.2)
        ended = 0
        for connection in opened:
            connection.settimeout(0.01)
            try:
                ended += connection.recv(1) == b""
            except TimeoutError:
                pass
            except ConnectionError:
                ended += 1
        assert ended >= 60 - 24
    finally:
        for connection in opened:
            connection.close()
    time.sleep(0.2)
    assert httpx.get(f"http://127.0.0.1:{served[1]}/api/run").status_code == 200


def test_more_questions_than_may_wait_are_refused(served):
    _, port, token = served
    said: list[int] = []

    def ask(i: int) -> None:
        body = {"checkpoint": "step-001200", "prompt": "wait" + "x" * i}
        headers = {TOKEN_HEADER: token}
        said.append(httpx.post(f"http://127.0.0.1:{port}/api/lens", json=body, headers=headers, timeout=30).status_code)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(MOST_WAITING + 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(said) == {200, 429} and said.count(429) <= 6
    append(served[0], "metrics", metric(2001))
