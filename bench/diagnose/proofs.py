"""For how many runs with planted faults the replay without a change is exact, and the remedy of the planted cause survives.

python -m bench.diagnose.proofs FOLDER [--most 3] [--all]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from statistics import median

from cloche.diagnose import Proof, first_divergence, prove_remedies, usual_remedies
from cloche.part import import_parts
from cloche.runs import Run

BACK = 50  # losses whose median a step is compared with


def rise(losses: list[float], diverged: int) -> int:
    """The step at which the loss left the level of the steps before for good, at or before its divergence."""
    step = diverged
    while step > 2 and losses[step - 2] > median(losses[max(0, step - 2 - BACK) : step - 2]):
        step -= 1
    return step


def losses_of(run: Run) -> list[float | None]:
    return [loss for record in run.read_log("steps") for loss in record["loss"]]


def proved(path: Path, every: bool) -> tuple[dict[str, object], Proof] | None:
    """What a run's proof shows; None of a run that did not diverge."""
    truth, run = json.loads((path / "truth.json").read_text()), Run.open(path)
    losses = losses_of(run)
    if (diverged := first_divergence(losses)) is None:
        return None
    onset = truth["onset"] or rise([float("inf") if loss is None else loss for loss in losses], diverged)
    begin = time.process_time()
    proof = prove_remedies(run, onset, None if every else usual_remedies(onset, truth["cause"]))
    own = [each.phrase for each in usual_remedies(onset, truth["cause"])]
    survived = {each.remedy.phrase for each in proof.proved if each.remedy}
    row = {"run": path.name, "cause": truth["cause"], "onset": onset, "diverged": diverged}
    row |= {"exact": not proof.refused, "null": [a.null.survives for a in proof.attempts if a.null]}
    row |= {"own": bool(survived & set(own)), "survived": sorted(survived), "seconds": time.process_time() - begin}
    return row, proof


def in_turn(folder: Path) -> list[Path]:
    """The runs that diverged: one of each cause in turn, of another family each time."""
    truths = {path.parent: json.loads(path.read_text()) for path in sorted(folder.glob("*/truth.json"))}
    counts, ranks = Counter[tuple[str, ...]](), dict[Path, tuple[int, int, str]]()
    families = sorted({truth["family"] for truth in truths.values()})
    for path, truth in truths.items():
        cause, family = truth["cause"], truth["family"]
        if cause != "none" and truth["diverged"] is not None:
            turn = (families.index(family) + sum(map(ord, cause))) % len(families)
            ranks[path] = (counts[cause, family], turn, cause)
            counts[cause, family] += 1
    return sorted(ranks, key=lambda path: ranks[path])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=360.0, help="CPU seconds after which no run is begun")
    parser.add_argument("--all", action="store_true", help="try the remedies of all causes")
    given = parser.parse_args()
    import_parts(["bench.diagnose.planted"], "the planted parts")
    rows = list[dict[str, object]]()
    for path in in_turn(given.folder):
        if time.process_time() > given.seconds:
            break
        if (found := proved(path, given.all)) is not None:
            rows.append(found[0])
            print(json.dumps(found[0]), flush=True)
            print("   ", found[1].sentence, flush=True)
    taken = {str(row["cause"]) for row in rows}
    for cause in [*sorted(taken), "all"]:
        own = [row for row in rows if cause in (row["cause"], "all")]
        exact, proofs = (sum(bool(row[key]) for row in own) for key in ("exact", "own"))
        print(f"{cause}: {len(own)} diverged, {exact} exact, {proofs} proved")


if __name__ == "__main__":
    main()
