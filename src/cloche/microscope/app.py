"""The microscope's web app: JSON over the run folder, one event stream per tab, and one question for the worker."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cloche.errors import ClocheError
from cloche.microscope import columns, features
from cloche.microscope.asks import Worker
from cloche.microscope.follow import Follower, stream
from cloche.microscope.guard import Guard
from cloche.microscope.library import Library

STATIC = Path(__file__).parent / "static"
MOST_PROMPT_CHARACTERS = 4000
MOST_BODY_BYTES = 1 << 16
# The report is one page with its style inside: it may style itself and nothing more.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


def make_app(
    run_path: str | Path, worker: Worker | None = None, stopping: Callable[[], bool] = lambda: False
) -> Starlette:
    """The app over a run folder. Its write token is `app.state.token`. ClocheError when there is no run at the path."""
    library = Library(run_path)
    token = secrets.token_urlsafe(24)
    asker = worker or Worker()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asker.close()

    app = Starlette(
        routes=[
            Route("/", index),
            Route("/report", report),
            Route("/api/run", about),
            Route("/api/history", history),
            Route("/api/health", health),
            Route("/api/samples", samples),
            Route("/api/findings", findings),
            Route("/api/finding/{instrument}/{ident}", finding),
            Route("/api/features/{ident}", feature_list),
            Route("/api/features/{ident}/{feature:int}", feature_page),
            Route("/api/stream", events),
            Route("/api/lens", lens, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={ClocheError: sentence},
        lifespan=lifespan,
    )
    app.state.library, app.state.token, app.state.worker, app.state.stopping = library, token, asker, stopping
    return app


def sentence(_: Request, error: Exception) -> Response:
    """What a user can cause, as the one sentence the page shows."""
    return JSONResponse({"error": str(error)}, status_code=404)


def library_of(request: Request) -> Library:
    return request.app.state.library


def run_of(request: Request) -> str | None:
    return request.query_params.get("run")


# Plain functions run in Starlette's thread pool, so reading a long log does not hold up the event streams.


def index(request: Request) -> Response:
    page = (STATIC / "index.html").read_text()
    return HTMLResponse(page.replace("{{token}}", request.app.state.token))


def report(request: Request) -> Response:
    path = library_of(request).path(run_of(request)) / "report.html"
    if not path.is_file():
        raise ClocheError(f"{path.parent.name} has no report yet: `cloche demo` writes one when it ends.")
    return HTMLResponse(path.read_text(), headers={"content-security-policy": REPORT_POLICY})


def about(request: Request) -> Response:
    return JSONResponse(library_of(request).about(run_of(request)))


def history(request: Request) -> Response:
    return JSONResponse(columns.history(library_of(request).log(run_of(request))))


def health(request: Request) -> Response:
    return JSONResponse(columns.health(library_of(request).log(run_of(request))))


def samples(request: Request) -> Response:
    return JSONResponse(columns.samples(library_of(request).log(run_of(request))))


def findings(request: Request) -> Response:
    instrument = request.query_params.get("instrument")
    return JSONResponse(library_of(request).findings(run_of(request), instrument))


def finding(request: Request) -> Response:
    return JSONResponse(
        library_of(request).find(run_of(request), request.path_params["instrument"], request.path_params["ident"])
    )


def feature_list(request: Request) -> Response:
    found = library_of(request).find(run_of(request), "features", request.path_params["ident"])
    return JSONResponse(features.listing(found))


def feature_page(request: Request) -> Response:
    found = library_of(request).find(run_of(request), "features", request.path_params["ident"])
    return JSONResponse(features.page(found, request.path_params["feature"]))


async def events(request: Request) -> Response:
    """Server-sent events from the cursors in `from`, or, when the browser reconnects, from those of the last event it saw."""
    asked = request.headers.get("last-event-id") or request.query_params.get("from") or "{}"
    library = library_of(request)
    follower = Follower(library, cursors_from(asked) or {library.home.name: {}})
    return StreamingResponse(stream(follower, request.app.state.stopping), media_type="text/event-stream")


def cursors_from(text: str) -> dict[str, dict[str, str]]:
    """{run: {log: cursor}} from JSON. ClocheError when it is anything else."""
    try:
        cursors: Any = json.loads(text)
        whole = isinstance(cursors, dict) and all(
            isinstance(logs, dict) and all(isinstance(c, str) for c in logs.values()) for logs in cursors.values()
        )
    except ValueError:
        whole = False
    if not whole:
        raise ClocheError('The stream cannot start from these cursors: give JSON such as {"first": {"metrics": ""}}.')
    return cursors


async def lens(request: Request) -> Response:
    """Runs the logit lens: {"checkpoint", "prompt", "run"?} -> {"summary", "checkpoint", "data"}."""
    body = await request.body() if int(request.headers.get("content-length") or 0) <= MOST_BODY_BYTES else b""
    try:
        asked: Any = json.loads(body)
        checkpoint, prompt = asked["checkpoint"], asked["prompt"]
    except (ValueError, KeyError, TypeError):
        raise ClocheError(
            'The lens needs a JSON object such as {"checkpoint": "step-000500", "prompt": "def "}.'
        ) from None
    if not isinstance(prompt, str) or not prompt:
        raise ClocheError("The lens needs a prompt: type some text.")
    if len(prompt) > MOST_PROMPT_CHARACTERS:
        raise ClocheError(
            f"The prompt has {len(prompt)} characters, the lens takes {MOST_PROMPT_CHARACTERS}: shorten it."
        )
    folder = library_of(request).checkpoint(asked.get("run"), str(checkpoint))
    return JSONResponse(await request.app.state.worker.ask("lens", checkpoint=str(folder), prompt=prompt))
