"""A run folder that somebody else made: what it says is shown and never obeyed, in the report and in the app."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hostile_fields import OUT, TEXTS, documents, poison, single_changes, write
from starlette.testclient import TestClient
from synthetic_run import write_run
from synthetic_units import write_units

from cloche.drawing import markup
from cloche.errors import ClocheError
from cloche.microscope import make_app, write_report

LOCAL = "http://127.0.0.1"
ENDPOINTS = [
    "/",
    "/report",
    "/api/run",
    "/api/history",
    "/api/history?x=step&from=1&to=9",
    "/api/health",
    "/api/samples",
    "/api/findings",
    "/api/finding/logit-lens/latest",
    "/api/finding/dictionary/latest",
    "/api/finding/sparse-probing/latest",
    "/api/finding/activation-density/latest",
    "/api/features/latest",
    "/api/features/latest/7",
]
ALLOWED = {
    *[
        "html",
        "main",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "section",
        "figure",
        "figcaption",
        "div",
        "span",
        "p",
        "h1",
        "h2",
        "h3",
        "dl",
        "dt",
        "dd",
        "ol",
        "ul",
        "li",
        "b",
        "i",
        "small",
    ],
    *[
        "code",
        "pre",
        "table",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
        "img",
        "svg",
        "line",
        "text",
        "polyline",
        "circle",
        "rect",
        "path",
        "g",
        "article",
        "footer",
    ],
}


class Harmless(HTMLParser):
    """Fails on an element, an attribute or an address that no report has."""

    def __init__(self) -> None:
        super().__init__()
        self.metas: list[dict[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        assert tag in ALLOWED, tag
        for name, value in attrs:
            assert not name.startswith("on") and name not in ("srcdoc", "action", "formaction", "xlink:href"), (
                tag,
                name,
            )
            assert name not in ("src", "href") or value.startswith("data:image/png;base64,"), (tag, name, value)
            assert name != "style" or "url" not in value, value
        if tag == "meta":
            self.metas.append(dict(attrs))


def assert_harmless(page: str) -> None:
    parser = Harmless()
    parser.feed(page)
    assert [meta.get("http-equiv") for meta in parser.metas] == [None, "Content-Security-Policy", None, None]
    assert parser.metas[1]["content"] == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


@pytest.fixture
def run(tmp_path) -> Path:
    """A short run with a finding of every instrument, in a folder whose name is hostile, and a dictionary so named."""
    run = write_run(tmp_path / "<meta http-equiv=refresh content=0>", steps=100)
    write_units(run)
    run.write_json("dictionaries/<img src=x onerror=window.owned=1>/dictionary.json", {"kind": "sae", "site": TEXTS[0]})
    return run.path


def test_seed_and_feature_number_are_shown_as_text(run):
    kept = documents(run)
    write(run, "run.json", kept["run.json"] | {"seed": TEXTS[0], "created": TEXTS[1], "cloche": TEXTS[2]})
    features = kept["findings/features/resid_post-2.json"]
    for i, feature in enumerate(features["data"]["features"]):
        feature["id"] = i if i % 2 else TEXTS[0]
    write(run, "findings/features/resid_post-2.json", features)
    page = write_report(run).read_text()
    assert_harmless(page)
    assert "&lt;meta http-equiv=&quot;refresh&quot;" in page


@pytest.mark.slow
@pytest.mark.parametrize("third", range(3))
def test_no_field_of_a_run_reaches_the_report_as_markup(run, tmp_path, third):
    kept, seen = tmp_path / "kept", 0
    shutil.copytree(run, kept)
    with TestClient(make_app(run), base_url=LOCAL) as client:
        for relative, _, change in itertools.islice(single_changes(run, share=0.5), third, None, 3):
            change()
            seen += 1
            try:
                assert_harmless(write_report(run).read_text())
                (run / "report.html").unlink()  # a manifest that is put back does not know it
            finally:
                if seen % 16 == 0:
                    for path in ENDPOINTS:
                        assert client.get(path).status_code < 500, (relative, path)
                shutil.copy(kept / relative, run / relative)
    assert seen > 33  # fields, each of which was hostile once


def test_markup_cannot_be_made_by_forgetting():
    piece = markup.tag("b", "<i>", title='"><script>')
    assert piece.html == '<b title="&quot;&gt;&lt;script&gt;">&lt;i&gt;</b>'
    assert markup.tag("p", f"{piece}").html.count("<") == 2  # written into a string it is a text again
    with pytest.raises(TypeError):
        "<p>" + piece
    with pytest.raises(TypeError):
        "".join([piece])
    for wrong in (
        lambda: markup.tag("script"),
        lambda: markup.tag("a", href="javascript:x"),
        lambda: markup.tag("b", onclick="x"),
    ):
        with pytest.raises(ValueError, match="no"):
            wrong()
    assert markup.text("\ud800\0\x1b") == "?\ufffd\ufffd"


# ---- links that lead outside

SECRET = json.dumps(
    dict.fromkeys(("prompt", "text", "kind", "seed", "question", "summary"), "secret-outside")
    | {"step": 5, "loss": 1.0, "format": 2, "data": {"prompt": "secret-outside", "dictionary": "secret-outside"}}
)
LINKED = [
    "run.json",
    "recipe.toml",
    "data",
    "data/data.json",
    "log",
    "log/metrics.jsonl",
    "log/health.jsonl",
    "log/samples.jsonl",
    "log/events.jsonl",
    "checkpoints",
    "checkpoints/step-000300",
    "checkpoints/step-000300/manifest.json",
    "checkpoints/step-000300/model.safetensors",
    "checkpoints/step-000300/config.json",
    "findings",
    "findings/features",
    "findings/features/resid_post-2.json",
    "dictionaries",
    "report.html",
]


def everything(client: TestClient, token: str) -> str:
    """All that the app says."""
    ask = {"checkpoint": "step-000300", "prompt": "hello"}
    headers = {"x-cloche-token": token}
    said = [client.get(path) for path in ENDPOINTS]
    said += [client.post("/api/lens", json=ask, headers=headers)]
    said += [client.post("/api/feature", json={"finding": "latest", "feature": 999}, headers=headers)]
    assert max(answer.status_code for answer in said) < 500
    return "\n".join(answer.text for answer in said)


def report_of(run: Path) -> str:
    """The report; nothing where run.json is damaged, or the report's own place is taken by something else."""
    try:
        return write_report(run).read_text()
    except ClocheError:
        place = run / "report.html"
        assert not (run / "run.json").is_file() or damaged_information(run) or place.is_symlink() or not place.is_file()
        return ""


def damaged_information(run: Path) -> bool:
    try:
        return json.loads((run / "run.json").read_bytes())["format"] != 2
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return True


@pytest.mark.parametrize("relative", LINKED)
def test_no_link_in_a_run_is_followed_outside(tmp_path, relative, standin):
    run = write_run(tmp_path / "runs" / "first", steps=300).path
    (run / "dictionaries").mkdir(exist_ok=True)
    outside = tmp_path / "outside"
    shutil.copytree(run, outside)
    for path in outside.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            path.write_text('[question]\nask = "secret-outside"\n' if path.suffix == ".toml" else f"{SECRET}\n")
    target = run / relative
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    (outside / "report.html").write_text("secret-outside")
    target.symlink_to(outside / relative)
    if relative == "run.json":
        with pytest.raises(ClocheError, match="leads outside"):
            make_app(run)
        return
    app = make_app(run, standin())
    with TestClient(app, base_url=LOCAL) as client:
        assert "secret-outside" not in everything(client, app.state.token)
        if relative.startswith("checkpoints"):
            assert app.state.worker.pid is None  # no process was given a model from outside
    assert "secret-outside" not in report_of(run)


# ---- damaged, half-written and vanished files

DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "deep": lambda path: path.write_bytes(b"[" * 200_000 + b"\n"),
    "deep object": lambda path: path.write_bytes(b'{"a":' * 100_000 + b"\n"),
    "digits": lambda path: path.write_bytes(b'{"step": ' + b"9" * 5000 + b', "seed": 1, "format": 2}\n'),
    "many digits": lambda path: path.write_bytes(
        b'{"step": ' + b"9" * 400 + b', "data": {"a": ' + b"9" * 400 + b"}}\n"
    ),
    "another shape": lambda path: path.write_bytes(
        b'{"data": {"features": {"a": 1}, "tokens": 7, "top": [[]]}, "loss": "x"}\n'
    ),
    "a list": lambda path: path.write_bytes(b"[1, 2, 3]\n"),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "no permission": lambda path: path.chmod(0),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
}


@pytest.mark.parametrize(
    "damage", [d if d in ("half", "deep object", "a pipe") else pytest.param(d, marks=pytest.mark.slow) for d in DAMAGE]
)
def test_a_damaged_file_is_a_sentence_and_the_rest_is_shown(tmp_path, damage, first):
    home = tmp_path / "run"
    shutil.copytree(first.path, home)
    files = [
        f for f in home.rglob("*") if f.is_file() and f.parent.name not in ("step-000300", "step-000600", "step-000900")
    ]
    with TestClient(make_app(home), base_url=LOCAL) as client:
        for path in sorted(files):
            kept = path.read_bytes()
            DAMAGE[damage](path)
            answers = {name: client.get(name) for name in ENDPOINTS}
            assert {name: a.text for name, a in answers.items() if a.status_code >= 500} == {}, path
            told = [a.json()["error"] for a in answers.values() if a.status_code == 404]
            assert all(sentence.endswith((".", ")")) for sentence in told)
            assert_harmless(report_of(home) or markup.document("", ""))
            if path.name != "report.html":
                (home / "report.html").unlink(missing_ok=True)  # a manifest that is put back does not know it
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
            path.write_bytes(kept)


# ---- in a browser


VIEWS = (
    "curves",
    "growing",
    "health",
    "lens",
    "features",
    "features?feature=7",
    *(
        f"findings?of={name}"
        for name in ("sparse-probing", "activation-density", "dictionary", "logit-lens", "features")
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_poisoned_run_neither_leaves_nor_loads_nor_runs_anything(browser, run, serving, seed):
    changed = poison(run, seed, share=(0.15, 0.5, 1.0)[seed])
    assert changed >= 31
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    went: list[str] = []
    asked: list[str] = []
    dialogs: list[str] = []
    page.on("framenavigated", lambda frame: went.append(frame.url))
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    report = write_report(run).as_uri()
    page.goto(report)
    page.wait_for_timeout(400)
    assert page.evaluate("window.owned") is None and dialogs == []
    assert (
        page.evaluate(
            "document.querySelectorAll('script, iframe, object, form, base, link, [onerror], [onload]').length"
        )
        == 0
    )
    assert set(went) == {report} and set(asked) == {report} | {url for url in asked if url.startswith("data:image/png")}
    url = serving(run)
    for view in VIEWS:
        went.clear()
        page.goto(f"{url}#/{view}")
        page.reload()
        page.locator("main, .sentence").first.wait_for()
        page.wait_for_timeout(250)
        assert page.evaluate("window.owned") is None and dialogs == [], view
        assert page.locator("main").inner_text().strip(), view  # a view or a sentence, never a blank page
        assert all(address.split("#")[0] == url for address in went), (view, went)
    outside = [address for address in asked if not address.startswith((url, "data:", "file:"))]
    assert outside == [] and not any(OUT in address for address in asked)
    page.close()
