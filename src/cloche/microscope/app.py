"""The microscope's web app: JSON over the run folder, one event stream per tab, and requests to the worker."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from weakref import WeakSet

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cloche.drawing import REPORT_POLICY
from cloche.drawing import STYLE as PANELS_STYLE
from cloche.errors import ClocheError, FeatureUnknown, FileMissing
from cloche.microscope.folder import features
from cloche.microscope.folder.follow import Follower, server_sent_events
from cloche.microscope.folder.reading import BadRequest, parse_json
from cloche.microscope.library import Library
from cloche.microscope.page.chapters import MEASURES
from cloche.microscope.serving.bounds import Busy, body_of
from cloche.microscope.serving.guard import Guard
from cloche.microscope.serving.requests import Worker

STATIC = Path(__file__).parent / "static"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".md": "text/markdown"}
MOST_PROMPT_CHARACTERS = 4000
MOST_STREAMS = 32
LENS_EXAMPLE = 'The lens needs a JSON object such as {"checkpoint": "step-000500", "prompt": "def "}.'
LOOK_EXAMPLE = (
    'An instrument is asked for by a JSON object such as {"checkpoint": "step-000500", "instrument": "logit-lens"}.'
)
FEATURE_EXAMPLE = 'A feature is asked for by a JSON object such as {"finding": "latest", "feature": 7}.'


class Json(JSONResponse):
    """JSON of any text: lone surrogates, which UTF-8 cannot encode, become question marks."""

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def make_app(
    run_path: str | Path, worker: Worker | None = None, stopping: Callable[[], bool] = lambda: False
) -> Starlette:
    """The app over a run folder. Its write token is `app.state.token`. Raises ClocheError if there is no run at the
    path.

    >>> from cloche.microscope import make_app
    >>> from cloche.runs import Run
    >>> app = make_app(Run.create("first", recipe="").path)
    >>> "/api/run" in [route.path for route in app.routes]
    True
    """
    library = Library(run_path)
    token = secrets.token_urlsafe(24)
    asker = worker or Worker()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # A long log is read while the browser starts.
        reading = asyncio.create_task(asyncio.to_thread(library.logbook().columns))
        yield
        await asyncio.gather(reading, return_exceptions=True)
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
            Route("/api/features/{ident}/{feature}", feature_page),
            Route("/api/stream", events),
            Route("/api/lens", lens, methods=["POST"]),
            Route("/api/feature", any_feature, methods=["POST"]),
            Route("/api/look", look, methods=["POST"]),
            Route("/static/{name:path}", static),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={ClocheError: sentence, OSError: unreadable, HTTPException: refused, Exception: unexpected},
        lifespan=lifespan,
    )
    app.state.library, app.state.token, app.state.worker, app.state.stopping = library, token, asker, stopping
    app.state.followers = WeakSet()
    return app


# ---- errors


def sentence(_: Request, error: Exception) -> Response:
    """An error that a user can cause, as the sentence that the page shows. A refused body may be unread, so the
    connection is closed."""
    status = getattr(error, "status", 404)
    return Json({"error": str(error)}, status, headers={} if status == 404 else {"connection": "close"})


def unreadable(_: Request, error: Exception) -> Response:
    """A file that was removed or made unreadable while it was in use."""
    why = getattr(error, "strerror", None) or type(error).__name__
    return Json({"error": f"A file of this run cannot be read ({why}): reload the page to look again."}, 404)


def refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Json({"error": f"{error.detail}: there is nothing for this request here."}, error.status_code, error.headers)


def unexpected(_: Request, error: Exception) -> Response:
    return Json({"error": f"The microscope failed here: {type(error).__name__}. Its terminal says where."}, 500)


# ---- parameters of requests


def library_of(request: Request) -> Library:
    return request.app.state.library


def run_of(request: Request) -> str | None:
    return request.query_params.get("run")


def whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise BadRequest("A feature is given by its number, such as 7.")
    return int(text)


def bound_of(request: Request, name: str) -> float:
    try:
        value = float(request.query_params.get(name, "nan"))
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise BadRequest("A window needs two numbers: /api/history?x=step&from=100&to=200.")
    return value


# Plain functions run in Starlette's thread pool, so reading a long log does not hold up the event streams.


def index(request: Request) -> Response:
    page = (STATIC / "index.html").read_text()
    return HTMLResponse(page.replace("{{token}}", request.app.state.token))


# Looked up among existing files: a path of a request is never used as a file path.
STATIC_FILES = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.suffix in TYPES}
STATIC_FILES["panels.css"] = PANELS_STYLE


def static(request: Request) -> Response:
    path = STATIC_FILES.get(request.path_params["name"])
    if path is None:
        raise HTTPException(404)
    return Response(path.read_bytes(), media_type=TYPES[path.suffix])


def report(request: Request) -> Response:
    files = library_of(request).run(run_of(request))
    page = files.read("report.html")
    if page is None:
        raise FileMissing(f"{files.root.name} has no report yet: `cloche report {files.path}` writes it.")
    return HTMLResponse(page, headers={"content-security-policy": REPORT_POLICY})


def about(request: Request) -> Response:
    return Json(library_of(request).about(run_of(request)))


def history(request: Request) -> Response:
    book = library_of(request).logbook(run_of(request))
    if "x" not in request.query_params:
        return Json(book.history())
    axis = request.query_params["x"]
    return Json(book.window(axis, bound_of(request, "from"), bound_of(request, "to")))


def health(request: Request) -> Response:
    records = library_of(request).logbook(run_of(request)).health()
    return Json(records | {"measures": [asdict(measure) for measure in MEASURES]})


def samples(request: Request) -> Response:
    return Json(library_of(request).logbook(run_of(request)).samples())


def findings(request: Request) -> Response:
    instrument = request.query_params.get("instrument")
    return Json(library_of(request).findings(run_of(request), instrument))


def finding(request: Request) -> Response:
    asked = request.path_params
    return Json(library_of(request).find(run_of(request), asked["instrument"], asked["ident"]))


def feature_list(request: Request) -> Response:
    library, name = library_of(request), run_of(request)
    found = library.find(name, "features", request.path_params["ident"])
    return Json(features.listing(found, features.total(library.run(name), found)))


def feature_page(request: Request) -> Response:
    found = library_of(request).find(run_of(request), "features", request.path_params["ident"])
    number = whole_number(request.path_params["feature"])
    known = features.listed(found, number)
    if known is None:
        raise FeatureUnknown(
            f"Feature {number} is not among those that this finding reports: ask for it by its number."
        )
    return Json(known)


async def events(request: Request) -> Response:
    """Server-sent events from the cursors in `from` or, when the browser reconnects, from those of the last event it
    received."""
    asked = request.headers.get("last-event-id") or request.query_params.get("from") or "{}"
    library = library_of(request)
    if len(request.app.state.followers) >= MOST_STREAMS:
        raise Busy(f"{MOST_STREAMS} event streams are open already: close a tab of the microscope.")
    follower = Follower(library, cursors_from(asked) or {library.home.name: {}})
    request.app.state.followers.add(follower)
    return StreamingResponse(server_sent_events(follower, request.app.state.stopping), media_type="text/event-stream")


def cursors_from(text: str) -> dict[str, dict[str, str]]:
    """{run: {log: cursor}} from JSON. Raises ClocheError for anything else."""
    try:
        cursors: Any = parse_json(text, "the stream's start")
        whole = isinstance(cursors, dict) and all(
            isinstance(logs, dict) and all(isinstance(c, str) for c in logs.values()) for logs in cursors.values()
        )
    except ClocheError:
        whole = False
    if not whole:
        raise BadRequest('The stream cannot start from these cursors: give JSON such as {"first": {"metrics": ""}}.')
    return cursors


async def asked_of(request: Request, example: str) -> dict[str, Any]:
    """The request's body, a JSON object within bounds. Raises BadRequest with the example for anything else."""
    try:
        asked = parse_json(await body_of(request), "the request")
    except BadRequest:
        raise
    except ClocheError as error:
        raise BadRequest(f"{example[:-1]} ({error})") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("run"), str | None):
        raise BadRequest(example)
    return asked


async def lens(request: Request) -> Response:
    """Runs the logit lens: {"checkpoint", "prompt", "run"?} -> {"summary", "checkpoint", "notes", "data"}."""
    asked = await asked_of(request, LENS_EXAMPLE)
    if "prompt" not in asked or "checkpoint" not in asked:
        raise BadRequest(LENS_EXAMPLE)
    prompt = asked["prompt"]
    if not isinstance(prompt, str) or not prompt:
        raise BadRequest("The lens needs a prompt: type some text.")
    if len(prompt) > MOST_PROMPT_CHARACTERS:
        raise BadRequest(
            f"The prompt has {len(prompt)} characters, the lens takes {MOST_PROMPT_CHARACTERS}: shorten it."
        )
    folder = library_of(request).checkpoint(asked.get("run"), str(asked["checkpoint"]))
    return Json(await request.app.state.worker.ask("lens", checkpoint=str(folder), prompt=prompt))


async def look(request: Request) -> Response:
    """Runs an instrument by name: {"checkpoint", "instrument", "options"?, "run"?} -> its finding. Options are texts."""
    asked = await asked_of(request, LOOK_EXAMPLE)
    instrument, options = asked.get("instrument"), asked.get("options", {})
    if not isinstance(instrument, str) or "checkpoint" not in asked or not isinstance(options, dict):
        raise BadRequest(LOOK_EXAMPLE)
    texts = {str(key): str(value) for key, value in options.items()}
    if sum(map(len, (*texts, *texts.values()))) > MOST_PROMPT_CHARACTERS:
        raise BadRequest(f"The options have more than {MOST_PROMPT_CHARACTERS} characters: shorten them.")
    folder = library_of(request).checkpoint(asked.get("run"), str(asked["checkpoint"]))
    answer = await request.app.state.worker.ask("look", checkpoint=str(folder), instrument=instrument, options=texts)
    return Json(answer)


async def any_feature(request: Request) -> Response:
    """Any feature of a dictionary by number, listed or not: {"finding", "feature", "run"?} -> its page."""
    asked = await asked_of(request, FEATURE_EXAMPLE)
    ident, number = asked.get("finding"), asked.get("feature")
    if not isinstance(ident, str) or not isinstance(number, int) or isinstance(number, bool):
        raise BadRequest(FEATURE_EXAMPLE)
    library, name = library_of(request), asked.get("run")
    found = library.find(name, "features", ident)
    known = features.listed(found, number)
    if known is not None:
        return Json(known)
    question = features.worker_request(library, name, found, number)
    return Json(await request.app.state.worker.ask("feature", **question))
