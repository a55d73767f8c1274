"""These problems are too small for two threads, and one thread adds numbers in the same order on every machine."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cloche.runs import Run

sys.path.append(str(Path(__file__).parents[1] / "model"))  # random_configs: tiny models of every family


@pytest.fixture(scope="session")
def grown_induction(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two layers trained on repeated random tokens, with checkpoints (4 CPU seconds: for slow tests)."""
    from grown import grow

    return grow(tmp_path_factory.mktemp("grown") / "run", layers=2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
