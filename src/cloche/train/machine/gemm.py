"""Rate of matrix products on this machine: the reference for MFU, and for choosing the precision."""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cloche.errors import ClocheError
from cloche.files import cache_folder, to_json, write_atomically

# bf16 must be clearly faster to be worth its rounding: some CPUs support it at half the speed of fp32.
WORTH = 1.15
SIZES = {
    "cpu": 512,
    "cuda": 4096,
}  # of a product: short enough to end between two interruptions, large enough to be fast
ROUNDS = 3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def gemm_rate(dtype: torch.dtype, size: int | None = None, seconds: float = 0.05, device: str = "cpu") -> float:
    """FLOP/s of the fastest square matrix product within about `seconds`, on torch's current threads.

    size: rows of the matrices, by default 512 on a CPU and 4,096 on a GPU.

    >>> import torch
    >>> from cloche.train import gemm_rate
    >>> gemm_rate(torch.float32, size=64, seconds=0.01) > 1e6
    True
    """
    size = size or SIZES["cuda" if device.startswith("cuda") else "cpu"]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(size, size, generator=generator).to(device, dtype)
    best = float("inf")
    a @ a  # warm-up: the first product includes kernel set-up
    until = time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        _wait(device)
        start = time.perf_counter()
        a @ a
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def gemm_rates(device: str = "cpu", size: int | None = None, seconds: float = 0.05) -> dict[str, float]:
    """FLOP/s by precision: {"fp32": ..., "bf16": ...}, the best that was ever measured on this machine.

    Other processes only ever slow a product down, and two threads that share busy cores can be twenty times slower than
    one. So each rate is the best of several short measurements, spread over time, with torch's threads and with one; and
    the best is kept in the user's cache folder for this processor, torch and number of threads, so that a busy moment
    changes neither MFU nor the precision that is chosen.

    >>> from cloche.train import gemm_rates
    >>> sorted(gemm_rates())
    ['bf16', 'fp32']
    """
    counts = {torch.get_num_threads(), 1} if device == "cpu" else {1}
    best = _kept(key := _machine(device))
    before = dict(best)
    for _ in range(ROUNDS):
        for name, dtype in DTYPES.items():
            for count in counts:
                with _threads(count, device):
                    best[name] = max(best.get(name, 0.0), gemm_rate(dtype, size, seconds, device))
    if best != before:
        _keep(key, best)
    return {name: best[name] for name in DTYPES}


@contextmanager
def _threads(count: int, device: str) -> Iterator[None]:
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- the best so far


def _machine(device: str) -> str:
    """What a rate depends on."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{platform.node()}, {name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _read() -> dict[str, dict[str, float]]:
    try:
        found = json.loads((cache_folder() / "gemm.json").read_bytes())
    except (OSError, ValueError, RecursionError):  # nothing kept yet, or nothing that can be read
        return {}
    return found if isinstance(found, dict) else {}


def _kept(key: str) -> dict[str, float]:
    found = _read().get(key)
    if not isinstance(found, dict):
        return {}
    return {name: rate for name in DTYPES if isinstance(rate := found.get(name), float) and 0 < rate < 1e18}


def _keep(key: str, rates: dict[str, float]) -> None:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_atomically(cache_folder() / "gemm.json", to_json({**_read(), key: rates}, indent=1))
    except (OSError, ClocheError):  # a cache that cannot be written costs a measurement, no more
        return


def best_precision(rates: dict[str, float]) -> str:
    """The precision to train in: "bf16" if it is clearly faster (by 15%), else "fp32".

    >>> from cloche.train import best_precision
    >>> best_precision({"fp32": 1.0e11, "bf16": 1.1e11}), best_precision({"fp32": 1.0e11, "bf16": 3.0e11})
    ('fp32', 'bf16')
    """
    return "bf16" if rates["bf16"] >= WORTH * rates["fp32"] else "fp32"
