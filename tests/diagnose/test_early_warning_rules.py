"""The published rules of early warning, and the grading and tuning of rules, on made-up traces."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from bench.diagnose.peers import (
    OURSELVES,
    PUBLISHED,
    AdaGC,
    GradientAboveMedian,
    LossAboveMedian,
    Rule,
    SpikeScore,
    UpdateDoubles,
    UpdateSigmas,
    ZClip,
)
from bench.diagnose.replay import Replay, disagreements
from bench.diagnose.traces import Trace, Truth, read, read_all, synthetic
from bench.diagnose.tuning import Range, around, draws, grade, lead_of, search
from cloche.runs import Run
from cloche.train import Recipe


def trace_of(values: np.ndarray, **truth: object) -> Trace:
    """A trace whose loss, gradient and update norm are all the same."""
    return Trace("made up", Truth(**truth), values, values, values, values[:, None], values[:, None])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return [synthetic(seed, diverges=seed % 2 == 0) for seed in range(12)]


@pytest.mark.parametrize("kind", [*OURSELVES, *PUBLISHED])
def test_a_rule_sees_the_past_alone(kind: type[Rule], traces: list[Trace]) -> None:
    fired = 0
    for trace in traces:
        rule = kind()
        first = rule.first(trace)
        if first is not None:
            fired += 1
            assert rule.first(trace.until(first)) == first
            assert rule.first(trace.until(first - 1)) is None
    assert fired


def test_rules_fire_where_their_definitions_say() -> None:
    rng = np.random.default_rng(0)
    calm = 1 + 0.1 * rng.standard_normal(200)

    def jump(to: float) -> Trace:
        return trace_of(np.where(np.arange(200) >= 150, to, calm))

    before = calm[22:150]  # 128 values
    over = float(before.mean() + 6 * before.std())
    assert SpikeScore().first(jump(over + 1e-6)) == 151 and SpikeScore().first(jump(over - 1e-6)) != 151
    before = calm[100:150]
    middle = float(np.median(before))
    assert (
        UpdateDoubles().first(jump(2 * middle + 1e-6)) == 151 and UpdateDoubles().first(jump(2 * middle - 1e-6)) != 151
    )
    assert GradientAboveMedian().first(jump(3 * middle + 1e-6)) == 151
    deviation = 1.4826 * float(np.median(np.abs(before - middle)))
    assert LossAboveMedian().first(jump(middle + 5 * deviation + 1e-6)) == 151
    assert UpdateSigmas(threshold=6).first(jump(over + 1e-6)) == 151
    assert ZClip(threshold=8).first(jump(3.0)) == 151
    assert AdaGC(threshold=2).first(jump(3.0)) == 151
    assert not SpikeScore(window=128).first(trace_of(calm[:128]))


def test_alarms_are_graded_by_when_they_come() -> None:
    values = np.concatenate([np.full(60, 2.0), np.full(30, 8.0)])
    late = trace_of(values, cause="poison", family="a", onset=50)
    early = trace_of(values, cause="rate", family="b", onset=0)
    assert late.diverged == 61
    firsts = {49: None, 50: 11, 60: 1, 61: None, None: None}
    assert {first: lead_of(first, late) for first in firsts} == firsts
    assert lead_of(30, early) == 31

    calm = [trace_of(np.full(90, 2.0), hard=hard) for hard in (False, False, True)]
    slow = trace_of(np.full(90, 2.0), cause="rate_low", onset=0)
    found = grade([49, 50, 30, 7, None, 9, 3], [late, late, early, *calm, slow])
    assert found.leads == (11, 31) and found.early == 1 and found.diverged == 3
    assert (found.false, found.healthy, found.false_hard, found.hard, found.other, found.others) == (1, 2, 1, 1, 1, 1)
    assert found.lead == 21 and found.record()["lead_10"] == 2


@dataclass(frozen=True)
class Growing(Rule):
    """The update norm is `factor` times its mean over steps 20 to 60, from step `start` on; it refuses factors below 1."""

    factor: float = 8.0
    start: int = 61
    name = source = "made up"

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError

    def first(self, trace: Trace) -> int | None:
        above = trace.update_norm > self.factor * trace.update_norm[20:60].mean()
        above[: self.start] = False
        return int(above.argmax()) + 1 if above.any() else None


def test_the_search_finds_constants_that_warn_in_time(traces: list[Trace]) -> None:
    space = {"factor": Range(0.5, 12)}
    found = search(lambda x: x, Growing(), space, traces, count=40)
    before, best = found.grades()[0], found.grades()[found.best()]
    assert before.warned < best.warned == best.diverged == 6 and best.false == 0
    together, by_family = found.left_out()
    assert list(by_family) == ["family 0", "family 1", "family 2"]
    assert together.warned == sum(each.warned for each in by_family.values()) and together.diverged == 6
    assert together.warned >= 4 and together.false <= 1
    again = search(lambda x: x, Growing(), space, traces, count=40)
    assert again.settings == found.settings and again.firsts == found.firsts


@dataclass(frozen=True)
class Ratios:
    rise: float = 1.1
    fall: float = 0.9
    share: float = 0.4
    stays: int = 4
    always: bool = True


def test_constants_are_drawn_around_their_values() -> None:
    space = around(Growing(), spread=2, fixed=["start"])
    assert space == {"factor": Range(4.0, 16.0)}
    ratios = around(Ratios())
    assert {name: (round(each.low, 9), round(each.high, 9)) for name, each in ratios.items()} == {
        "rise": (1.05, 1.2),
        "fall": (0.8, 0.95),
        "share": (0.2, 0.8),
        "stays": (2, 8),
    }
    assert all(1.05 <= each.rise <= 1.2 and 0.8 <= each.fall <= 0.95 for each in draws(Ratios(), ratios, 50))
    drawn = draws(Growing(), around(Growing(), spread=3), 50)
    assert drawn[0] == Growing() and len(set(drawn)) > 40
    assert all(8 / 3 <= each.factor <= 24 and 20 <= each.start <= 183 and isinstance(each.start, int) for each in drawn)
    assert replace(drawn[1]) == drawn[1]


def test_a_trace_is_read_from_its_run_folder(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "first", recipe=Recipe().with_set({"optimizer": "SGD(lr=0.5)"}).to_toml())
    losses = [2.0] * 60 + [9.0] * 25 + [None]
    with run.log("steps") as log:
        for begin in range(0, 86, 20):
            part = losses[begin : begin + 20]
            rows = {"grad_norms": [[0.5, 1.5]] * len(part), "update_norms": [[0.1, 0.2]] * len(part)}
            norms = {"grad_norm": part, "update_norm": [0.25] * len(part)}
            first = {"parts": ["embed", "head"]} if begin == 0 else {}
            log.append({"step": begin + len(part), "loss": part, **norms, **rows, **first})
    with run.log("events") as log:
        log.append({"step": 55, "time": 1.0, "kind": "warning", "message": "", "quantity": "update_norm"})
        log.append({"step": 86, "time": 1.0, "kind": "stopped", "message": ""})
    known = {"family": "llama", "held_out": False, "cause": "rate", "hard": False, "onset": 0, "diverged": 61}
    (run.path / "truth.json").write_text(json.dumps(known))

    (trace,) = read_all(tmp_path)
    assert (len(trace), trace.diverged, trace.warned, trace.parts) == (86, 61, (55,), ("embed", "head"))
    assert (
        trace.loss[-1] == np.inf and trace.grad_norms.shape == (86, 2) and trace.update_norms[3].tolist() == [0.1, 0.2]
    )
    assert trace.optimizer.lr == 0.5 and not trace.healthy

    (run.path / "truth.json").write_text(json.dumps({**known, "diverged": None}))
    with pytest.raises(ValueError, match="its losses at 61"):
        read(run.path)
    with run.log("steps") as log:
        log.append({"step": 100, "loss": [1.0]})
    with pytest.raises(ValueError, match="step 100 does not follow"):
        read(run.path)


def test_what_an_optimiser_does_not_tell_is_no_alarm(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "first", recipe=Recipe().to_toml())
    with run.log("steps") as log:
        losses = [2.0] * 69 + [None]
        unknown = {"update_norm": [None] * 70, "update_norms": [None] * 70}
        known = {"loss": losses, "grad_norm": losses, "grad_norms": [*[[1.0, 2.0]] * 69, None]}
        log.append({"step": 70, "parts": ["embed", "head"], **known, **unknown})
    truth = {"family": "llama", "held_out": False, "cause": "rate", "hard": False, "onset": 0, "diverged": 70}
    (run.path / "truth.json").write_text(json.dumps(truth))
    trace = read(run.path)
    assert trace.grad_norms[-1].tolist() == [np.inf, np.inf] and np.isnan(trace.update_norm).all()
    assert UpdateDoubles().first(trace) is None and UpdateSigmas(window=20).first(trace) is None
    assert GradientAboveMedian().first(trace) == 70


def test_our_alarms_are_replayed_from_the_log(traces: list[Trace]) -> None:
    gone = [trace for trace in traces if trace.diverged]
    for trace in gone:
        first = Replay().first(trace)
        assert first is not None and lead_of(first, trace)
        assert Replay().first(trace.until(first)) == first and Replay().first(trace.until(first - 1)) is None
        assert next(Replay(trace.optimizer.tolerance).alarms(trace)) == first
    own = [replace(trace, warned=tuple(Replay().alarms(trace))) for trace in traces]
    assert not disagreements(own)
    assert list(disagreements([*own, replace(gone[0], warned=(3,))])) == [gone[0].name]
