"""What every test stands on: one thread, and the real data beside the checkout."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Before torch is imported anywhere: results must not depend on the number of cores, and on models this small a second thread
# only waits (200 s against 13 s for the model room's tests, on a busy machine).
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

# bench/faults.py draws faults for tests and measurements alike.
sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """`shared("weights/sortgpt/hf")` is that path in the real data; the test is skipped where it is absent."""

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"real data is absent: ../shared/data/{relative}")
        return path

    return find
