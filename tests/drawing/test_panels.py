"""Panels: what fits together, what comes back from JSON that anybody may have written, and how they read as text."""

from __future__ import annotations

import json
import math
import random
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

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
    as_html,
    as_table,
    as_text,
    visible,
)
from cloche.drawing.panels import KINDS, MOST_ITEMS, from_json, to_json
from cloche.drawing.scale import scale_of
from cloche.errors import ClocheError
from cloche.files import to_json as as_bytes
from cloche.runs import Run

PANELS = (
    Table("Heads", ("head", "score"), (("L0H1", 0.75), ("L1H0", None)), ("number", "percent")),
    Heatmap("Scores", ("layer 1", "layer 0"), ("a", " b"), ((0.5, 1.0), (None, 0.25)), (("x", "y"), ("z", " "))),
    Heatmap("Map", ("layer 1", "layer 0"), ("1", "2"), ((0.5, -1.0), (0.0, math.nan))),
    Lines(
        "Steps",
        (100.0, 200.0),
        (Series("echo", (0.1, None), (0.0, None), (0.2, None)), Series("null", (0.0, 0.0), control=True)),
    ),
    Lines("Named", ("1", "all"), (Series("", (0.5, 0.9)),), form="percent", marks=((1.0, "here"),)),
    Bars("Layers", ("layer 0",), (Series("a", (0.25,), (0.2,), (0.5,)),), log=True, bands=(("cortex", 0.01, 0.05),)),
    Scatter("Places", ((0.0, 1.0, 2.0), (1.0, 0.0, 1.0)), ("x", "y", "z"), ("p", "q"), (0.0, 1.0)),
    Tokens("Where", (Passage("7", ("the", " cat"), (0.0, 2.0), "twice"),)),
    Graph("Circuit", (Node("embed"), Node("logits", 1, 2.0)), ((0, 1, -0.5),)),
    Text("Words", "one\ntwo"),
)  # fmt: skip


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.open += [tag] if tag != "img" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_kind_comes_back_from_its_json_and_is_drawn() -> None:
    assert {type(panel).__name__ for panel in PANELS} == set(KINDS)
    back = from_json(json.loads(as_bytes(to_json(PANELS))))
    assert back[:2] == PANELS[:2] and back[3:] == PANELS[3:]
    assert back[2].values == ((0.5, -1.0), (0.0, None))  # what is not finite is missing
    for panel in back:
        parser = Balanced()
        parser.feed(as_html(panel).html)
        assert parser.open == [] and as_text(panel)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Table("t", ("a",), (("x", 1.0),)),
        lambda: Heatmap("t", ("a",), ("b",), ((1.0, 2.0),)),
        lambda: Heatmap("t", ("a",), ("b",), ((1.0,),), texts=(("x",), ("y",))),
        lambda: Lines("t", (1.0, 2.0), (Series("s", (1.0,)),)),
        lambda: Bars("t", ("a",), (Series("s", (1.0,), low=(1.0, 2.0)),)),
        lambda: Scatter("t", ((1.0,),), ("x", "y")),
        lambda: Scatter("t", (), ("x",)),
        lambda: Tokens("t", (Passage("p", ("a",), ()),)),
        lambda: Graph("t", (Node("a"),), ((0, 1, 1.0),)),
        lambda: to_json([3]),  # type: ignore[list-item]
    ],
    ids=["row", "column", "texts", "series", "spread", "point", "axes", "tokens", "edge", "no panel"],
)
def test_what_does_not_fit_is_one_sentence(make) -> None:
    with pytest.raises(ClocheError, match=r"^(The panel 't' has|A int is not a panel)"):
        make()


def test_json_of_any_shape_is_a_sentence_and_never_an_error() -> None:
    r = random.Random(0)
    odd = [None, True, -1, 10**29, 1e308, "x" * 9000, "\ud800", [], {}, [[]], [1, "a"], {"kind": "Table"}, float("nan")]

    def spoilt(value):
        if r.random() < 0.1:
            return r.choice(odd)
        if isinstance(value, dict):
            return {key: spoilt(item) for key, item in value.items()}
        return [spoilt(item) for item in value] if isinstance(value, list | tuple) else value

    kept = 0
    for _ in range(40):
        for panel in from_json(spoilt(to_json(PANELS))):
            kept += not isinstance(panel, Text)
            assert "<script" not in as_html(panel).html and isinstance(as_text(panel), str)
    assert kept > 20
    assert from_json({"kind": "Table"}) == () and from_json(None) == ()
    (long,) = from_json([{"kind": "Table", "title": "t", "columns": ["a"], "rows": [["x" * 9000]] * 9000}])
    assert len(long.rows) == MOST_ITEMS and len(long.rows[0][0]) == 2000
    assert long.note == "Only the first 5,000 of 9,000 are here."
    (wide,) = from_json(
        [{"kind": "Heatmap", "title": "t", "rows": ["a"] * 999, "columns": ["b"] * 999, "values": [[1.0] * 999] * 999}]
    )
    assert isinstance(wide, Text) and wide.text == "A Heatmap panel cannot be drawn: it has more than 200,000 values."


def test_large_panels_and_odd_numbers_are_drawn_in_bounds() -> None:
    many = 20_000
    crowd = Scatter("t", tuple((float(i), float(-i)) for i in range(many)), ("x", "y"))
    assert (
        as_html(crowd).html.count("<circle") == MOST_ITEMS
        and "20000 points over x and y, one in 4 drawn" in as_html(crowd).html
    )
    wide = Heatmap(
        "t", tuple(map(str, range(500))), tuple(map(str, range(500))), tuple((1.0,) * 500 for _ in range(500))
    )
    assert len(as_html(wide).html) < 100_000
    odd = (1.0, float("nan"), float("inf"), -float("inf"), 1e308, 5e-324, -0.0, None)
    table = Table("t", ("a",), tuple((value,) for value in odd))
    assert [row[0] for row in table.rows] == [1.0, None, None, None, None, 5e-324, -0.0, None]
    assert "inf" not in as_text(table) and "nan" not in as_text(table)


def test_both_axes_are_named_and_the_colours_of_points_have_their_ends() -> None:
    points = as_html(Scatter("Atoms", ((0.0, 1.0), (1.0, 0.5)), ("first PC", "second PC"), values=(0.2, 0.9))).html
    assert ">first PC<" in points and ">second PC<" in points and 'class="legend"><span>0</span>' in points
    curve = as_html(Lines("Loss", (1.0, 2.0), (Series("", (3.0, 2.0)),), "step", "nats per token")).html
    assert ">step<" in curve and ">nats per token<" in curve


def test_a_scale_does_not_exaggerate() -> None:
    """0.98 to 1 is no contrast: colours start at zero, or are symmetric about it."""
    scale = scale_of([0.98, 1.0, None])
    assert (scale.low, scale.high) == (0, 1) and scale.share(0.98) == pytest.approx(0.98)
    assert (scale_of([-0.5, 0.25]).low, scale_of([-0.5, 0.25]).high) == (-0.5, 0.5)
    assert (scale_of([0.03, 2.0], "log").low, scale_of([0.03, 2.0], "log").high) == pytest.approx((0.01, 10))
    assert scale_of([], "log").high > scale_of([], "log").low and scale_of([0.0]).share(0.0) == 0


def test_tokens_are_made_visible_in_one_way() -> None:
    assert visible(" a\t\n\r") == "·a→↵␍" and visible("") == "∅" and visible("a b", space=" ") == "a b"
    assert visible(b"\xe2".decode(errors="surrogateescape")) == "<0xE2>" and visible("\x0c") == "\\x0c"


def test_a_finding_of_an_older_run_still_opens(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", recipe="")
    path = Finding(Provenance("old", "step-1"), "It was.", {}, {"figure": 1.5, "list": [1]}, {"x": np.ones(2)}).save(
        run
    )
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({k: v for k, v in record.items() if k not in ("figures", "null", "panels", "seed")}))
    back = Finding.load(path)
    assert (back.summary, back.data["figure"], back.id) == ("It was.", 1.5, record["id"])
    assert back.null is None and back.table().splitlines()[-1].split() == ["figure", "1.5"]
    assert "1.5" in back._repr_html_() and back.arrays["x"].tolist() == [1, 1]


def test_a_data_frame_of_a_finding_and_of_a_log(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is an optional dependency")
    found = Finding(Provenance("x"), "Said.", {"a": 1.0}, panels=PANELS)
    assert found.frame().to_dict("list")["head"] == ["L0H1", "L1H0"]
    assert list(found.frame("Circuit").iloc[0]) == ["embed", "logits", -0.5]
    assert Finding(Provenance("x"), "Said.", {"a": 1.0}, null={"a": 0.5}).frame().to_numpy().tolist() == [
        ["a", 1.0, 0.5]
    ]
    with pytest.raises(ClocheError, match="no panel 'Nowhere'"):
        found.frame("Nowhere")
    run = Run.create(tmp_path / "run", recipe="")
    with run.log("metrics") as log:
        log.append({"step": 1, "loss": 2.5})
        log.append({"step": 2, "val_loss": 2.0})
    frame = run.frame("metrics")
    assert frame.loss[0] == 2.5 and math.isnan(frame.loss[1]) and run.frame("health").empty


def test_without_pandas_and_anywidget_it_says_what_to_install_and_shows_itself(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    found = Finding(Provenance("x"), "Said.", {"a": 1.0}, panels=PANELS)
    with pytest.raises(ClocheError, match=r"pip install 'cloche\[notebook\]'"):
        found.frame()
    assert found._repr_mimebundle_().keys() == {"text/plain", "text/html"}


def test_with_anywidget_a_notebook_is_given_both() -> None:
    pytest.importorskip("anywidget", reason="anywidget is an optional dependency")
    bundle = Finding(Provenance("x"), "Said.", {"a": 1.0}, panels=PANELS)._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data and "<svg" in data["text/html"]


def test_every_panel_is_a_table() -> None:
    for panel in PANELS:
        table = as_table(panel)
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert as_table(PANELS[7]).rows[0][1] == "the[·cat]"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308, 5e-324])
def test_numbers_that_cannot_be_drawn_count_as_missing_as_they_do_in_the_file(bad: float) -> None:
    panels = (
        Table("t", ("a",), ((bad,),), ("count",)),
        Heatmap("h", ("r",), ("a", "b"), ((bad, 1.0),), (("x", "y"),), form="count", scale="log"),
        Heatmap("h", ("r",), ("a", "b"), ((1.0, 1.0),), low=bad, high=bad),
        Lines("l", (bad, 2.0), (Series("s", (bad, 1.0), (bad, 0.0), (1.0, bad)),), low=bad, marks=((bad, "m"),)),
        Lines("l", (1.0, 2.0), (Series("s", (0.0, 1.0)),), low=1e300, high=bad, marks=((1e299, "m"),)),
        Bars("b", ("r",), (Series("s", (bad,)),), form="count", log=True, start=bad, bands=(("x", 0.0, bad),)),
        Scatter("s", ((bad, 1.0), (0.0, 1.0)), ("x", "y"), ("one", "two"), (bad, 1.0)),
        Tokens("t", (Passage("p", ("a",), (bad,)),), high=bad),
        Graph("g", (Node("a", 0, bad), Node("b", 1)), ((0, 1, bad),)),
    )
    for panel in panels:
        drawn = as_html(panel).html
        assert as_text(panel) and not any(f'"{number}' in drawn for number in ("nan", "inf", "-inf"))
        again = from_json(json.loads(as_bytes(to_json([panel]))))[0]
        assert type(again) is type(panel) and (isinstance(panel, Table) or as_html(again).html == drawn)
    if not abs(bad) < 1:
        assert panels[6].labels == ("two",) and panels[3].x == (2.0,)


def test_a_finding_sends_no_codes_to_the_terminal_and_a_strange_file_is_a_sentence(tmp_path) -> None:
    panels = (Table("a\x1b[2J", ("b\x1b",), (("c\x9b\nd",),), note="e\u202e"), Text("f\x1b", "g\x07\nh"))
    shown = Finding(Provenance("x\x1b", "y\x1b"), "z\x1b", panels=panels).text()
    assert shown.replace("\n", "").isprintable() and "g\\x07\nh" in shown and "c\\x9b↵d" in shown
    found = Finding.of_record({"data": {"huge": 10**400, "small": 2}})
    assert found.panels[0].rows == (("small", 2.0),)
    path = found.save(Run.create(tmp_path / "run", recipe=""))
    path.write_text("[" * 200_000)
    with pytest.raises(ClocheError, match="cannot be read"):
        Finding.load(path)


def test_findings_of_other_seeds_have_other_ids() -> None:
    ids = [Finding(Provenance("x", "step-1", seed=seed), "", {"y": 1.0}, {"z": 1}).id for seed in (0, 1, 2, 1)]
    assert len(set(ids)) == 3 and ids[1] == ids[3]


def test_each_column_of_a_heat_map_is_named_if_the_names_fit() -> None:
    few = as_html(Heatmap("h", ("a",), ("mix", "map", "norm"), ((1.0, 2.0, 3.0),))).html
    assert all(f"<span>{name}</span>" in few for name in ("mix", "map", "norm")) and "span each" in few
    many = as_html(Heatmap("h", ("a",), tuple(f"column {i}" for i in range(40)), (tuple(map(float, range(40))),))).html
    assert "column 0<" in many and "column 39<" in many and "column 20" not in many
