"""Serving the microscope on the loopback interface."""

from __future__ import annotations

import socket
import webbrowser
from pathlib import Path
from threading import Timer

import uvicorn

from cloche.errors import ClocheError, SettingConflict
from cloche.microscope.app import make_app
from cloche.microscope.serving.bounds import limits
from cloche.microscope.serving.requests import Worker

HOST = "127.0.0.1"
BACKLOG = 128


def listen(port: int) -> socket.socket:
    """A listening socket on the loopback; port 0 takes a free one. Raises ClocheError if the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(
            BACKLOG
        )  # from here on, a browser that connects before the server runs waits and is not refused
    except (OSError, OverflowError) as error:
        listener.close()
        raise SettingConflict(f"Port {port} cannot be used ({error}): choose another, or 0 for any free one.") from None
    return listener


def make_server(
    run_path: str | Path, port: int = 0, worker: Worker | None = None
) -> tuple[uvicorn.Server, socket.socket, str]:
    """A server ready to run, its socket and its address."""
    listener = listen(port)
    try:
        app = make_app(run_path, worker, stopping=lambda: server.should_exit)
    except ClocheError:
        listener.close()
        raise
    config = uvicorn.Config(app, log_level="critical", access_log=False, **limits())
    server = uvicorn.Server(config)
    return server, listener, f"http://{HOST}:{listener.getsockname()[1]}/"


def serve(run_path: str | Path, port: int = 0, open_browser: bool = True) -> None:
    """Serves the microscope over a run folder until Ctrl-C. Prints the address and, with `open_browser`, opens it.

    >>> from cloche.microscope import serve
    >>> serve("first")  # with a run in the folder first, this serves it and opens the browser
    Traceback (most recent call last):
        ...
    cloche.errors.RunMissing: ...
    """
    server, listener, url = make_server(run_path, port)
    print(f"The microscope over {run_path} is at {url}  (Ctrl-C ends it)", flush=True)
    if open_browser:
        opener = Timer(0.5, webbrowser.open, (url,))
        opener.daemon = True
        opener.start()
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        print()
    finally:
        listener.close()
