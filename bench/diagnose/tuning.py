"""Chooses the constants of a rule of early warning on the tuning families, by random search, and estimates by leaving one
family out at a time what another family will give.

    python -m bench.diagnose.tuning --runs FOLDER/tuning --draws 200 --spread 2 --fixed stays

A rule is anything with `first(trace) -> step | None`; its constants are the numeric fields of a dataclass. Each draw is run
over each trace once: what is best without a family, and how it does there, are read off the same table.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median, quantiles
from typing import Any, Protocol

from bench.diagnose.traces import Trace, families, read_all
from bench.rounds import asked, table

Firsts = list[int | None]  # the step of the first alarm in each trace


class Detector(Protocol):
    def first(self, trace: Trace) -> int | None: ...


@dataclass(frozen=True)
class Range:
    """Where a constant may lie; drawn evenly in the logarithm of its distance from `origin`. whole: an integer."""

    low: float
    high: float
    whole: bool = False
    origin: float = 0.0

    def draw(self, rng: Random) -> float:
        low, high = self.low - self.origin, self.high - self.origin
        value = self.origin + math.copysign(math.exp(rng.uniform(math.log(abs(low)), math.log(abs(high)))), low)
        return round(value) if self.whole else float(f"{value:.4g}")


def around(constants: Any, spread: float = 2.0, fixed: Iterable[str] = ()) -> dict[str, Range]:
    """From 1/spread of each positive constant to `spread` times it; a ratio between 0.5 and 2 is taken as its distance from
    1, so that 1.1 may lie between 1.05 and 1.2."""
    found = {}
    for name, value in dataclasses.asdict(constants).items():
        if name in fixed or isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            continue
        ratio = isinstance(value, float) and 0.5 < value < 2 and value != 1
        origin = 1.0 if ratio else 0.0
        ends = sorted((origin + (value - origin) / spread, origin + (value - origin) * spread))
        found[name] = Range(*ends, whole=isinstance(value, int), origin=origin)
    return found


def draws(default: Any, space: Mapping[str, Range], count: int, seed: int = 0) -> list[Any]:
    """The default, and `count` random ones; draws that the dataclass refuses are drawn again."""
    rng, found = Random(seed), [default]
    while len(found) <= count:
        try:
            found.append(dataclasses.replace(default, **{name: each.draw(rng) for name, each in space.items()}))
        except ValueError:
            continue
    return found


# ---- grading


@dataclass(frozen=True)
class Grade:
    """How a rule did. leads: steps from the first alarm to the divergence, of the diverged runs that it warned of in time.
    early: diverged runs in which it fired before the fault began, which are false alarms. false, false_hard: healthy runs in
    which it fired. other: runs with a fault that did not diverge, in which it fired."""

    diverged: int
    leads: tuple[int, ...]
    early: int
    healthy: int
    false: int
    hard: int
    false_hard: int
    others: int
    other: int

    @property
    def warned(self) -> int:
        return len(self.leads)

    @property
    def lead(self) -> float | None:
        return median(self.leads) if self.leads else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        if not self.leads:
            return None
        cuts = quantiles(self.leads, n=4, method="inclusive") if len(self.leads) > 1 else [self.leads[0]] * 3
        return cuts[0], cuts[2]

    def record(self) -> dict[str, Any]:
        plain = {name: value for name, value in dataclasses.asdict(self).items() if name != "leads"}
        long = sum(lead >= 10 for lead in self.leads)
        return {"warned": self.warned, "lead": self.lead, "quartiles": self.quartiles, "lead_10": long, **plain}


def too_early(first: int, trace: Trace) -> bool:
    """Whether an alarm came before anything was wrong."""
    return bool(trace.truth.onset) and first < (trace.truth.onset or 0)


def lead_of(first: int | None, trace: Trace) -> int | None:
    """Steps from the first alarm to the divergence; None if it came before the fault or no sooner than the divergence."""
    if first is None or trace.diverged is None or too_early(first, trace) or first >= trace.diverged:
        return None
    return trace.diverged - first


def grade(firsts: Sequence[int | None], traces: Sequence[Trace]) -> Grade:
    """Grades first alarms. A healthy run that diverged all the same counts as a diverged one."""
    pairs = list(zip(firsts, traces, strict=True))
    gone = [(first, trace) for first, trace in pairs if trace.diverged is not None]
    there = [(first, trace) for first, trace in pairs if trace.diverged is None]
    plain, hard = ([f for f, t in there if t.healthy and t.truth.hard == asked] for asked in (False, True))
    others = [first for first, trace in there if not trace.healthy]
    leads = (lead_of(first, trace) for first, trace in gone)
    return Grade(
        diverged=len(gone),
        leads=tuple(lead for lead in leads if lead is not None),
        early=sum(first is not None and too_early(first, trace) for first, trace in gone),
        healthy=len(plain),
        false=_fired(plain),
        hard=len(hard),
        false_hard=_fired(hard),
        others=len(others),
        other=_fired(others),
    )


def _fired(firsts: Iterable[int | None]) -> int:
    return sum(first is not None for first in firsts)


def utility(found: Grade, lead: int = 10, allowed: float = 0.05) -> float:
    """What is tuned for. A warned run gives up to 1: half for the warning, half for a lead of up to `lead` steps; the sum is
    divided by the number of diverged runs. False alarms cost their share of the healthy runs, and four times as much past
    the share that is `allowed`."""
    gain = sum(0.5 + 0.5 * min(each, lead) / lead for each in found.leads) / max(1, found.diverged)
    false = (found.false + found.false_hard) / max(1, found.healthy + found.hard)
    return gain - false - 3 * max(0.0, false - allowed)


# ---- search


@dataclass(frozen=True)
class Search:
    """settings: those drawn, the default first; firsts: [setting][trace]."""

    settings: list[Any]
    firsts: list[Firsts]
    traces: list[Trace]
    utility: Callable[[Grade], float] = utility

    def grades(self, keep: Callable[[Trace], bool] = lambda _: True) -> list[Grade]:
        """Of each setting on the traces that are kept."""
        chosen = [i for i, trace in enumerate(self.traces) if keep(trace)]
        traces = [self.traces[i] for i in chosen]
        return [grade([row[i] for i in chosen], traces) for row in self.firsts]

    def best(self, keep: Callable[[Trace], bool] = lambda _: True) -> int:
        """The number of the setting of the highest utility; the earliest of equal ones."""
        values = [self.utility(each) for each in self.grades(keep)]
        return values.index(max(values))

    def left_out(self) -> tuple[Grade, dict[str, Grade]]:
        """Each family graded by the setting that is best on the others: all of them together, and by family."""
        chosen: Firsts = [None] * len(self.traces)
        by_family = {}
        for name in families(self.traces):
            best = self.best(lambda trace, name=name: trace.truth.family != name)  # type: ignore[misc]
            inside = [i for i, trace in enumerate(self.traces) if trace.truth.family == name]
            for i in inside:
                chosen[i] = self.firsts[best][i]
            by_family[name] = grade([chosen[i] for i in inside], [self.traces[i] for i in inside])
        return grade(chosen, self.traces), by_family


def search(
    make: Callable[[Any], Detector],
    default: Any,
    space: Mapping[str, Range],
    traces: list[Trace],
    count: int,
    seed: int = 0,
) -> Search:
    """Runs the default and `count` draws of its constants over the traces that tell: the diverged ones, as far as an alarm is
    of use, and the healthy ones. make(constants) is a detector."""
    telling = [trace for trace in traces if trace.healthy or trace.diverged is not None]
    shown = [trace if trace.diverged is None else trace.until(trace.diverged - 1) for trace in telling]
    settings = draws(default, space, count, seed)
    firsts = [[detector.first(trace) for trace in shown] for detector in map(make, settings)]
    return Search(settings, firsts, telling)


def cell(found: Grade) -> list[str]:
    """A grade as cells of a table: see HEADER."""
    low, high = found.quartiles or (0, 0)
    lead = "" if found.lead is None else f"{found.lead:g} ({low:g}..{high:g})"
    return [
        f"{found.warned} of {found.diverged}",
        lead,
        str(sum(each >= 10 for each in found.leads)),
        str(found.early),
        f"{found.false} of {found.healthy}",
        f"{found.false_hard} of {found.hard}",
        f"{found.other} of {found.others}",
    ]


HEADER = ["warned of diverged", "lead", "by 10", "too early", "false", "false, hard", "other faults"]


def main() -> None:
    """Tunes our own detector; --fixed names constants to leave as they are."""
    from bench.diagnose.replay import Replay
    from cloche.train import Tolerance

    options = asked(__doc__, runs="", draws=100, spread=1.5, fixed="", seed=0)
    if not options.runs:
        print("left out: name by --runs a folder of runs that `python -m bench.diagnose.corpus` made")
        return
    traces = read_all(options.runs)
    space = around(Tolerance(), options.spread, options.fixed.split(","))
    begin = time.process_time()
    found = search(Replay, Tolerance(), space, traces, options.draws, options.seed)
    grades = found.grades()
    order = sorted(range(len(grades)), key=lambda i: -found.utility(grades[i]))
    lines = [[f"{i}: {found.settings[i]}", f"{found.utility(grades[i]):.3f}", *cell(grades[i])] for i in order[:10]]
    together, by_family = found.left_out()
    rows = [["default", f"{found.utility(grades[0]):.3f}", *cell(grades[0])], *lines]
    rows += [[f"without {name}, on it", "", *cell(each)] for name, each in by_family.items()]
    rows.append(["families left out, together", f"{found.utility(together):.3f}", *cell(together)])
    print(table(["constants", "utility", *HEADER], rows))
    print(f"{(time.process_time() - begin) / len(grades):.2f} CPU seconds a setting, {len(traces)} runs")


if __name__ == "__main__":
    main()
