"""Every setting with every impossible value: one sentence, before anything is built; and settings under other names."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass

import pytest

from cloche.errors import ClocheError
from cloche.model import GLU
from cloche.model.maps.mlp import Map
from cloche.train import NextToken, Recipe, Trainer, calibrate, check_fits, check_recipe

VALUES = {
    "zero": "0",
    "negative": "-1",
    "nan": "nan",
    "infinite": "inf",
    "large float": "1e308",
    "beyond 64 bits": str(10**30),
    "more digits than Python reads": "9" * 5000,
    "large": str(10**9),
    "empty": '""',
    "long text": "x" * 10**6,
    "list": "[]",
    "table": "{}",
    "true": "true",
    "word": "abc",
    "NUL": json.dumps("a\0b"),
    "deep list": "[" * 3000 + "]" * 3000,
    "deep key": "{" + "a." * 3000 + "a=1}",
}
POSSIBLE = {  # what each of these values may be, of settings whose other values are all refused
    "zero": "seed samples balance beta1 beta2 momentum weight_decay warmup decay final look document_masks smoothing z_loss "
    "ramp",
    "large": "chunk clip log.every health_every steps seed theta norm.eps embed_scale evaluate.tokens",
    "empty": "ask measure glob field path",
    "list": "paths validation prompts groups",
    # all of it the default's
    "table": "model body block mix position mask map norm head objective optimizer schedule initialisation",
    "true": "look bias tied document_masks",
    "word": "ask measure glob field path paths validation prompts",
}


def leaves(table: dict, place: str = "") -> list[str]:
    found = []
    for key, value in table.items():
        found += [f"{place}{key}", *(leaves(value, f"{place}{key}.") if isinstance(value, dict) else [])]
    return found


def refusal(key: str, text: str) -> str | None:
    """What is said of `--set key=text`; None where it is accepted."""
    try:
        check_fits(Recipe().with_set({key: text}))
    except ClocheError as error:
        return str(error)
    return None


def check(keys: list[str], values: dict[str, str]) -> None:
    wrong = []
    for key in keys:
        for name, text in values.items():
            began, said = time.process_time(), refusal(key, text)
            expected = any(f".{key}".endswith(f".{last}") for last in POSSIBLE.get(name, "").split())
            if (said is None) != expected or (said and ("\n" in said or len(said) > 600)):
                wrong.append((key, name, said))
            if time.process_time() - began > 2:
                wrong.append((key, name, "slow"))
    assert not wrong, "\n".join(map(str, wrong[:20]))


ALL = [*leaves(Recipe().to_dict()), "data.glob", "tokenizer.path", "run.steps", "run.threads", "model.embed_scale"]


@pytest.mark.slow
def test_every_setting_with_every_value() -> None:
    check([key for key in ALL if key != "tokenizer.path"], VALUES)


def test_the_settings_that_size_things_refuse_what_cannot_be() -> None:
    check(["model.body.depth", "model.width", "model.vocab", "run.threads", "run.batch", "tokenizer"], VALUES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a." * 100_000 + "b = 1", "nests more than"),
        ("x = " + "[" * 50_000, "nests more than"),
        ("x = {" + "a." * 200_000 + "b = 1}", "nests more than"),
        ("[run]\nsteps = " + "9" * 5000, "thousands of digits"),
        ("tokenizer = 3", "must be a table"),
        ("[model.body.block.mix]\npart = 'ScoredAttention'", "needs attention"),
    ],
)
def test_a_hostile_recipe_file_is_one_sentence_at_once(text: str, words: str) -> None:
    began = time.process_time()
    with pytest.raises(ClocheError, match=words) as caught:
        Recipe.parse(text, "my.toml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.body.depth": 10**9}, "at most 10,000 blocks"),
        ({"model.width": 2**20 * 6}, "GB to train, and this machine has"),
        ({"run.batch": 2**20, "run.length": 2**14}, "smaller run.batch"),
        ({"run.threads": 10**6}, "less than or equal to 1024"),
        ({"model.norm.eps": "inf"}, "finite number above zero"),
        ({"model.vocab": 1000, "tokenizer.vocab": 2000}, "differ"),
    ],
)
def test_a_size_out_of_bounds_is_named_with_its_limit(changes: dict, words: str) -> None:
    with pytest.raises(ClocheError, match=words):
        check_recipe(Recipe().with_set(changes))


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("model.depth", "did you mean model.body.depth"),
        ("model.heads", "model.body.block.mix.heads"),
        ("model.n_layer", "here it is called model.body.depth"),
        ("run.lr", "optimizer.lr"),
        ("run.learning_rate", "optimizer.lr"),
        ("run.stepz", "did you mean steps"),
        ("run.colour", "its keys are seed"),
        ("model.colour", "known are"),
    ],
)
def test_an_unknown_key_is_answered_with_the_right_setting(key: str, hint: str) -> None:
    with pytest.raises(ClocheError) as caught:
        Recipe().with_set({key: "3"})
    assert hint in str(caught.value)


def test_the_vocabulary_of_the_model_and_of_the_tokenizer_are_one_number() -> None:
    for key in ("model.vocab", "tokenizer.vocab"):
        changed = Recipe().with_set({key: 1000})
        assert (changed.model.vocab, changed.tokenizer.vocab) == (1000, 1000)
    tree = Recipe().to_dict()["model"]
    lone = Recipe(model=Recipe().with_set({"model.vocab": 900}).model)
    assert lone.tokenizer.vocab == 900 and Recipe.parse(lone.to_toml()) == lone
    with pytest.raises(ClocheError, match="leave one of them out"):
        Recipe(model=tree, tokenizer={"vocab": 500})


@dataclass(frozen=True)
class Copies(Map):
    """A map of somebody else's that is built many times over."""

    copies: int = 2
    of: Map = GLU()
    counts = ("copies",)


@dataclass(frozen=True)
class AllAtOnce(NextToken):
    """An objective of somebody else's that keeps the logits of the whole batch."""

    def logits_held(self, tokens):
        return tokens


def test_parts_of_others_say_how_many_modules_and_logits_they_need() -> None:
    recipe = Recipe()
    body = recipe.model.body
    block = dataclasses.replace(body.block, map=Copies(10**6))
    model = dataclasses.replace(recipe.model, body=dataclasses.replace(body, block=block))
    with pytest.raises(ClocheError, match="blocks and experts, and at most"):
        check_fits(recipe.model_copy(update={"model": model}))
    large = recipe.with_set({"model.vocab": 200_000, "run.batch": 2**10, "run.length": 2**10, "model.width": 96})
    check_fits(large)
    with pytest.raises(ClocheError, match="take at least"):
        check_fits(large.model_copy(update={"objective": AllAtOnce()}))


def test_experts_do_not_count_as_layers_of_the_stream() -> None:
    """Memory is compared with a lower bound: a mixture of many small experts keeps no stream of its own for each."""
    experts = {"model.body.block.map": "MoE(experts=512, active=1, expert=GLU(hidden=8))"}
    check_fits(Recipe().with_set({**experts, "run.batch": 128, "run.length": 1024}))


def test_what_is_not_decided_is_named() -> None:
    with pytest.raises(ClocheError, match="steps and threads are not decided yet"):
        Trainer(Recipe(), None)
    with pytest.raises(ClocheError, match="minutes is not set"):
        calibrate(Recipe().with_set({"run.steps": 4}), None)
