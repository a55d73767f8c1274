import json
import tomllib
from pathlib import Path

import pytest

from cloche.errors import ClocheError
from cloche.runs import Run

RECIPE = 'question = "does it grow?"\n'


def test_created_run_opens_and_tells_where_it_came_from(tmp_path: Path) -> None:
    parent = {"run": "runs/old", "checkpoint": "step-000010"}
    Run.create(tmp_path / "deep" / "run", RECIPE, seed=7, command=["cloche", "pretrain"], parent=parent)
    run = Run.open(tmp_path / "deep" / "run")
    assert run.info["format"] == 2
    assert run.info["seed"] == 7
    assert run.info["parent"] == parent
    assert run.info["commands"] == [["cloche", "pretrain"]]
    assert {"python", "numpy"} <= set(run.info["versions"])
    assert run.info["host"]["cores"] >= 1
    assert tomllib.loads(run.recipe) == {"question": "does it grow?"}


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    Run.create(tmp_path, RECIPE, seed=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ClocheError, match="already holds a run"):
        Run.create(tmp_path, "other = 1\n", seed=2)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClocheError, match=r"has no run\.json"):
        Run.open(tmp_path)
    with pytest.raises(ClocheError, match="there is no folder"):
        Run.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ClocheError, match="is a file"):
        Run.create(tmp_path / "file", RECIPE)


def test_damaged_and_future_runs_are_one_sentence(tmp_path: Path) -> None:
    run = Run.create(tmp_path, RECIPE)
    run.write_json("run.json", {**run.info, "format": 3})
    with pytest.raises(ClocheError, match=r"format 3.*upgrade cloche"):
        Run.open(tmp_path)
    run.write_json("run.json", {**run.info, "format": 1})
    with pytest.raises(ClocheError, match=r"format 1.*earlier version"):
        Run.open(tmp_path)
    run.write_bytes("run.json", b'{"format": 2')
    with pytest.raises(ClocheError, match=r"run\.json is not readable"):
        Run.open(tmp_path)


def test_commands_are_appended(tmp_path: Path) -> None:
    run = Run.create(tmp_path, RECIPE, command=["first"])
    run.add_command(["second", "--x"])
    assert Run.open(tmp_path).info["commands"] == [["first"], ["second", "--x"]]


@pytest.mark.parametrize("relative", ["../out.json", "/tmp/out.json", "a/../../out.json", ".", "link/out.json"])
def test_no_write_leads_out_of_the_folder(tmp_path: Path, relative: str) -> None:
    run = Run.create(tmp_path / "run", RECIPE)
    (tmp_path / "elsewhere").mkdir()
    (run.path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClocheError, match="leads out of"):
        run.write_json(relative, {})
    assert not list((tmp_path / "elsewhere").iterdir())
    assert not (tmp_path / "out.json").exists()


def test_writes_are_strict_json_and_leave_no_temporary_name(tmp_path: Path) -> None:
    run = Run.create(tmp_path, RECIPE)
    written = run.write_json(
        "findings/lens/a.json", {"nan": float("nan"), "list": [1.5, float("inf")], "text": "é\udc80"}
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    value = json.loads(written.read_bytes(), parse_constant=refuse)
    assert value == {"nan": None, "list": [1.5, None], "text": "é\udc80"}
    names = {path.name for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".lock")}
    assert names == {"a.json", "recipe.toml", "run.json", "manifest.json"}


def test_an_object_without_json_form_is_a_programming_error_and_writes_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path, RECIPE)
    with pytest.raises(TypeError):
        run.write_json("x.json", {"x": object()})
    assert not (tmp_path / "x.json").exists()


def test_findings_come_newest_first_and_by_instrument(tmp_path: Path) -> None:
    run = Run.create(tmp_path, RECIPE)
    assert run.findings() == []
    for instrument, name, created in [
        ("lens", "a", "2026-01-01"),
        ("lens", "b", "2026-01-03"),
        ("features", "c", "2026-01-02"),
    ]:
        run.write_json(f"findings/{instrument}/{name}.json", {"instrument": instrument, "id": name, "created": created})
    assert [finding["id"] for finding in run.findings()] == ["b", "c", "a"]
    assert [finding["id"] for finding in run.findings("lens")] == ["b", "a"]
    (tmp_path / "findings/lens/d.json").write_text("{")
    with pytest.raises(ClocheError, match=r"d\.json"):
        run.findings()


def test_a_run_that_was_cut_off_before_its_recipe_is_made_again(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", RECIPE)
    (run.path / "recipe.toml").unlink()
    with pytest.raises(ClocheError, match="cut off while it was being made; make it again"):
        _ = run.recipe
    assert Run.create(run.path, RECIPE).recipe == RECIPE


def test_links_that_lead_back_to_themselves_are_sentences(tmp_path):
    run = Run.create(tmp_path / "run", recipe="")
    (run.path / "findings" / "lens").mkdir(parents=True)
    for name in ("findings/lens/a.json", "findings/loop"):
        (run.path / name).symlink_to(run.path / name)
    with pytest.raises(ClocheError, match="cannot be read"):
        run.findings()
    with pytest.raises(ClocheError, match="findings/loop"):
        run.write_json("findings/loop/b.json", {})
