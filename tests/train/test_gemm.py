"""The yardstick: precision is decided by measurement."""

import torch

from cloche.train import best_precision, gemm_rate


def test_bf16_must_be_clearly_faster():
    assert best_precision({"fp32": 1.0, "bf16": 2.0}) == "bf16"
    assert best_precision({"fp32": 1.0, "bf16": 1.05}) == "fp32"
    assert best_precision({"fp32": 2.0, "bf16": 1.0}) == "fp32"


def test_a_rate_is_measured():
    assert 1e7 < gemm_rate(torch.float32, size=64, seconds=0.01) < 1e15
