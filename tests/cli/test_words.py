"""How words on the command line are read: options with several values, settings, edits."""

from pathlib import Path

import pytest
import torch

from cloche.cli.app import expand_arguments
from cloche.cli.edits import parse_edit
from cloche.cli.running.demo import free_folder
from cloche.cli.running.grow import settings
from cloche.errors import ClocheError
from cloche.model import site
from cloche.runs import Run
from cloche.sparse import SAE


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("pretrain r.toml --data a b --out x", "pretrain r.toml --data a --data b --out x"),
        ("demo --data a --minutes 1", "demo --data a --minutes 1"),
        ("demo --set a=1 b=2 c=3", "demo --set a=1 --set b=2 --set c=3"),
        ("demo --data=a b", "demo --data=a b"),
        ("generate r --debug p", "generate r p"),
        ("sae train r --import my_parts --l0 3", "--import=my_parts sae train r --l0 3"),
        ("demo --data a --import=x b --import y c", "--import=x --import=y demo --data a --data b --data c"),
        ("generate r --import", "--import= generate r"),
        ("generate r -- --debug --data a b", "generate r -- --debug --data a b"),
    ],
)
def test_options_that_take_many(given: str, read: str) -> None:
    assert expand_arguments(given.split()) == read.split()


def test_settings() -> None:
    assert settings(["run.steps=2", "evaluate.prompts=['a=b']"]) == {"run.steps": "2", "evaluate.prompts": "['a=b']"}
    assert settings(None) == {}
    with pytest.raises(ClocheError, match=r"section\.key=value"):
        settings(["run.steps"])


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    wanted = tmp_path / "first"
    assert free_folder(wanted) == wanted
    wanted.mkdir()
    assert free_folder(wanted) == wanted, "an empty folder is free"
    (wanted / "run.json").touch()
    assert free_folder(wanted) == tmp_path / "first-2"
    (tmp_path / "first-2").touch()
    assert free_folder(wanted) == tmp_path / "first-3"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = Run.create(tmp_path / "run", "").path
    SAE(width=8, features=16, l0=2, seed=0).save(made / "dictionaries" / "resid_post_2")
    return made


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("z[2].head(1).zero()", "zero z[2].head(1)"),
        ("resid_post[3].scale(0.5).at(new)", "scale resid_post[3] at new"),
        ("embed.scale(2).at(1:4)", str(site("embed").scale(2).at(slice(1, 4)))),
        ("embed.zero().at(-1)", "zero embed at -1"),
        ("embed.zero().at([1, 4])", "zero embed at (1, 4)"),
        ("resid_post[2].add(4 * resid_post_2[7])", "add resid_post[2]"),
        ("resid_post[2].project_out(resid_post_2[7]).at('last')", "project_out resid_post[2] at last"),
    ],
)
def test_edits(run: Path, text: str, meaning: str) -> None:
    assert str(parse_edit(text, run)) == meaning


def test_an_edit_along_a_feature_has_its_weight(run: Path) -> None:
    edit = parse_edit("resid_post[2].add(-2.5 * resid_post_2[7])", run)
    assert torch.equal(edit.value, -2.5 * SAE(width=8, features=16, l0=2, seed=0).decoder.detach()[7])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("z[2].head(1)", "is not an edit"),
        ("nowhere.zero()", "is not a site"),
        ("embed.scale(much)", "not a number"),
        ("embed.add(4)", "not a direction"),
        ("embed.add(other[3])", "it has resid_post_2"),
        ("embed.add(resid_post_2[16])", "features 0 to 15"),
        ("embed.zero().at(soon)", "not a position"),
        ("embed.zero().at(1:2:3:4)", "not a position"),
    ],
)
def test_what_is_no_edit_is_one_sentence(run: Path, text: str, said: str) -> None:
    with pytest.raises(ClocheError, match=said):
        parse_edit(text, run)
