"""These problems are too small for two threads, and one thread adds numbers in the same order on every machine."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def compiled(kernels: None) -> None:
    """Every test here finds the kernels compiled, and what torch imports at the first optimizer imported."""
    import torch._dynamo  # noqa: F401


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(3)
