"""Every view and the report on a phone and on a laptop, in light and dark colours: nothing is cut off, everything has a name,
and text has enough contrast. page_rules.js has the rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_run import write_run
from synthetic_units import write_units
from test_third_party import echoes

from cloche.microscope import write_report

RULES = Path(__file__).with_name("page_rules.js").read_text()
VIEWS = {
    "curves": ".chart canvas",
    "curves?as=table": "table.data",
    "curves?compare=second&smooth=0.9&from=300&to=700": ".key",
    "growing": ".heatmap canvas",
    "health": ".heatmap canvas",
    "health?step=600": ".at-step",
    "lens": ".cells",
    "lens?mode=rank": ".cells",
    "features": ".features li",
    "features?finding=across": ".features li",
    "features?finding=bare": ".measures",
    "features?feature=7": ".examples",
    "features?finding=across&feature=7": ".examples",
    "findings?of=activation-density": ".drawn",
    "findings?of=sparse-probing": ".drawn",
    "findings?of=dictionary": ".drawn",
    "findings?of=features": ".drawn",
    "findings?of=logit-lens": ".drawn",
    "findings?of=echo-count": ".drawn",
}
FAULTY = """<!doctype html><html><head><style>body { margin: 0; background: #fff }</style></head><body>
<h1>One</h1><h3>Three</h3><p style="width:2000px">wide</p><p style="color:#999">pale</p>
<input><canvas></canvas><img src="data:,"><p id="a">x</p><p id="a">y</p>
<div style="overflow-x:auto;width:50px"><p style="width:90px">z</p></div><a href="#b"></a>
<div class="ticks"><span>1 %</span><span style="margin-left:-20px">10 %</span></div></body></html>"""
FOUND = (
    "the page is 2000 wide",
    "beyond the window",
    "scrolls, but not by keyboard",
    "covers the name before it",
    "contrast 2.85",
    "no label",
    "no name",
    "no alternative text",
    "no text",
    "h3 skips a level",
    "not exactly one main",
    "no title or no language",
    "the id a is used twice",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """A run with every finding, one of a third party's instrument among them, and a neighbour."""
    home = tmp_path_factory.mktemp("runs")
    write_run(home / "second", steps=900, lift=0.4, findings=False)
    run = write_run(home / "first")
    write_units(run)
    echoes("step-001200").save(run)
    return run


@pytest.fixture(scope="module")
def url(run, serving) -> str:
    return serving(run.path)


def test_the_rules_find_what_is_wrong(page) -> None:
    page.set_content(FAULTY)
    faults = page.evaluate(RULES)
    assert [rule for rule in FOUND if not any(fault.startswith(rule) for fault in faults)] == []
    assert len(faults) == len(FOUND), faults


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_no_fault(page, url, view) -> None:
    for width, colours in ((390, "light"), (390, "dark"), (1280, "light")):
        page.emulate_media(color_scheme=colours)
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(f"{url}#/{view}")
        page.locator(VIEWS[view]).first.wait_for()
        page.wait_for_timeout(150)
        assert page.evaluate(RULES) == [], (width, colours)


@pytest.mark.slow
@pytest.mark.parametrize("view", ["curves", "growing", "health", "lens", "features", "findings"])
def test_an_empty_view_has_no_fault(page, tmp_path, serving, view) -> None:
    run = write_run(
        tmp_path / "a-run-whose-name-is-so-long-that-it-does-not-fit-on-a-phone",
        steps=0,
        finished=False,
        findings=False,
    )
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{serving(run.path)}#/{view}")
    page.locator(".empty").wait_for()
    assert page.evaluate(RULES) == []


def test_the_report_has_no_fault(page, run) -> None:
    address = write_report(run.path).as_uri()
    for width, colours in ((390, "light"), (390, "dark"), (1280, "light")):
        page.emulate_media(color_scheme=colours)
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(address)
        assert page.evaluate(RULES) == [], (width, colours)
