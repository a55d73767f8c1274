"""trainscope attached to the runs themselves: its rule for the kurtosis of activations needs a value of every step, which no
health log has, so each run is replayed from its first checkpoint, bit for bit, with TrainScope measuring beside it. A run takes
about 20 CPU seconds, so `--most` of each cause and family are graded.

    bench/.venvs/early_warning/bin/python -m bench.diagnose.attached --runs FOLDER --most 1
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bench.diagnose.planted  # noqa: F401  recipes of planted faults name its parts
from bench.diagnose.peers import Rule
from bench.diagnose.traces import Trace, read_all
from bench.diagnose.tuning import HEADER, cell, grade
from bench.rounds import asked, table, write
from cloche.runs import Run
from cloche.train import Replay, aside


@dataclass(frozen=True)
class Kurtosis(Rule):
    """trainscope's report: the kurtosis of a block's activations is more than 3 robust standard deviations above the median of
    its first 40 values, three times in a row; it can be told at the third. every: steps between measurements (5 as it ships,
    of which the rule sees too few)."""

    name, source = "trainscope: kurtosis crossing", "trainscope 1.8.1"

    every: int = 1

    def first(self, trace: Trace) -> int | None:
        from trainscope import TrainScope
        from trainscope.analysis import run_signal_signature
        from trainscope.core.config import TrainScopeConfig

        assert trace.folder is not None
        logging.getLogger("trainscope").setLevel(logging.ERROR)
        run = Run.open(trace.folder)
        until = (trace.diverged or len(trace) + 1) - 1  # nothing later counts
        with tempfile.TemporaryDirectory() as folder, aside():
            config = TrainScopeConfig(run_dir=folder, run_name="scope", activation_metrics_every_n_steps=self.every)
            replay = Replay(run, run.checkpoint(0), until)
            trainer = replay.restart(monitors=False)
            parts = trainer.optimizer.parts
            scope = TrainScope(trainer.net, parts[0], config=config).attach()
            # Its step belongs between the gradient and the update.
            parts[0].register_step_pre_hook(lambda *_: scope.step(float(trace.loss[trainer.step - 1])) and None)
            replay.advance(until)
            if replay.differing:
                raise ValueError(
                    f"{trace.folder}: the replay is another run than the log from step {replay.differing[0]} on"
                )
            scope.detach()
            signs = asyncio.run(run_signal_signature(Path(folder) / "scope"))
        begin = signs["first_steps"].get("kurtosis")
        return None if begin is None else begin + 1 + 2


def main() -> None:
    options = asked(__doc__, runs="", most=1)
    if not options.runs:
        print("left out: name by --runs a folder of runs that `python -m bench.diagnose.corpus` made")
        return
    kinds: dict[tuple[object, ...], list[Trace]] = {}
    for trace in read_all(options.runs):
        if trace.healthy or trace.diverged is not None:
            kinds.setdefault((trace.truth.family, trace.truth.cause, trace.truth.hard), []).append(trace)
    traces = [trace for found in kinds.values() for trace in found[: options.most]]
    firsts = []
    for trace in traces:
        firsts.append(Kurtosis().first(trace))
        print(f"{trace.name}: alarm {firsts[-1]}, fault {trace.truth.onset}, diverged {trace.diverged}", flush=True)
    found = grade(firsts, traces)
    print(table(HEADER, [cell(found)]))
    write("attached", {"rule": Kurtosis.name, **found.record()}, packages="torch trainscope")


if __name__ == "__main__":
    main()
