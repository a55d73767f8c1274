"""docs/schemas: current, complete, and true of what commands print and runs hold."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import foreign_model
import pytest
from jsonschema import ValidationError
from schema_check import FILES, SCHEMAS, check_output, check_run, validator
from test_every_command import SHOWS, commands

from cloche.interp import JacobianConfig, LensConfig

Call = Callable[..., tuple[int, str, str]]


def test_the_schemas_are_current() -> None:
    """If not: python docs/schemas/make.py"""
    wanted = runpy.run_path(str(SCHEMAS / "make.py"))["schemas"]()
    assert {str(path.relative_to(SCHEMAS)): path.read_text() for path in SCHEMAS.glob("*/*.json")} == wanted


def test_every_command_with_json_has_one() -> None:
    names = {path.stem for path in (SCHEMAS / "commands").glob("*.json")} - {"error"}
    assert names == {name.replace(" ", "-") for name in commands() if name not in SHOWS}


def test_the_files_of_a_run_are_as_their_schemas_say(
    call: Call, grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloche.interp.lenses.keeping.DEFAULT", LensConfig(steps=1, tokens=1_000))
    monkeypatch.setattr("cloche.interp.lenses.keeping.JACOBIAN_DEFAULT", JacobianConfig(tokens=500))
    run = Path(shutil.copytree(grown, tmp_path / "run"))
    words = ("--features", 32, "--l0", 4, "--tokens", 1_000)
    assert call("sae", "train", run, "--site", "resid_post[1]", *words, "--json")[0] == 0
    for instrument in ("logit-lens", "tuned-lens", "jacobian-lens", "activation-density", "dictionary", "features"):
        options = () if instrument.endswith("lens") else ("windows=600",)
        assert call("look", run, instrument, *options, "--json")[0] == 0
    assert check_run(run) == set(FILES)


def test_the_files_of_an_adopted_run_are_too(call: Call, tmp_path: Path) -> None:
    model = foreign_model.write_steps(tmp_path / "model", ("step1", "step2"))
    assert call("adopt", model, "--out", tmp_path / "run", "--json")[0] == 0
    assert check_run(tmp_path / "run") == {"run", "manifest", "checkpoints-manifest"}


MIXTURE = 'model.body.block.map={part = "MoE", experts = 4, active = 2, expert = {part = "GLU", activation = "silu"}}'


@pytest.mark.parametrize(
    "words",
    [(), ("run.steps=3",), ("optimizer=AdamW(lr=0.001)", "schedule=Cosine"), (MIXTURE, "data.paths=books")],
    ids=["default", "steps", "other parts", "experts"],
)
def test_a_recipe_is_as_its_schema_says(call: Call, words: tuple[str, ...]) -> None:
    code, out, err = call("recipe", *(each for word in words for each in ("--set", word)), "--json")
    assert code == 0, err
    recipe = json.loads(out)
    own = recipe | {"optimizer": {"part": "my_parts:Sign", "rate": 3}}
    validator("commands/recipe").validate(own)
    for section, changed in (
        ("optimizer", recipe["optimizer"] | {"lr": "fast"}),
        ("optimizer", recipe["optimizer"] | {"rate": 1.0}),
        ("optimizer", {"part": recipe["optimizer"]["part"]}),
        ("optimizer", {"part": "Sign"}),
        ("schedule", recipe["optimizer"]),
        ("run", recipe["run"] | {"stepps": 3}),
        ("model", recipe["model"] | {"width": 1.5}),
        ("colour", {}),
    ):
        with pytest.raises(ValidationError):
            validator("commands/recipe").validate(recipe | {section: changed})
    with pytest.raises(ValidationError):
        validator("commands/recipe").validate({key: recipe[key] for key in recipe if key != "run"})


def test_what_is_not_as_a_schema_says_is_found(call: Call, grown: Path) -> None:
    _, out, _ = call("verify", grown, "--json")
    for changed in (out.replace('"ok"', '"okay"'), out.replace("true", '"yes"'), out.replace("{", '{"more": 1, ', 1)):
        with pytest.raises(ValidationError):
            check_output(["verify"], changed)
    with pytest.raises(ValidationError):
        validator("files/run").validate({"format": 2})
