import pytest

from cloche.data import standard_library
from cloche.text import Tokenizer, train_bpe


@pytest.fixture(scope="session")
def library_text() -> list[str]:
    """A tenth of the standard library."""
    return [path.read_bytes().decode("utf-8", "replace") for path in standard_library()[::10]]


@pytest.fixture(scope="session")
def small(library_text: list[str]) -> Tokenizer:
    return train_bpe(library_text, vocab=1024)
