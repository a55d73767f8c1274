"""Everything that is known of a dictionary and of a model's units, in a real browser, against planted figures."""

from __future__ import annotations

import re

import pytest
from synthetic_run import FEATURES, write_finding, write_run
from synthetic_units import dictionary_data

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
expect = playwright.expect
# Of the 5 nats that the mean costs, the reconstruction costs a twentieth.
KEPT = (("the model itself", "2", 0), ("with the reconstruction", "2.25", 5), ("with the mean", "7", 100))
SHELF = ("resid_post-2 · step-001200", "across · step-001200", "neurons · step-001200", "resid_post-2 · step-000600")


@pytest.fixture(scope="module")
def url(measured, serving) -> str:
    return serving(measured.path) + "#/features"


def figure(page, name: str):
    return page.locator(".figures div", has=page.locator("dt", has_text=re.compile(f"^{name}$"))).locator("dd")


def row(page, name: str):
    return page.locator(".measures li", has=page.locator(".name", has_text=re.compile(f"^{name}$")))


def panel(page, title: str):
    return page.locator("figure.drawn", has=page.get_by_role("heading", name=title, exact=True))


def choice(page, name: str):
    return page.locator(".choice label", has_text=re.compile(f"^{name}$"))


def width(locator) -> float:
    return locator.evaluate("(bar) => parseFloat(bar.style.width)")


def test_a_dictionary_is_shown_with_its_newest_measurement_at_that_checkpoint(page, url):
    page.goto(url)
    expect(figure(page, "dictionary")).to_have_text("resid_post-2")
    expect(figure(page, "variance explained")).to_have_text("87.5 %")
    expect(figure(page, "kind")).to_have_text("TopK autoencoder")
    expect(figure(page, "features")).to_have_text("1,024")
    for name, value, wide in (
        ("the model itself", "2", 0),
        ("with the reconstruction", "2.25", 5),
        ("with the mean", "7", 100),
    ):
        expect(row(page, name).locator(".num")).to_have_text(value)
        assert width(row(page, name).locator("i b")) == pytest.approx(wide)
    expect(panel(page, "What the model keeps").locator(".note")).to_contain_text("95.0% is recovered; KL 0.1875 nats")
    expect(row(page, "its own encoder").locator(".num")).to_have_text("12.5 %")
    expect(row(page, "OMP, same atoms").locator(".num")).to_have_text("10.0 %")
    expect(panel(page, "What its encoder misses").locator(".note")).to_contain_text("would explain 2.5% more")
    expect(page.locator(".features li")).to_have_count(FEATURES)
    expect(page.locator(".command")).to_have_count(0)
    expect(page.locator(".shares")).to_have_count(0)


@pytest.mark.slow
def test_dictionaries_are_chosen_among_and_the_choice_is_the_url(page, url, measured):
    page.goto(url)
    choose = page.get_by_role("combobox", name="dictionary")
    expect(choose.locator("option")).to_have_text([*SHELF, "bare · step-001200"])
    choose.select_option("earlier")
    expect(page).to_have_url(re.compile("finding=earlier"))
    expect(figure(page, "variance explained")).to_have_text("37.5 %")
    choose.select_option("bare")
    expect(figure(page, "site")).to_have_text("mlp_in[2] -> mlp_out[2]")
    expect(page.locator(".command code")).to_have_text(f"cloche sae features {measured.path} bare")
    expect(panel(page, "What the model keeps").locator(".note")).to_contain_text("as the mean costs nothing")
    expect(panel(page, "What its encoder misses")).to_have_count(0)
    expect(page.get_by_role("img", name="How often features fire")).to_be_visible()
    page.reload()
    expect(figure(page, "dictionary")).to_have_text("bare")


@pytest.mark.slow
def test_where_the_features_of_a_crosscoder_live(page, url, measured):
    page.goto(url + "?finding=across")
    expect(page.locator(".where")).to_have_text("share per siteresid_post[1]step-000600/resid_post[2]")
    expect(page.locator(".command code")).to_have_text(f"cloche sae report {measured.path} across")
    item = page.locator(".features li", has=page.locator("b", has_text=re.compile("^30$")))
    bar = item.get_by_role("img", name="resid_post[1] 25 %, step-000600/resid_post[2] 75 %")
    assert [width(part) for part in bar.locator("i").all()] == pytest.approx([25, 75])
    item.locator("a").click()
    expect(page.get_by_role("heading", name="Share per site")).to_be_visible()
    expect(page.locator(".placed .key span")).to_have_text(["resid_post[1] 25 %", "step-000600/resid_post[2] 75 %"])


@pytest.mark.slow
def test_a_dictionary_outside_the_stream_says_why_it_has_no_logits(page, url):
    page.goto(url + "?finding=silent")
    words = "No direct effect on the logits: mlp_act[1] does not write to the residual stream."
    expect(page.locator(".note", has_text=words)).to_be_visible()
    expect(page.locator(".features li")).to_have_count(FEATURES)
    expect(page.locator(".says, .shares")).to_have_count(0)
    page.goto(url + "?finding=silent&feature=7")
    expect(page.locator("aside .note")).to_have_text(words)
    expect(page.locator("aside .measures, .placed")).to_have_count(0)


def test_the_density_of_neurons_by_layer(page, url):
    page.goto(url.replace("features", "findings"))
    choice(page, "sparse probing").click()
    expect(page).to_have_url(re.compile(r"findings\?of=sparse-probing$"))
    choice(page, "activation density").click()
    expect(page.locator(".lead")).to_contain_text("Of 688 neurons a layer 5.00% are active.")
    rows = page.get_by_role("list", name="Share of the units active at a token").locator("li")
    expect(rows.locator(".name")).to_have_text([f"layer {layer}" for layer in (3, 2, 1, 0)])
    expect(rows.last.locator(".num b")).to_have_text(["2.0 %", "99.0 %"])
    # On four decades 2% stands at 57.5, between the two claims' bands and at the start of neither.
    dot = rows.last.locator(".dot.first")
    assert dot.evaluate("(dot) => parseFloat(dot.style.left)") == pytest.approx(57.53, abs=0.01)
    expect(page.locator(".bands span")).to_have_text(["transformer", "cortex"])
    expect(page.locator(".bars-panel .note")).to_contain_text("Left out: layer 3 (MoE).")
    table = page.locator("table.data tbody tr")
    expect(table).to_have_count(9)
    expect(table.nth(0)).to_have_text("mlp_act[0]688100.0 %2.0 %0.2 %1.0 %0.75")
    expect(table.last).to_contain_text("Gaussian units100.0 %99.2 %")


@pytest.mark.slow
def test_health_leads_to_the_density(page, url):
    page.goto(url.replace("features", "health"))
    page.get_by_role("link", name="Compare with the residual stream and with cortex").click()
    expect(page.get_by_role("radio", name="activation density")).to_be_checked()


def test_sparse_probing(page, url):
    page.goto(url.replace("features", "findings?of=sparse-probing"))
    picture = page.get_by_role("img", name="AUROC by number of units")
    expect(picture).to_have_attribute(
        "aria-label", re.compile(r"features: 1 0\.62, 2 0\.65, 4 0\.71, 8 0\.83, all 0\.86")
    )
    expect(picture.locator("circle")).to_have_count(5)
    expect(picture.locator(".curve")).to_have_count(6)
    expect(page.locator(".series .faint, .series span", has_text="shuffled labels").first).to_be_visible()
    row = page.locator("table.data tbody tr").first
    expect(row).to_contain_text("digit6.0 %features0.32 (0.63)")
    expect(panel(page, "AUROC by number of units").locator(".note")).to_contain_text("keyword (one class comes 3 times")


@pytest.mark.slow
def test_an_old_run_has_its_features_and_the_command_for_the_rest(page, first, serving):
    page.goto(serving(first.path) + "#/features")
    expect(page.locator(".features li")).to_have_count(FEATURES)
    expect(figure(page, "variance explained")).to_have_text("81.7 %")
    expect(page.locator(".command code")).to_have_text(f"cloche sae report {first.path} resid_post-2")
    expect(page.locator(".shares, .toolbar .select")).to_have_count(0)
    expect(panel(page, "What the model keeps")).to_have_count(0)


@pytest.mark.slow
def test_one_finding_alone_is_enough(page, tmp_path, serving):
    run = write_run(tmp_path / "a run", steps=10, findings=False)
    page.goto(serving(run.path) + "#/features")
    expect(page.locator(".empty")).to_contain_text("No feature yet")
    write_finding(run, "dictionary", "only", "Only.", dictionary_data("it's"))
    expect(page.locator(".command code")).to_have_text(f"cloche sae features '{run.path}' 'it'\"'\"'s'")
