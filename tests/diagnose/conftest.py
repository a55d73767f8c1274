"""A recipe small enough to train many times."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from cloche.model import GLU, LM, Attention, Block, RoPE, Stack
from cloche.train import Recipe, gemm_rate, loop

WORDS = "the glass house grows a model under light and we look inside it step by step while it learns"


@pytest.fixture(autouse=True)
def quick_yardstick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same measurement of matrix products, on smaller ones."""
    small = partial(gemm_rate, size=64, seconds=0.001)
    rates = {"fp32": small(torch.float32), "bf16": small(torch.bfloat16)}
    monkeypatch.setattr(loop, "gemm_rates", lambda *_: rates)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A trainer sets torch's threads for the whole process; other tests get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def compiler_imported() -> None:
    """What torch imports at the first optimizer, before any test is charged for it."""
    import torch._dynamo  # noqa: F401


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng, words = tmp_path_factory.mktemp("corpus"), random.Random(0), WORDS.split()
    for i in range(40):
        (folder / f"{i}.txt").write_text(" ".join(rng.choice(words) for _ in range(150)), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny(corpus: Path) -> Recipe:
    """One layer of width 24."""
    block = Block(mix=Attention(heads=2, position=RoPE()), map=GLU("silu", hidden=32))
    spec = LM(vocab=270, width=24, body=Stack(1, block), tied=True)
    settings = {
        **{"data.paths": [str(corpus)], "tokenizer.vocab": 270, "data.validation_share": 0.2},
        **{"run.length": 16, "run.batch": 4, "run.steps": 12, "run.threads": 1, "run.precision": "fp32"},
        **{"log.every": 2, "log.health_every": 4, "checkpoint.count": 2},
        **{"evaluate.validations": 1, "evaluate.tokens": 256, "evaluate.samples": 0, "evaluate.prompts": ["the "]},
    }
    return Recipe(model=spec).with_set({**settings, "optimizer": "AdamW(lr=0.01)"})
