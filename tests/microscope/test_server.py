"""Serving: the address is printed, Ctrl-C ends it at once, also with a page open, and a taken port is one sentence."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from cloche.errors import ClocheError
from cloche.microscope import serve
from cloche.microscope.serving.server import make_server


def test_serve_prints_its_address_and_ends_with_ctrl_c(first):
    code = f"from cloche.microscope import serve; serve({str(first.path)!r}, open_browser=False)"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        url = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
        assert httpx.get(f"{url}api/run", timeout=20).json()["name"] == "first"
        with httpx.stream("GET", f"{url}api/stream", timeout=20) as stream:
            assert next(stream.iter_lines()) == "event: hello"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_taken_port_is_one_sentence(first):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClocheError, match=f"Port {port} cannot be used"):
            serve(first.path, port=port, open_browser=False)


def test_a_browser_quicker_than_the_server_is_not_refused(first):
    _, listener, url = make_server(first.path)
    with listener, socket.create_connection(("127.0.0.1", int(url.rstrip("/").rpartition(":")[2])), timeout=5):
        pass


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_cannot_be_is_one_sentence(first, port):
    with pytest.raises(ClocheError, match="choose another"):
        serve(first.path, port=port, open_browser=False)
