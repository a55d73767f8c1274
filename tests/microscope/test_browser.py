"""The app in a real browser: the planted values in every view, states that come back from their URL, a run followed live."""

from __future__ import annotations

import json
import re

import pytest
from synthetic_run import (
    PROMPTS,
    add_checkpoint,
    append,
    bpb,
    features_data,
    health,
    loss,
    metric,
    sample,
    validation,
    write_finding,
    write_run,
)

from cloche.drawing import scale as drawing

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
expect = playwright.expect
expect.set_options(timeout=20_000)  # a busy machine is no failure


@pytest.fixture(scope="module")
def url(first, serving) -> str:
    return serving(first.path)


def chart(page, title: str):
    return page.locator("figure.chart", has=page.get_by_role("heading", name=title, exact=True))


def panel(page, title: str):
    return page.locator("section.panel", has=page.get_by_role("heading", name=title, exact=True))


def test_curves_show_the_planted_values(page, url):
    page.goto(url)
    expect(page.get_by_role("heading", level=1)).to_have_text("first")
    expect(page.locator(".status")).to_contain_text("finished · step 1,200")
    expect(chart(page, "Training loss").locator("output")).to_contain_text(f"{loss(1200):.3f}")
    expect(chart(page, "Validation").locator("output")).to_contain_text(f"{bpb(1200):.3f}")
    expect(chart(page, "Speed").locator("output")).to_contain_text("16,384")
    expect(chart(page, "Model FLOPs utilisation").locator("output")).to_contain_text("51.2 %")
    expect(page.locator(".events")).to_contain_text("loss 3.74, 8 deviations above its mean")
    # Something was painted, not only laid out.
    assert page.evaluate("""() => {
        const canvas = document.querySelector('figure.chart canvas');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return data.some((value) => value > 0);
    }""")


@pytest.mark.slow
def test_a_chart_is_read_by_keyboard_and_in_words(page, url):
    page.goto(url)
    plot = chart(page, "Validation").locator(".plot")
    expect(plot).to_have_attribute("aria-label", re.compile(rf"12 points, from {bpb(100):.3f} to {bpb(1200):.3f}"))
    plot.focus()
    page.keyboard.press("Home")
    expect(chart(page, "Validation").locator("output")).to_contain_text(f"{bpb(100):.3f}")
    page.keyboard.press("ArrowRight")
    expect(chart(page, "Validation").locator("output")).to_contain_text(f"{bpb(200):.3f}")
    expect(chart(page, "Validation").locator("output")).to_contain_text("at step 200")
    page.keyboard.press("Escape")
    expect(chart(page, "Validation").locator("output")).to_contain_text(f"{bpb(1200):.3f}")


@pytest.mark.slow
def test_hovering_names_an_event(page, url):
    page.goto(url + "#/curves?from=630&to=650")
    over = chart(page, "Training loss").locator(".u-over")
    box = over.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    expect(chart(page, "Training loss").locator("output")).to_contain_text("spike: loss 3.74")


@pytest.mark.slow
def test_a_second_run_stands_beside(page, url):
    page.goto(url + "#/curves?compare=second")
    expect(page.locator(".key")).to_contain_text("second")
    expect(chart(page, "Training loss").locator("output")).to_contain_text(f"first {loss(1200):.3f}")
    expect(chart(page, "Training loss").locator("output")).to_contain_text(f"second {loss(900):.3f}")


@pytest.mark.slow
def test_the_curves_as_a_table(page, url):
    page.goto(url + "#/curves?as=table")
    rows = page.locator("table.data tbody tr")
    expect(rows).to_have_count(40)
    expect(rows.last).to_contain_text("1,200")
    expect(rows.last).to_contain_text(f"{loss(1200):.3f}")
    validated = page.locator("table.data tbody td:nth-of-type(4)")
    expect(validated.filter(has_text=re.compile(r"\d"))).to_have_count(12)  # each validation once


@pytest.mark.slow
def test_choices_become_the_url_and_back_goes_back(page, url):
    page.goto(url)
    page.get_by_text("tokens", exact=True).first.click()
    expect(page).to_have_url(re.compile(r"#/curves\?x=tokens$"))
    expect(chart(page, "Training loss").locator(".plot")).to_have_attribute(
        "aria-label", re.compile("line chart over tokens")
    )
    page.get_by_role("link", name="Health").click()
    expect(page).to_have_url(re.compile(r"#/health$"))
    page.go_back()
    expect(page.get_by_role("radio", name="tokens")).to_be_checked()
    page.go_back()
    expect(page.get_by_role("radio", name="steps")).to_be_checked()
    page.go_forward()
    expect(page.get_by_role("radio", name="tokens")).to_be_checked()


def test_growing_up(page, url):
    page.goto(url + "#/growing?step=500")
    expect(page.locator("blockquote")).to_contain_text("# sample of step 500")
    expect(page.locator("blockquote .given")).to_have_text(PROMPTS[0])
    expect(page.locator(".measures li").first).to_contain_text("40.0 %")
    page.get_by_role("button", name="1,200").click()
    expect(page.locator(".measures li").first).to_contain_text("self")
    expect(page.locator(".measures li").first).to_contain_text("96.0 %")
    page.goto(url + "#/growing?prompt=2")
    expect(page.locator("blockquote .given")).to_have_text(PROMPTS[2])
    expect(page.locator(".history li")).to_have_count(12)


def test_health(page, url):
    page.goto(url + "#/health")
    for title in ("Residual variance", "Attention entropy", "Activation density", "Update / weight", "Dead units"):
        expect(panel(page, title).locator("canvas")).to_be_visible()
    canvas = panel(page, "Residual variance").locator("canvas")
    expect(canvas).to_have_attribute(
        "aria-label", re.compile(r"Newest values from the top row down: 1.6, 1.28, 0.96, 0.64, 0.32\.")
    )
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    expect(panel(page, "Residual variance").locator("output")).to_have_text("layer 3 at step 1,190: 1.587")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"step=1190"))
    expect(page.locator(".at-step table tbody tr").first).to_contain_text("1.587")
    expect(chart(page, "Logit norm").locator("output")).to_contain_text("3.275")
    expect(panel(page, "Update / weight").locator(".note")).to_contain_text(
        "Usual for this run’s optimiser: up to 0.05."
    )
    expect(panel(page, "Attention entropy").locator(".note")).to_contain_text("optimiser: at least 3.0 %.")
    expect(panel(page, "Gain / nominal").locator(".note")).to_contain_text("optimiser: at least 0.5, up to 1.7.")


@pytest.mark.slow
def test_a_heat_map_has_the_scale_colours(page, url):
    """The scale does not start at the smallest value: of logarithms it spans whole powers of ten."""
    page.goto(url + "#/health")
    canvas = panel(page, "Residual variance").locator("canvas")
    expect(canvas).to_be_visible()
    page.wait_for_function("() => document.querySelector('section.panel canvas').width === 120")  # a pixel per step
    corners = """(canvas) => {
        const { width, height } = canvas;
        const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
        const at = (x, y) => [...data.slice(4 * (y * width + x), 4 * (y * width + x) + 3)];
        return [at(width - 1, 0), at(0, height - 1)];
    }"""
    top_right, bottom_left = canvas.evaluate(corners)
    known = [value for step in range(10, 1201, 10) for value in health(step)["resid_variance"]]
    scale = drawing.scale_of(known, "log")
    assert (scale.low, scale.high) == (0.01, 10.0) and min(known) > 0.02 and max(known) < 2
    for painted, value in ((top_right, max(known)), (bottom_left, min(known))):
        assert max(abs(a - b) for a, b in zip(painted, drawing.colour(scale.share(value)), strict=True)) <= 3


@pytest.mark.slow
def test_page_and_report_share_one_scale(page, url):
    page.goto(url)
    script = """async () => {
        const scale = await import('/static/scale.js');
        return [...Array(256).keys()].map((i) => scale.rgb(i / 255));
    }"""
    assert [tuple(c) for c in page.evaluate(script)] == [drawing.colour(i / 255) for i in range(256)]


def test_the_stored_lens(page, url):
    page.goto(url + "#/lens?mode=rank")
    cells = page.locator(".cells tbody td")
    expect(cells).to_have_count(20)
    expect(page.locator(".cells tbody tr").last).to_contain_text("102")
    expect(page.locator(".summary")).to_contain_text("By layer 1 the model names")
    page.locator('[data-cell="4.1"]').hover()
    expect(page.locator(".lens aside .measures li").first).to_contain_text("82.0 %")
    expect(page.locator(".lens aside")).to_contain_text("rank 1")
    page.locator('[data-cell="4.1"]').click()
    page.keyboard.press("ArrowDown")
    expect(page).to_have_url(re.compile(r"at=3\.1"))
    page.get_by_text("entropy", exact=True).click()
    expect(page.locator(".cells tbody tr").first).to_contain_text("1.00")
    page.reload()
    expect(page.locator('[data-cell="3.1"]')).to_have_class("here")


@pytest.mark.slow
def test_the_lens_of_a_typed_prompt(page, url):
    page.goto(url + "#/lens")
    page.get_by_label("prompt").fill("import os")
    page.get_by_label("checkpoint").select_option("step-000600")
    page.get_by_role("button", name="Run the lens").click()
    expect(page.locator(".summary")).to_contain_text("Lens of 'import os'")
    expect(page.locator(".summary")).to_contain_text("step-000600")
    expect(page).to_have_url(re.compile(r"prompt=import\+os&checkpoint=step-000600"))
    page.reload()
    expect(page.locator(".summary")).to_contain_text("Lens of 'import os'")
    expect(page.get_by_label("prompt")).to_have_value("import os")
    page.get_by_label("prompt").fill("one\ntwo")
    page.get_by_label("prompt").press("Enter")
    expect(page.locator(".summary")).to_contain_text(r"Lens of 'one\ntwo'")


@pytest.mark.slow
def test_a_worker_that_dies_is_a_sentence_in_the_page(page, url):
    page.goto(url + "#/lens?prompt=die")
    expect(page.get_by_role("alert")).to_contain_text("ended with status 3")
    page.get_by_label("prompt").fill("alive")
    page.get_by_role("button", name="Run the lens").click()
    expect(page.locator(".summary")).to_contain_text("Lens of 'alive'")
    # The browser itself notes the failed request in the console; nothing else may.
    assert all("Failed to load resource" in complaint for complaint in page.complaints)
    page.complaints.clear()


def test_features(page, url):
    page.goto(url + "#/features")
    expect(page.locator(".features li")).to_have_count(40)
    expect(page.locator(".features li").first).to_contain_text("return")
    expect(page.locator(".figures")).to_contain_text("resid_post[2]")
    page.get_by_text("rarest", exact=True).click()
    expect(page.locator(".features li").first.locator("b").first).to_have_text("39")
    page.get_by_role("searchbox").fill("return")
    expect(page.locator(".features li")).to_have_count(1)
    page.locator(".features a").click()
    expect(page.get_by_role("heading", name="Feature 7")).to_be_visible()
    expect(page.locator(".lead")).to_contain_text("3.41 % of tokens, at most 9.3")
    expect(page.locator(".examples li .lit").first).to_have_text(" return")
    expect(page.locator(".examples h3").first).to_have_text("Strongest")
    expect(page.get_by_label("tokens it makes more likely").locator("li").first).to_contain_text("3.00")
    page.locator(".neighbours a").first.click()
    expect(page.get_by_role("heading", name="Feature 8")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Feature 7")).to_be_visible()
    page.get_by_role("link", name="← all features").click()
    expect(page.get_by_role("searchbox")).to_have_value("return")


def test_a_run_is_followed_live(page, tmp_path, serving):
    run = write_run(tmp_path / "live", steps=300, finished=False, findings=False)
    page.goto(serving(run.path))
    expect(page.locator(".status")).to_contain_text("step 300")
    append(run, "metrics", metric(305), metric(310) | {"loss": 1.234}, validation(310) | {"val_bpb": 0.777})
    expect(chart(page, "Training loss").locator("output")).to_contain_text("1.234")
    expect(chart(page, "Validation").locator("output")).to_contain_text("0.777")
    expect(page.locator(".status")).to_have_text("training · step 310")
    append(run, "events", {"step": 310, "time": 77.5, "kind": "spike", "message": "a jump"})
    expect(page.locator(".events")).to_contain_text("a jump")
    page.get_by_role("link", name="Growing up").click()
    append(run, "samples", sample(500, PROMPTS[0]))
    expect(page.locator("blockquote")).to_contain_text("# sample of step 500")
    page.get_by_role("link", name="Curves").click()
    run.truncate_logs(200)
    append(run, "metrics", metric(205) | {"loss": 2.718})
    expect(page.locator(".status")).to_contain_text("step 205")
    expect(chart(page, "Training loss").locator("output")).to_contain_text("2.718")


@pytest.mark.slow
def test_an_empty_view_names_the_command_that_fills_it(page, tmp_path, serving):
    run = write_run(tmp_path / "empty", steps=0, finished=False, findings=False)
    url = serving(run.path)
    said = dict.fromkeys(("curves", "growing", "health", "lens", "features"), "cloche resume")

    def look(view: str, command: str) -> None:
        page.goto(f"{url}#/{view}")
        expect(page.locator(".empty code")).to_have_text(command)

    for view, command in said.items():
        look(view, f"{command} {run.path}")
    append(run, "metrics", metric(5))
    page.get_by_role("link", name="Curves").click()
    expect(chart(page, "Training loss").locator("output")).to_contain_text(f"{loss(5):.3f}")
    add_checkpoint(run, 5)
    look("features", f"cloche sae train {run.path}")
    run.write_json("dictionaries/resid_post-2/dictionary.json", {"kind": "sae"})
    expect(page.locator(".empty code")).to_have_text(f"cloche sae features {run.path} resid_post-2")
    write_finding(run, "features", "new", "Forty.", features_data())
    expect(page.locator(".features li")).to_have_count(40)
    append(run, "events", {"step": 5, "time": 1.0, "kind": "finished", "message": "5 steps"})
    look("growing", f"cloche resume {run.path} --set run.steps=10")


@pytest.mark.slow
def test_the_lens_starts_from_a_prompt_of_the_run(page, tmp_path, serving):
    run = write_run(tmp_path / "run", steps=300, findings=False)
    page.goto(serving(run.path) + "#/lens")
    expect(page.get_by_label("prompt")).to_have_value(PROMPTS[0])
    page.get_by_label("prompt").fill("a note")
    page.get_by_role("button", name="Run the lens").click()
    expect(page.locator(".note").filter(has_text="longer than the 512 tokens")).to_be_visible()


@pytest.mark.slow
def test_twenty_thousand_points(page, tmp_path, serving):
    run = write_run(tmp_path / "long", steps=0, finished=False, findings=False)
    lines = "".join(json.dumps(metric(step)) + "\n" for step in range(1, 20_001))
    (run.path / "log" / "metrics.jsonl").write_text(lines)
    page.goto(serving(run.path))
    expect(page.locator(".status")).to_contain_text("step 20,000")
    append(run, "metrics", metric(20_001) | {"loss": 1.111})
    expect(chart(page, "Training loss").locator("output")).to_contain_text("1.111")


@pytest.mark.slow
def test_what_a_model_writes_is_shown_and_not_run(page, tmp_path, serving):
    run = write_run(tmp_path / "run", steps=5, finished=False, findings=False)
    hostile = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    append(run, "samples", {"step": 5, "prompt": "<b>", "text": hostile, "next": [["<i>", 0.5]]})
    page.goto(serving(run.path) + "#/growing")
    expect(page.locator("blockquote")).to_contain_text(hostile)
    assert page.locator("blockquote img, blockquote script").count() == 0


def test_the_report_opens_from_its_file(page, tmp_path):
    from cloche.microscope import write_report

    path = write_report(write_run(tmp_path / "first").path)
    page.goto(path.as_uri())
    expect(page.get_by_role("heading", level=1)).to_have_text("first")
    expect(page.locator(".lines-panel")).to_have_count(5)
    expect(page.locator(".passages li")).to_have_count(12)
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
