"""A run as long as they come, in a browser: the first chart soon, in few bytes, by a server that stays small."""

from __future__ import annotations

import re

import pytest

from bench.microscope.long_run import SPIKE, write_long_run

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
expect = playwright.expect


@pytest.mark.slow
def test_two_hundred_thousand_records(browser, tmp_path):
    from bench.microscope import microscope as bench

    run = write_long_run(tmp_path / "long")
    server, url = bench.start(run.path)
    try:
        first = bench.look(browser, url, "curves", server.pid)
        assert first["megabytes"] < 3
        assert (
            first["server_cpu_s"] < 4
        )  # 1.5 on a machine that does nothing else; seconds of the clock are the benchmark's
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        chart = page.locator("figure.chart", has=page.get_by_role("heading", name="Training loss", exact=True))
        expect(chart.locator(".plot")).to_have_attribute("aria-label", re.compile(f"highest {SPIKE}"), timeout=30_000)
        page.goto(f"{url}#/curves?from=150000&to=150400")
        expect(chart.locator(".plot")).to_have_attribute("aria-label", re.compile(r"40\d points"), timeout=30_000)
        page.goto(f"{url}#/features?feature=1500")
        expect(page.get_by_role("heading", name="Feature 1500")).to_be_visible(timeout=30_000)
        page.goto(f"{url}#/lens")
        expect(page.locator("select[name=checkpoint] option")).to_have_count(300, timeout=30_000)
        page.close()
        assert bench.memory(server.pid) < 300
    finally:
        server.terminate()
        server.wait()
