"""One thread: on models this small a second one only waits."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def compiler_imported() -> None:
    """What torch imports at the first compiled call, before any test is charged for it."""
    import torch._dynamo  # noqa: F401


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
