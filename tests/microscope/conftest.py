"""A planted run, a client over it, and a server that a browser can reach."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from planted_run import plant
from starlette.testclient import TestClient

from glasshouse.microscope import make_app
from glasshouse.microscope.asks import Worker
from glasshouse.microscope.server import make_server
from glasshouse.runs import Run

STANDIN = (sys.executable, str(Path(__file__).with_name("standin_worker.py")))
LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="session")
def standin() -> Callable[..., Worker]:
    """Makes workers that answer without a model."""
    return lambda seconds=20.0: Worker(seconds=seconds, command=STANDIN)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The planted run, finished, with a second one beside it. Only to be read."""
    home = tmp_path_factory.mktemp("runs")
    plant(home / "second", steps=900, lift=0.4, findings=False)
    return plant(home / "first")


@pytest.fixture
def client(first: Run, standin: Callable[..., Worker]) -> Iterator[TestClient]:
    with TestClient(make_app(first.path, standin()), base_url=LOCAL) as client:
        yield client


@pytest.fixture(scope="module")
def serving(standin: Callable[..., Worker]) -> Iterator[Callable[[Path], str]]:
    """Serves a run on a free port, in a thread, and gives its address."""
    running = []

    def start(path: Path) -> str:
        server, listener, url = make_server(path, worker=standin())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread))
        return url

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)
