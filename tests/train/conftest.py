"""A corpus and a model small enough to train in a second."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glasshouse.model import GLU, LM, Attention, Block, RoPE, Stack
from glasshouse.runs import Run
from glasshouse.train import Recipe, prepare_data

WORDS = "the glass house grows a model under light and we look inside it step by step while it learns to read".split()


def tiny_recipe(**changes: object) -> Recipe:
    """Two layers of width 32; `changes` are dotted keys with _ for the dot: run__steps=20."""
    block = Block(mix=Attention(heads=2, position=RoPE()), map=GLU("silu", hidden=48))
    spec = LM(vocab=300, width=32, body=Stack(2, block), tied=True)
    settings = {
        "tokenizer.vocab": 300,
        "data.paths": ["corpus"],
        "model": spec.to_dict(),
        "run.length": 32,
        "run.batch": 4,
        "run.steps": 20,
        "run.threads": 1,
        "run.precision": "fp32",
        "run.log_every": 5,
        "run.health_every": 5,
        "run.validations": 2,
        "run.validation_tokens": 512,
        "run.checkpoints": 3,
        "run.samples": 1,
        "run.sample_tokens": 4,
        "run.prompts": ["the "],
    }
    model = settings.pop("model")
    recipe = Recipe(model=model)
    return recipe.with_set({**settings, **{key.replace("__", "."): value for key, value in changes.items()}})


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and packed data."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "corpus").mkdir()
    rng = random.Random(0)
    for i in range(40):
        text = " ".join(rng.choice(WORDS) for _ in range(150))
        (folder / "corpus" / f"{i}.txt").write_text(text, encoding="utf-8")
    recipe = tiny_recipe(data__paths=[str(folder / "corpus")], data__validation_share=0.2)
    prepare_data(recipe, Run.create(folder / "run", recipe.to_toml()))
    return folder / "run"


@pytest.fixture
def new_run(prepared: Path, tmp_path: Path) -> Callable[..., Run]:
    """`new_run("a", recipe)` is a fresh run over the prepared data."""

    def make(name: str, recipe: Recipe) -> Run:
        run = Run.create(tmp_path / name, recipe.to_toml())
        shutil.copytree(prepared / "data", run.path / "data")
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(prepared / file, run.path / file)
        return run

    return make


@pytest.fixture(autouse=True)
def threads():
    """A trainer sets torch's threads for the whole process; other rooms' tests get theirs back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # at these sizes a second thread only waits
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny() -> Recipe:
    return tiny_recipe()
