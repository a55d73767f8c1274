"""The report: complete, self-contained, small, and whole for runs that are not."""

from __future__ import annotations

import re
import struct
import zlib
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from synthetic_run import append, bpb, sample, write_finding, write_run
from synthetic_units import crosscoder_data, dictionary_data, silent_data

from cloche.drawing import scale as drawing
from cloche.errors import ClocheError
from cloche.microscope import write_report

VOID = {"meta", "img", "br", "link"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("report") / "first")
    path = write_report(run.path)
    assert path == run.path / "report.html"
    return path.read_text()


def test_it_tells_the_synthetic_run(page):
    assert f"{bpb(1200):.3f}" in page
    assert "1,200" in page and "5:00" in page
    assert "# sample of step 1200" in page
    assert "loss 3.74, 8 deviations above its mean" in page
    assert "Feature 7" in page and page.count('<span class="tokens">') == 12 and "… 28 more" in page
    assert "By layer 1 the model names" in page
    assert "cloche open" in page
    for title in ("Residual variance", "Attention entropy", "Activation density", "Update / weight", "Dead units"):
        assert title in page
    assert "Usual for this run's optimiser: up to 0.05." in page


def test_what_it_says_to_type_next_is_not_refused(tmp_path, page):
    assert re.search(r"cloche resume \S+ --set run.steps=2400 +#", page), "a run that has finished needs more steps"
    stopped = write_report(write_run(tmp_path / "run", finished=False).path).read_text()
    assert re.search(r"cloche resume \S+ +#", stopped)


def test_it_needs_nothing_from_outside(page):
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page and "@import" not in page
    assert not re.search(r"url\((?!data:)", page)
    assert len(page.encode()) < 500_000
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page


def test_it_is_well_formed(page):
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


def test_a_run_that_has_only_begun(tmp_path):
    run = write_run(tmp_path / "empty", steps=0, finished=False, findings=False)
    text = write_report(run.path).read_text()
    assert "What to type next" in text
    assert 'class="curve"' not in text


def test_one_record_is_enough(tmp_path):
    run = write_run(tmp_path / "one", steps=5, finished=False, findings=False)
    assert 'class="curve"' in write_report(run.path).read_text()


def test_what_a_model_writes_is_shown_and_not_run(tmp_path):
    run = write_run(tmp_path / "run", steps=5, finished=False, findings=False)
    append(run, "samples", sample(5, "import ") | {"prompt": "<b>", "text": "<script>alert(1)</script>"})
    text = write_report(run.path).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(ClocheError, match=r"run\.json"):
        write_report(tmp_path)


def test_a_heat_map_is_the_image_of_its_values():
    scale = drawing.Scale(0, 1)
    data = drawing.png([[0.0, 1.0, None]], scale)
    assert struct.unpack(">II", data[16:24]) == (3, 1)
    start = data.index(b"IDAT") + 4
    raw = zlib.decompress(data[start : data.index(b"IEND") - 8])
    assert raw == b"\0" + bytes((*drawing.colour(0.0), 255, *drawing.colour(1.0), 255, 0, 0, 0, 0))


def luminance(rgb):
    """Relative luminance of 8-bit sRGB (WCAG 2)."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_scale_grows_evenly_lighter():
    steps = [luminance(drawing.colour(i / 50)) ** (1 / 3) for i in range(51)]
    rises = [b - a for a, b in pairwise(steps)]
    assert min(rises) > 0
    assert max(rises) < 2.5 * min(rises)


def test_thinning_keeps_a_spike():
    points = [(float(i), 1.0) for i in range(20_000)]
    points[12_345] = (12_345.0, 9.0)
    kept = drawing.thinned(points)
    assert len(kept) <= drawing.PLOT_POINTS
    assert (12_345.0, 9.0) in kept


def test_ticks_are_round_and_inside():
    assert drawing.ticks(0, 1) == pytest.approx([0, 0.5, 1])
    assert drawing.ticks(1.93, 8.1) == [2, 4, 6, 8]
    assert drawing.ticks(3, 3) == [3]


def test_text_stands_out_on_every_colour_of_the_scale():
    for i in range(1001):
        ground, ink = luminance(drawing.colour(i / 1000)), 0.0 if drawing.ink_on(i / 1000) == "#000" else 1.0
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) > 4.45, i


def test_it_tells_what_is_known_of_the_units(measured):
    page = write_report(measured.path).read_text()
    for title in ("Activation density", "Dictionary", "Features", "Logit lens", "Sparse probing"):
        assert f"<h2>{title}</h2>" in page
    assert "of what the mean costs, 95.0% is recovered; KL 0.1875 nats." in page.replace("Of what", "of what")
    assert 'class="bar first" style="left:0.00%;width:5.00%"' in page
    assert "A better encoder would explain 2.5% more." in page
    assert '<b class="first">2.0%</b>' in page and 'class="dot first" style="left:57.53%"' in page
    assert 'class="reach first" style="left:50.00%;width:15.05%"' in page
    assert "features 0.62, 0.65, 0.71, 0.83, 0.86" in page and "null −0.5" in page.replace("null -0.5", "null −0.5")
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


def test_a_dictionary_without_features_is_told_too(tmp_path):
    run = write_run(tmp_path / "run", steps=5, findings=False)
    write_finding(run, "dictionary", "bare", "Bare.", dictionary_data("bare", gap=None))
    page = write_report(run.path).read_text()
    assert "The dictionary bare" in page and "What its encoder misses" not in page
    assert not any(f"<h2>{title}</h2>" in page for title in ("Features", "Sparse probing", "Activation density"))


def test_the_report_says_what_features_make_likelier_or_that_they_cannot(tmp_path):
    run = write_run(tmp_path / "run", steps=5, findings=False)
    write_finding(run, "features", "across", "Across.", crosscoder_data())
    page = write_report(run.path).read_text()
    assert page.count("promotes") == 12 and "No direct effect" not in page
    write_finding(run, "features", "silent", "Silent.", silent_data(), hour=13)
    page = write_report(run.path).read_text()
    assert page.count("promotes") == 12 and "No direct effect on the logits" in page, "the newest of each dictionary"
    write_finding(run, "features", "across", "Across.", silent_data(), hour=14)
    assert "promotes" not in write_report(run.path).read_text(), "a newer one of the same takes its place"
