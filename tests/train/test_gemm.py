"""The yardstick: precision is decided by measurement, and a busy moment does not change it."""

import json

import pytest
import torch

from cloche.train import best_precision, gemm_rate, gemm_rates
from cloche.train.machine import gemm


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CLOCHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gemm.json"


def quick() -> dict[str, float]:
    return gemm_rates(size=64, seconds=0.001)


def test_bf16_must_be_clearly_faster():
    assert best_precision({"fp32": 1.0, "bf16": 2.0}) == "bf16"
    assert best_precision({"fp32": 1.0, "bf16": 1.05}) == "fp32"
    assert best_precision({"fp32": 2.0, "bf16": 1.0}) == "fp32"


def test_a_rate_is_measured():
    assert 1e7 < gemm_rate(torch.float32, size=64, seconds=0.01) < 1e15


def test_a_busy_moment_changes_neither_rate_nor_precision(monkeypatch, cache):
    calm = quick()
    (kept,) = json.loads(cache.read_text()).values()
    assert kept == calm
    monkeypatch.setattr(gemm, "gemm_rate", lambda dtype, *_: 1.0 if dtype == torch.bfloat16 else 2.0)
    assert quick() == calm


def test_the_best_of_torchs_threads_and_one_counts(monkeypatch):
    torch.set_num_threads(2)
    monkeypatch.setattr(gemm, "gemm_rate", lambda *_: 1e9 / torch.get_num_threads())  # threads that wait for each other
    assert quick() == {"fp32": 1e9, "bf16": 1e9}
    assert torch.get_num_threads() == 2


def test_a_faster_measurement_replaces_what_was_kept(monkeypatch, cache):
    quick()
    monkeypatch.setattr(gemm, "gemm_rate", lambda *_: 1e17)
    assert quick() == {"fp32": 1e17, "bf16": 1e17}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"KEY": 3}', '{"KEY": {"fp32": "fast", "bf16": -1.0}}'])
def test_a_damaged_cache_is_measured_again(cache, text):
    cache.parent.mkdir()
    cache.write_text(text.replace("KEY", gemm._machine("cpu")))
    assert all(1e7 < rate < 1e15 for rate in quick().values())


def test_without_a_cache_it_is_measured(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLOCHE_CACHE", str(tmp_path / "file" / "below"))
    assert all(1e7 < rate < 1e15 for rate in quick().values())
