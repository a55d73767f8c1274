"""Synthetic runs, a client over one, a server that a browser can reach, and the browser."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from synthetic_run import write_run
from synthetic_units import write_units

from cloche.microscope import make_app
from cloche.microscope.serving.requests import Worker
from cloche.microscope.serving.server import make_server
from cloche.runs import Run

STANDIN = (sys.executable, str(Path(__file__).with_name("standin_worker.py")))
LOCAL = "http://127.0.0.1"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip


@pytest.fixture(scope="session")
def standin() -> Callable[..., Worker]:
    """Makes workers that answer without a model."""
    return lambda seconds=20.0: Worker(seconds=seconds, command=STANDIN)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The finished synthetic run, with a second one beside it. Read-only."""
    home = tmp_path_factory.mktemp("runs")
    write_run(home / "second", steps=900, lift=0.4, findings=False)
    return write_run(home / "first")


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A synthetic run with every finding of its units. Read-only."""
    run = write_run(tmp_path_factory.mktemp("runs") / "measured")
    write_units(run)
    return run


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


@pytest.fixture(scope="module")
def browser() -> Iterator:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: install the package `chromium` to run the browser tests")
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator:
    """A page that fails its test on any request beyond the loopback and on any complaint in the console."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(20_000)
    outside, complaints = [], []
    page.on("request", lambda request: None if is_inside(request.url) else outside.append(request.url))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.complaints = complaints
    yield page
    page.close()
    assert outside == []
    assert complaints == []


def is_inside(address: str) -> bool:
    return re.match(r"(http://127\.0\.0\.1:\d+/|data:|about:|blob:|file:)", address) is not None
