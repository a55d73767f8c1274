"""An instrument that cloche knows nothing of: its finding is in the notebook, the report and the microscope."""

from __future__ import annotations

import re

import pytest
from synthetic_run import write_run

from cloche.drawing import (
    Bars,
    Finding,
    Graph,
    Heatmap,
    Lines,
    Node,
    Passage,
    Provenance,
    Scatter,
    Series,
    Table,
    Text,
    Tokens,
)
from cloche.drawing.notebook import script
from cloche.microscope import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
expect = playwright.expect
HOSTILE = "<img src=x onerror=window.owned=1>"


def echoes(checkpoint: str) -> Finding:
    """A third party's instrument: one panel of every kind."""
    panels = (
        Table("Heads", ("head", "score"), (("L0H1 " + HOSTILE, 0.75), ("L1H0", None)), ("number", "percent")),
        Heatmap(
            "Scores", ("layer 1", "layer 0"), ("a", " b"), ((0.5, 1.0), (None, 0.25)), (("x", "y"), ("z", HOSTILE))
        ),
        Heatmap("Many scores", ("layer 1", "layer 0"), ("1", "2"), ((0.5, -1.0), (0.0, 0.25))),
        Lines(
            "Over the steps",
            (100.0, 200.0, 400.0),
            (Series("echo", (0.1, 0.4, 0.9), (0.0, 0.3, 0.8), (0.2, 0.5, 1.0)),),
        ),
        Bars("By layer", ("layer 0", "layer 1"), (Series("echo", (0.25, 1.0)),)),
        Scatter("Places", ((0.0, 1.0, 2.0), (1.0, 0.0, 1.0)), ("x", "y", "z"), ("first", "second")),
        Tokens("Where", (Passage("echo 7", ("the", " cat"), (0.0, 2.0), "seen twice"),)),
        Graph("Circuit", (Node("embed"), Node("L0H1", 1), Node("logits", 2)), ((0, 1, 0.5), (1, 2, -1.0))),
        Text("", f"Said in words {HOSTILE}"),
    )
    return Finding(
        Provenance("echo-count", checkpoint),
        "Echoes in 3 of 4.",
        {"echoes": 0.75},
        {"n": 4},
        {},
        {"echoes": 0.0},
        panels,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("runs") / "theirs", steps=20)
    echoes("step-000300").save(run)
    return run


def assert_every_kind(place, drawn: int) -> None:
    for kind, count in {
        "table": 1,
        "heatmap": 2,
        "lines": 1,
        "bars": 1,
        "scatter": 1,
        "tokens": 1,
        "graph": 1,
        "text": 1,
    }.items():
        expect(place.locator(f".{kind}-panel")).to_have_count(count)
    expect(place.locator(".drawn")).to_have_count(drawn)
    expect(place.locator(".figures dd").first).to_have_text(re.compile(r"0\.75\s+null 0"))
    expect(place.locator(".cells td", has_text="<img").first).to_be_visible()
    expect(place.locator(".lit")).to_have_text(" cat")
    assert place.locator("[onerror]").count() == 0


def test_the_microscope_draws_it(page, run, serving):
    page.goto(serving(run.path) + "#/findings?of=echo-count")
    expect(page.locator(".lead")).to_contain_text("Echoes in 3 of 4.")
    assert_every_kind(page.locator("main"), 9)
    turning = page.get_by_role("img", name="Places: 2 points")
    before = turning.locator("circle").first.get_attribute("cx")
    turning.focus()
    page.keyboard.press("ArrowRight")
    expect(turning.locator("circle").first).not_to_have_attribute("cx", before)
    assert page.evaluate("window.owned") is None


def test_the_report_draws_it(page, run):
    page.goto(write_report(run.path).as_uri())
    section = page.locator("section", has=page.get_by_role("heading", name="Echo count", exact=True))
    expect(section.locator(".lead")).to_contain_text("Echoes in 3 of 4.")
    assert_every_kind(section, 9)


def test_a_notebook_draws_it_without_a_server(page, run):
    page.set_content(f"<!doctype html><html><body>{echoes('step-000300')._repr_html_()}</body></html>")
    assert_every_kind(page.locator(".cloche"), 9)


def test_a_notebook_with_anywidget_draws_it_with_the_same_modules(page, run):
    """What anywidget does: import the module, call `render` with a model and an element."""
    found = echoes("step-000300")
    page.set_content("<!doctype html><html><body><div id=place></div></body></html>")
    page.evaluate(
        """async ([script, record]) => {
            const address = URL.createObjectURL(new Blob([script], { type: 'text/javascript' }));
            const module = await import(address);
            const values = { record, summary: 'said', style: '' };
            module.default.render({ model: { get: (name) => values[name] }, el: document.getElementById('place') });
        }""",
        [script(), found.record()],
    )
    assert_every_kind(page.locator("#place"), 9)
