"""Rate of matrix products on this machine: the reference for MFU, and for choosing the precision."""

from __future__ import annotations

import time

import torch

# bf16 must be clearly faster to be worth its rounding: some CPUs support it at half the speed of fp32.
WORTH = 1.15


def gemm_rate(dtype: torch.dtype, size: int = 1024, seconds: float = 0.2, device: str = "cpu") -> float:
    """FLOP/s of the fastest square matrix product within about `seconds`, on torch's current threads.

    >>> import torch
    >>> from cloche.train import gemm_rate
    >>> gemm_rate(torch.float32, size=64, seconds=0.01) > 1e6
    True
    """
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


def gemm_rates(device: str = "cpu") -> dict[str, float]:
    """FLOP/s by precision: {"fp32": ..., "bf16": ...}.

    >>> from cloche.train import gemm_rates
    >>> sorted(gemm_rates())
    ['bf16', 'fp32']
    """
    return {"fp32": gemm_rate(torch.float32, device=device), "bf16": gemm_rate(torch.bfloat16, device=device)}


def best_precision(rates: dict[str, float]) -> str:
    """The precision to train in: "bf16" if it is clearly faster (by 15%), else "fp32".

    >>> from cloche.train import best_precision
    >>> best_precision({"fp32": 1.0e11, "bf16": 1.1e11}), best_precision({"fp32": 1.0e11, "bf16": 3.0e11})
    ('fp32', 'bf16')
    """
    return "bf16" if rates["bf16"] >= WORTH * rates["fp32"] else "fp32"
