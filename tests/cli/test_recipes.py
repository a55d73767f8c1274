"""Recipes on the command line: printed, completed, and sizes without their consequences spelled out."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from cloche.cli.running.grow import sizes
from cloche.train import Recipe

Call = Callable[..., tuple[int, str, str]]


def test_the_default_recipe_is_printed_and_is_one(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("recipe")
    assert code == 0 and Recipe.parse(out) == Recipe()
    assert json.loads(call("recipe", "--json")[1]) == tomllib.loads(out)


def test_a_partial_file_is_printed_whole(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[model]\nwidth = 96\n[data]\npaths = 'books'\n")
    _, out, _ = call("recipe", file, "--set", "run.steps=7", "optimizer=AdamW(lr=0.001)")
    recipe = Recipe.parse(out)
    assert (recipe.model.width, recipe.data.paths, recipe.run.steps) == (96, ["books"], 7)
    assert recipe.optimizer.to_line().startswith("AdamW(lr=0.001,")
    assert recipe.schedule == Recipe().schedule


@pytest.mark.parametrize(
    ("given", "heads", "hidden"),
    [
        ((256, None, None, None), 8, 682),
        ((192, 3, None, None), 6, 512),
        ((96, None, 2, None), 2, 256),
        ((66, None, None, 900), 6, 176),
    ],
)
def test_sizes_follow_from_the_width(given: tuple, heads: int, hidden: int) -> None:
    changes = {key: value for key, value in sizes(Recipe(), *given).items() if value is not None}
    model = Recipe().with_set(changes).model.resolved()
    mix, wide = model.body.block.mix, model.body.block.map
    assert (mix.heads, mix.kv_heads, wide.hidden) == (heads, heads, hidden)
    assert (model.width, model.body.depth, model.vocab) == (given[0], given[1] or 5, given[3] or 4096)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "optimizer=Muon(lr=nan)"), "nan"),
        (("--set", "optimizer=Muon(rate=1)"), "Muon has no field 'rate'"),
        (("--set", "optimizer=WSD"), "[optimizer] must be a Optimizer, and WSD is not one"),
        (("--set", "optimizer=my_parts:Sign"), "--import my_parts"),
        (("--set", "schedule=__import__('os').getcwd()"), "[schedule]"),
        (("--set", "optimizer.kind=muon"), "optimizer.part"),
        (("--set", "imports=os"), "section.key=value"),
    ],
)
def test_what_is_no_part_is_one_sentence(call: Call, words: tuple[str, ...], said: str) -> None:
    code, out, err = call("recipe", *words)
    assert (code, out, err.count("\n")) == (1, "", 1) and said in err
