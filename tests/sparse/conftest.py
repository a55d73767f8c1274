"""These problems are too small for two threads, and one thread adds numbers in the same order on every machine.

Numba's cache notices a change in the file of a function, not in the files it calls; so the tests keep theirs under a name made
from all the kernels.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cloche.sparse

_kernels = sorted((Path(cloche.sparse.__file__).parent / "pursuit").glob("*_kernel.py"))
_state = hashlib.sha256(b"".join(path.read_bytes() for path in _kernels)).hexdigest()[:16]
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"cloche-kernels-{os.getuid()}-{_state}"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(3)
