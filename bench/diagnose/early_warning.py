"""Early warning graded: ours, and rules that others have published, on the traces of runs with planted faults, with constants
as they ship and tuned ones.

    python -m bench.setup early_warning
    bench/.venvs/early_warning/bin/python -m bench.diagnose.early_warning --runs FOLDER --draws 100    # 0: tuned as before

FOLDER has the runs of `bench.diagnose.corpus`, those of the tuning families in tuning/ and the others in held_out/. A run has
diverged at the first step whose loss, and those of the 19 steps after it, are above 1.5 times the median of the 50 before
(`first_divergence`). A rule has warned if its first alarm comes strictly before that step, and not before the fault began; its
lead is the steps between. An alarm in a healthy run is false; hard ones (high stable rates, spikes that recover, changes of
data) are counted apart. Runs with a fault that do not diverge belong to neither.

Each rule is also tuned: the same number of random draws of its constants on the tuning families, for the same utility. What
leaving out one family at a time gives is beside it; the held-out families are then graded with the constants as they are.
Ours ship tuned; "tuned" has them drawn anew like the others'. Our alarms are replayed from the per-step log, and must be those
that each held-out run has in its events.

Left out: SPAM (arXiv 2501.06842), whose rule is on single elements of the gradient, which no log has.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.diagnose.peers import LOSSLINT, OURSELVES, PUBLISHED, TRAINSCOPE, Rule
from bench.diagnose.replay import Replay, disagreements
from bench.diagnose.traces import Trace, families, read_all
from bench.diagnose.tuning import HEADER, Detector, Firsts, around, cell, grade, search
from bench.rounds import RESULTS, asked, table, write
from cloche.train import Tolerance


def tuned(rule: Rule | Replay, traces: list[Trace], draws: int, seed: int) -> dict[str, Any] | None:
    """The best of `draws` random constants on some runs, and the grades when families are left out; None for a rule without
    constants."""
    ours = isinstance(rule, Replay)
    default, space = (Tolerance(), around(Tolerance())) if ours else (rule, rule.space)
    if not space:
        return None
    found = search(Replay if ours else lambda x: x, default, space, traces, draws, seed)
    together, by_family = found.left_out()
    left = {name: each.record() for name, each in by_family.items()}
    constants = asdict(found.settings[found.best()])
    return {"constants": constants, "left_out": {**together.record(), "by_family": left, "cells": cell(together)}}


def with_constants(rule: Rule | Replay, constants: dict[str, Any]) -> Rule | Replay:
    return Replay(Tolerance(**constants)) if isinstance(rule, Replay) else type(rule)(**constants)


def rules() -> list[Rule | Replay]:
    """Those that can be run here; says which cannot."""
    kinds = [*OURSELVES, *PUBLISHED]
    for package, more in (("trainscope", TRAINSCOPE), ("losslint", LOSSLINT)):
        if importlib.util.find_spec(package):
            kinds += more
        else:
            print(f"{package} is left out: it is not installed here (python -m bench.setup early_warning)")
    return [Replay(), *(kind() for kind in kinds)]


def timed(rule: Detector, traces: Sequence[Trace]) -> tuple[Firsts, float]:
    """First alarms, and CPU microseconds per step up to them."""
    [trace.optimizer for trace in traces]  # read from the recipe once, which is no part of the rule
    begin = time.process_time()
    firsts = [rule.first(trace) for trace in traces]
    steps = sum(first or len(trace) for first, trace in zip(firsts, traces, strict=True))
    return firsts, 1e6 * (time.process_time() - begin) / max(1, steps)


def report(rule: Detector, traces: Sequence[Trace]) -> dict[str, Any]:
    """All that is reported of a rule on some runs: as a whole, by cause and by family."""
    firsts, cost = timed(rule, traces)
    parts: dict[str, Any] = {}
    for key, names in (("cause", sorted({t.truth.cause for t in traces})), ("family", families(traces))):
        parts[f"by_{key}"] = {}
        for name in names:
            chosen = [i for i, trace in enumerate(traces) if getattr(trace.truth, key) == name]
            found = grade([firsts[i] for i in chosen], [traces[i] for i in chosen])
            parts[f"by_{key}"][name] = found.record()
    found = grade(firsts, traces)
    return {**found.record(), "microseconds": cost, **parts, "cells": [*cell(found), f"{cost:.1f}"]}


def main() -> None:
    options = asked(__doc__, runs="", draws=100, seed=0)
    if not options.runs:
        print("left out: name by --runs the folder of the runs that `python -m bench.diagnose.corpus` made")
        return
    sides = {name: found for name in ("tuning", "held_out") if (found := read_all(Path(options.runs) / name))}
    if "tuning" not in sides:
        raise SystemExit(f"there are no finished runs in {options.runs}/tuning")
    record: dict[str, Any] = {
        "draws": options.draws or "as before",
        "runs": {name: len(found) for name, found in sides.items()},
    }
    rows: dict[str, list[list[str]]] = {name: [] for name in sides}
    found: dict[str, Any] = {}
    before = json.loads((RESULTS / "early_warning.json").read_bytes())["rules"] if options.draws == 0 else {}
    for rule in rules():
        entry: dict[str, Any] = {"source": rule.source}
        best = before[rule.name].get("best") if before else tuned(rule, sides["tuning"], options.draws, options.seed)
        for label, version in {"default": rule, "tuned": best and with_constants(rule, best["constants"])}.items():
            for side, traces in sides.items() if version else ():
                entry.setdefault(label, {})[side] = result = report(version, traces)
                rows[side].append([rule.name + ", tuned" * (label == "tuned"), *result.pop("cells")])
        if best:
            rows["tuning"].append([f"{rule.name}, families left out", *best["left_out"]["cells"], ""])
        found[rule.name] = {**entry, "best": best}
    for side, lines in rows.items():
        print(f"\n{side}: {len(sides[side])} runs of {', '.join(families(sides[side]))}")
        print(table(["rule", *HEADER, "us per step"], lines))
    # The tuning runs were made before the constants were chosen.
    record["disagree"] = disagree = disagreements(sides.get("held_out", []))
    if "held_out" in sides:
        print(f"the held-out runs' own warnings are those of the replay in all but {len(disagree)}", *sorted(disagree))
    path = write("early_warning", {**record, "rules": found}, packages="numpy trainscope losslint")
    if disagree:
        raise SystemExit(f"{path}: these runs were watched with other constants; make them again")


if __name__ == "__main__":
    main()
