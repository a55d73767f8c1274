"""A corpus and a model small enough to train in a second."""

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_training import tiny_recipe

from cloche.runs import Run
from cloche.train import Recipe, gemm_rate, loop, prepare_data

WORDS = "the glass house grows a model under light and we look inside it step by step while it learns"


@pytest.fixture(autouse=True, scope="session")
def compiler_imported() -> None:
    """What torch imports at the first optimizer, before any test is charged for it."""
    import torch._dynamo  # noqa: F401


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and packed data."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "corpus").mkdir()
    rng, words = random.Random(0), WORDS.split()
    for i in range(40):
        text = " ".join(rng.choice(words) for _ in range(150))
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
def quick_yardstick(monkeypatch):
    """The same measurement of matrix products, on smaller ones."""
    small = partial(gemm_rate, size=64, seconds=0.001)
    rates = {"fp32": small(torch.float32), "bf16": small(torch.bfloat16)}
    monkeypatch.setattr(loop, "gemm_rates", lambda *_: rates)


@pytest.fixture(autouse=True)
def threads():
    """A trainer sets torch's threads for the whole process; other packages' tests get theirs back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # at these sizes a second thread only waits
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny() -> Recipe:
    return tiny_recipe()
