"""Requests that no browser of ours would send, drawn from a seed, and what a server must answer to each.

`hostile_requests(seed, count, token)` draws them; `send` sends one over a socket of its own and tells what came back;
`complaint` says what was wrong with the answer, or nothing. A server must give no 5xx, nothing from outside the run, and must
answer or hang up within bounds.

    python -m bench.microscope.hostile_requests RUN [--count 2000] [--seed 0]       # against a server over that run
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SECRET = "the-secret-outside-the-run"
MOST_SECONDS = 15.0
MOST_BYTES = 16 << 20
DEEP, DIGITS = "[" * 30_000, "9" * 5000
NASTY = [
    "..",
    "%2e%2e",
    "..%2f..%2f..%2fsecret.json",
    "%00",
    "%ff%fe",
    "a" * 3000,
    "",
    ".",
    "~",
    "*",
    "%",
    "%zz",
    "%2f",
    "%5c..%5c",
    "\\..\\",
    "latest",
    "planted",
    "-1",
    "0",
    "1e9",
    DIGITS,
    "²",
    "%C2%B2",
    "NaN",
    "leak",
    "resid_post-2",
    "%F0%9F%98%80",
    ";x=1",
    "null",
    "{{token}}",
    "'\"><script>",
    "%0d%0aX-A:b",
    "__proto__",
    "con",
    "first/../../secret.json",
    "index.html",
    "app.js",
]
NAMES = ["run", "history", "health", "samples", "findings", "lens", "feature"]
PATHS: list[Callable[[random.Random], str]] = [
    lambda r: "/",
    lambda r: f"/{nasty(r)}",
    lambda r: f"/static/{nasty(r)}",
    lambda r: f"/static/{nasty(r)}/{nasty(r)}",
    lambda r: f"/report?run={nasty(r)}",
    lambda r: (
        f"/api/{r.choice(['run', 'history', 'health', 'samples', 'findings', 'lens', 'feature', nasty(r)])}?run={nasty(r)}"
    ),
    lambda r: (
        f"/api/history?x={r.choice(['step', 'time', nasty(r)])}&from={nasty(r)}&to={r.choice(['1e999', '-inf', nasty(r)])}"
    ),
    lambda r: f"/api/finding/{nasty(r)}/{nasty(r)}",
    lambda r: f"/api/finding/logit-lens/{nasty(r)}",
    lambda r: f"/api/features/{nasty(r)}",
    lambda r: f"/api/features/latest/{nasty(r)}?run={nasty(r)}",
    lambda r: f"/api/findings?instrument={nasty(r)}",
    lambda r: f"/api/stream?from={r.choice([DEEP, DIGITS, cursors(r), nasty(r)])}",
    lambda r: "http://evil.example/api/run",
    lambda r: "//evil.example/%2e%2e",
    lambda r: "/api/run" + "/" * r.randrange(1, 5),
    lambda r: "/" + "a/" * r.randrange(1, 3000),
]
METHODS = (
    ["GET"] * 8
    + ["POST"] * 8
    + ["HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "X" * 300, "G@T"]
)
BODIES: list[Callable[[random.Random], bytes]] = [
    lambda r: b"",
    lambda r: DEEP.encode(),
    lambda r: DIGITS.encode(),
    lambda r: b'{"a":' * 10_000,
    lambda r: b"\xff\xfe\x00{",
    lambda r: b'"\\ud800"',
    lambda r: bytes(r.randrange(256) for _ in range(300)),
    lambda r: json.dumps({"checkpoint": r.choice(["step-001200", "../..", 7, None, [1]]), "prompt": thing(r)}).encode(),
    lambda r: json.dumps({"checkpoint": "step-001200", "prompt": "x", "run": thing(r)}).encode(),
    lambda r: json.dumps(
        {"finding": r.choice(["latest", "../x", thing(r)]), "feature": thing(r), "run": thing(r)}
    ).encode(),
    lambda r: b'{"checkpoint": "step-001200", "prompt": "' + b"x" * r.choice([10, 5000, 70_000]) + b'"}',
]


def nasty(r: random.Random) -> str:
    return r.choice(NASTY)


def cursors(r: random.Random) -> str:
    cursor = r.choice(["", "0-0", f"1-{DIGITS}", "²-²", "-", "1-" + "9" * 18, "x"])
    return f"%7B%22{r.choice(['first', 'third', '..'])}%22:%7B%22metrics%22:%22{cursor}%22%7D%7D"


def thing(r: random.Random) -> object:
    return r.choice(
        [
            "x",
            "",
            "\x00",
            "x" * 9000,
            0,
            -1,
            10**40,
            1e308,
            True,
            None,
            [],
            {},
            ["x"],
            {"a": [{}]},
            "first",
            "…",
            "\ud800",
        ]
    )


@dataclass(frozen=True)
class HostileRequest:
    """What is sent, in parts with a short pause between them; `cut` leaves without waiting for the answer's end."""

    parts: tuple[bytes, ...]
    cut: bool = False

    def __str__(self) -> str:
        return repr(self.parts[0][:160])


def hostile_requests(seed: int, count: int, token: str = "") -> Iterator[HostileRequest]:
    """`count` requests. With the server's `token` many get past the first check of a write."""
    r = random.Random(seed)
    for _ in range(count):
        yield _noise(r) if r.random() < 0.08 else _request(r, token)


def _noise(r: random.Random) -> HostileRequest:
    return HostileRequest(
        (
            r.choice(
                [
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(r.randrange(256) for _ in range(200)),
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                    b"GET /\r\n\r\n",
                    b"\r\n" * 2000,
                    b"\x00" * 500,
                    b"GET / HTTP/9.9\r\n\r\n",
                    bytes(r.randrange(256) for _ in range(1000)),
                    b"GET / HTTP/1.1\nHost: 127.0.0.1\n\n",
                    b"A" * 70_000,
                ]
            ),
        ),
        cut=r.random() < 0.3,
    )


def _request(r: random.Random, token: str) -> HostileRequest:
    path = r.choice(PATHS)(r).replace(" ", "%20")
    line = f"{r.choice(METHODS)} {path} HTTP/{r.choice(['1.1'] * 9 + ['1.0'])}\r\n".encode("utf-8", "surrogateescape")
    headers = [
        r.choice([b"Host: 127.0.0.1"] * 12 + [b"Host: evil.example", b"Host: 127.0.0.1\r\nHost: evil.example", b"X: y"])
    ]
    if token and r.random() < 0.8:
        headers.append(b"x-cloche-token: " + token.encode())
    headers += r.choices(
        [
            b"Connection: close",
            b"Connection: keep-alive",
            b"Origin: http://evil.example",
            b"Origin: null",
            b"Range: bytes=0-",
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==",
            b"Expect: 100-continue",
            b"Last-Event-ID: " + DEEP.encode()[:20_000],
            b"Last-Event-ID: " + DIGITS.encode(),
            b"Cookie: " + b"a" * 9000,
            b"X-Long: " + b"b" * 70_000,
            b"\r\n".join(b"X-%d: y" % i for i in range(300)),
            b"Accept-Encoding: \xff\xfe",
            b"Bad Name: y",
            b"X-Forwarded-For: ;;,,",
            b"TE: trailers",
        ],
        k=r.randrange(3),
    )
    body = r.choice(BODIES)(r) if r.random() < 0.6 else b""
    kind = r.random()
    if kind < 0.55:
        length = str(len(body)) if r.random() < 0.8 else r.choice(["-1", DIGITS, "1e3", "abc", str(len(body) + 50), ""])
        head = line + b"\r\n".join([*headers, b"Content-Length: " + length.encode()]) + b"\r\n\r\n"
        return HostileRequest((head, body) if body else (head,), cut=r.random() < 0.15)
    chunks = [b"%x\r\n" % len(body) + body + b"\r\n"] * r.choice([1, 1, 40]) if body else []
    if kind < 0.65:
        chunks += [b"zz\r\n", b"-5\r\n", b"f" * 5000]
    elif kind < 0.85:
        chunks.append(b"0\r\n\r\n")
    extra = [b"Transfer-Encoding: chunked", *([b"Content-Length: 3"] if r.random() < 0.1 else [])]
    return HostileRequest((line + b"\r\n".join([*headers, *extra]) + b"\r\n\r\n", *chunks), cut=r.random() < 0.15)


@dataclass(frozen=True)
class Answer:
    """What came back: the bytes, how long it took, and whether the server was still sending or silent at the end."""

    data: bytes
    seconds: float
    ended: bool

    @property
    def statuses(self) -> list[int]:
        return [int(code) for code in re.findall(rb"^HTTP/1\.1 (\d{3})", self.data[:200], re.M)]


def send(port: int, request: HostileRequest, patience: float = MOST_SECONDS) -> Answer:
    """Sends a request on a connection of its own and reads until the answer is whole, the server hangs up or time is out."""
    began = time.monotonic()
    data, ended = b"", False
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        try:
            for part in request.parts:
                connection.sendall(part)
            while not request.cut and time.monotonic() - began < patience and len(data) < MOST_BYTES:
                got = connection.recv(1 << 16)
                data += got
                if not got or _whole(data):
                    ended = True
                    break
        except (ConnectionError, TimeoutError):
            ended = time.monotonic() - began < patience
    return Answer(data, time.monotonic() - began, ended or request.cut)


def _whole(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    if found and b" 100 " in head[:14]:
        head, found, body = body.partition(b"\r\n\r\n")
    if not found:
        return False
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return (
        b"text/event-stream" in head
        or (length is not None and len(body) >= int(length[1]))
        or b"0\r\n\r\n" in body[-7:]
    )


def complaint(answer: Answer) -> str | None:
    """What is wrong with an answer; None where nothing is."""
    if any(status >= 500 for status in answer.statuses):
        return f"the server answered {answer.statuses[0]}"
    if SECRET.encode() in answer.data or b"root:x:0:0" in answer.data:
        return "the server gave a file from outside the run"
    if len(answer.data) >= MOST_BYTES:
        return f"the answer has more than {MOST_BYTES:,} bytes"
    return None if answer.ended else f"neither an answer nor an end came in {answer.seconds:.0f} s"


def main() -> None:
    from threading import Thread

    from cloche.microscope.serving.server import make_server

    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    server, listener, _ = make_server(asked.run)
    Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    wrong, port = 0, listener.getsockname()[1]
    token = server.config.app.state.token  # type: ignore[union-attr]
    for request in hostile_requests(asked.seed, asked.count, token):
        why = complaint(send(port, request))
        if why:
            wrong += 1
            print(f"{request}: {why}")
    print(f"{wrong} of {asked.count} requests were answered wrongly")


if __name__ == "__main__":
    main()
