"""Runs of minutes on machines that get slower, by a clock that is told how time passes: when they end, and with what rate."""

from __future__ import annotations

import itertools
import json

import pytest
from regression import regression

from cloche.runs import Run
from cloche.train import WSD, Cosine, Milestones, StepPlan
from cloche.train.optimizers.schedule import milestones

STEPS, MINUTES = 300, 5.0  # of a second each


def ended(run, slow_from, times, **more):
    """A run whose steps take `times` as long from `slow_from` on: the loop, its times over the minutes, its events."""
    loop = regression(run, STEPS, MINUTES, seconds=lambda step: times if step >= slow_from else 1.0, **more)
    list(loop)
    return loop, loop.pace.time / (60 * MINUTES), run.read_log("events")


def rates(run):
    return [record["lr"] for record in run.read_log("metrics") if "lr" in record]


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", "")


@pytest.mark.parametrize("slow_from", [0.0, 0.3, 0.5, 0.7, 0.85])
@pytest.mark.parametrize("times", [1.3, 2.0, 10.0])
def test_a_slow_machine_still_finishes_the_schedule_near_its_minutes(run, slow_from, times):
    loop, share, events = ended(run, int(slow_from * STEPS), times)
    assert share <= 1.15
    assert events[-1]["kind"] == "finished" and loop.step == loop.steps
    assert rates(run)[-1] == pytest.approx(0.1 * WSD().rate(STEPS - 1, STEPS)), "the rate has fallen to its end"
    if share > 1.11 or loop.steps < STEPS:
        assert any(event["kind"] == "replan" for event in events)


@pytest.mark.parametrize("slow_from", [0.87, 0.93, 0.97])
@pytest.mark.parametrize("times", [2.0, 10.0])
def test_late_slowness_has_more_patience(run, slow_from, times):
    _, share, events = ended(run, int(slow_from * STEPS), times)
    assert share <= 1.3 and events[-1]["kind"] == "finished"
    assert rates(run)[-1] == pytest.approx(0.1 * WSD().rate(STEPS - 1, STEPS)), "even where one step was left"


@pytest.mark.parametrize("minutes", [MINUTES, None])
def test_a_steady_machine_and_a_run_of_steps_are_never_replanned(run, minutes):
    loop = regression(run, STEPS, minutes, seconds=lambda step: 1.0 if minutes else 50.0)
    list(loop)
    assert loop.step == STEPS and "replan" not in [event["kind"] for event in run.read_log("events")]
    assert loop.plan.state() == [[0, STEPS]]


def test_one_long_stall_shortens_nothing_that_it_did_not_take(run):
    """As when a laptop sleeps: the time is lost, and the pace is not."""
    loop = regression(run, STEPS, MINUTES, seconds=lambda step: 45.0 if step == 100 else 1.0)
    list(loop)
    assert STEPS - 45 <= loop.steps <= STEPS and loop.pace.time <= 1.15 * 60 * MINUTES


def test_steps_come_back_where_the_machine_recovers(run):
    loop = regression(run, STEPS, MINUTES, seconds=lambda step: 4.0 if 100 <= step < 115 else 1.0)
    list(loop)
    turns = loop.plan.state()
    assert min(steps for _, steps in turns) < 220, "it was shortened"
    assert loop.steps > 235 and 0.85 <= loop.pace.time / (60 * MINUTES) <= 1.15


@pytest.mark.parametrize("fast_from", [0.1, 0.4, 0.7])
@pytest.mark.parametrize("times", [0.8, 0.4])
def test_a_machine_that_gets_faster_uses_its_minutes(run, fast_from, times):
    """As when the pace was measured beside other work, which then ended."""
    loop, share, events = ended(run, int(fast_from * STEPS), times)
    assert 0.8 <= share <= 1.15 and events[-1]["kind"] == "finished"
    assert loop.steps >= STEPS and rates(run)[-1] == pytest.approx(0.1 * WSD().rate(STEPS - 1, STEPS))
    assert sum(event["kind"] == "replan" for event in events) <= 8


def test_a_machine_that_is_slow_and_fast_in_turn_ends_in_time(run):
    """As beside somebody's tests: slow for a fifth of the minutes, fast for a fifth."""
    loop = regression(run, STEPS, MINUTES, seconds=lambda step: 2.0 if step % 60 < 20 else 0.8)
    list(loop)
    replans = [event for event in run.read_log("events") if event["kind"] == "replan"]
    assert len(replans) <= 8 and 0.8 <= loop.pace.time / (60 * MINUTES) <= 1.15


@pytest.mark.parametrize("count", [1, 3, 8, 40])
@pytest.mark.parametrize(
    "turns", [[], [(62, 1225), (211, 943), (245, 743), (299, 1101), (435, 835)], [(500, 3000)], [(10, 15)]]
)
def test_milestones_are_neither_missed_nor_met_twice_however_often_a_run_is_replanned(turns, count):
    plan = StepPlan(1290, WSD(), 300.0)
    plan.turns += turns
    saves = Milestones(plan, count)
    found = [step for step in range(plan.steps + 1) if step in saves]
    wanted = milestones(1290, count, early=True)
    assert found[0] == 0 and found[-1] == plan.steps and plan.steps + 1 not in saves
    assert len(found) - 1 == len(wanted) or turns == [(10, 15)], "only where one step passes several are there fewer"
    assert [plan.progress(step) for step in (0, plan.steps)] == [0, pytest.approx(1290)]
    for place in wanted:
        assert any(plan.progress(step - 1) < place <= plan.progress(step) + 1e-5 for step in found[1:])
    if not turns:
        assert found[1:] == wanted and saves.left(0) == len(wanted)


@pytest.mark.parametrize("schedule", [WSD(), Cosine(), WSD(decay=1.0), WSD(warmup=0.5)])
def test_a_replanned_rate_has_no_jump_and_falls_to_the_end(schedule):
    plan = StepPlan(1000, schedule, 60.0)
    plan.turns += [(500, 700), (600, 650)]
    rates = [plan.rate(step) for step in range(650)]
    assert rates[:501] == pytest.approx([schedule.rate(step, 1000) for step in range(501)], abs=1e-12)
    assert all(0 <= a - b < 0.02 for a, b in itertools.pairwise(rates[500:])), "down, in small steps"
    assert rates[-1] == pytest.approx(schedule.rate(999, 1000))


@pytest.mark.parametrize("schedule", [WSD(), Cosine()])
@pytest.mark.parametrize("left", [1, 2, 3])
def test_the_last_update_has_the_final_rate_however_few_are_left(schedule, left):
    plan = StepPlan(1000, schedule, 60.0)
    plan.turns.append((600, 600 + left))
    rates = [plan.rate(step) for step in range(600 + left)]
    assert rates[599] == pytest.approx(schedule.rate(599, 1000))
    assert rates[-1] == pytest.approx(schedule.rate(999, 1000))


def test_a_replan_is_an_event_and_part_of_every_later_checkpoint(run):
    loop, _, events = ended(run, 150, 2.0)
    (event,) = [event for event in events if event["kind"] == "replan"]
    assert event["steps"] == loop.steps and "got slower" in event["message"] and "300" in event["message"]
    states = {c.step: json.loads((c.path / "state.json").read_text()) for c in run.checkpoints()}
    assert states[event["step"]]["plan"] == [[0, STEPS], [event["step"], loop.steps]], "saved at once"
    assert all(state["plan"] == [[0, STEPS]] for step, state in states.items() if step < event["step"])


def result(run):
    last = run.checkpoint("last")
    files = {name: last.manifest["files"][name]["sha256"] for name in ("model.safetensors", "optimizer.safetensors")}
    clock = ("time", "eta", "message")
    logs = [{k: v for k, v in r.items() if k not in clock} for r in run.read_log("metrics")]
    return last.step, files, logs


@pytest.mark.parametrize("back_to", ["last", "before the replan"])
@pytest.mark.parametrize("speed", [0.1, 1.0, 3.0])
def test_resume_reads_the_replan_and_never_the_clock(tmp_path, back_to, speed):
    """Interrupted after a re-plan and resumed on a machine of another speed, from either side of it: the same bytes."""
    straight, broken = Run.create(tmp_path / "straight", ""), Run.create(tmp_path / "broken", "")
    ended(straight, 150, 2.0)
    loop = regression(broken, STEPS, MINUTES, seconds=lambda step: 2.0 if step >= 150 else 1.0)
    for record in loop:
        if record["step"] >= loop.steps - 5 and record["log"] == "metrics":
            break
    replanned = next(event["step"] for event in broken.read_log("events") if event["kind"] == "replan")
    saved = [c for c in broken.checkpoints() if back_to == "last" or c.step < replanned]
    again = regression(broken, STEPS, MINUTES, seconds=lambda step: speed * (2.0 if step >= 150 else 1.0))
    again.restore(saved[-1])
    forget_after(broken, saved[-1].step)
    again.drop_later()
    list(again)
    assert again.plan.state() == json.loads((straight.checkpoint("last").path / "state.json").read_text())["plan"]
    assert result(broken) == result(straight)


def forget_after(run, step):
    """As if the process had been killed before any checkpoint after this step."""
    for checkpoint in run.checkpoints():
        if checkpoint.step > step:
            for file in checkpoint.path.iterdir():
                file.unlink()
            checkpoint.path.rmdir()


def test_a_replan_is_known_to_a_session_that_is_stopped_before_it_and_to_the_next(tmp_path):
    """Killed between a re-plan's event and its checkpoint; resumed, stopped before that step; resumed on a faster machine."""
    straight, broken = Run.create(tmp_path / "straight", ""), Run.create(tmp_path / "broken", "")
    slow = lambda step: 2.0 if step >= 150 else 1.0  # noqa: E731
    list(regression(straight, STEPS, MINUTES, seconds=slow))
    for record in regression(broken, STEPS, MINUTES, seconds=slow):
        if record["log"] == "events" and record["kind"] == "replan":
            break
    replanned = record["step"]
    forget_after(broken, replanned - 20)
    before = broken.checkpoint("last").step
    second = regression(broken, STEPS, MINUTES, seconds=slow)
    second.restore(broken.checkpoint("last"))
    second.drop_later()
    assert "replan" not in [event["kind"] for event in broken.read_log("events")]
    for _record in second:
        if second.step > before:
            second.stop()
    assert before < broken.checkpoint("last").step < replanned
    third = regression(broken, STEPS, MINUTES, seconds=lambda step: 0.1)
    third.restore(broken.checkpoint("last"))
    third.drop_later()
    list(third)
    assert third.plan.state() == json.loads((straight.checkpoint("last").path / "state.json").read_text())["plan"]
    assert result(broken)[1] == result(straight)[1]
