"""`cloche why` graded on runs with planted faults: macro-F1 over the causes, and no fault among them.

    python -m bench.diagnose.causes FOLDER --fit       fits the constants on FOLDER/tuning and prints those that changed
    python -m bench.diagnose.causes FOLDER             grades the constants as they are, on FOLDER/tuning
    python -m bench.diagnose.causes FOLDER --held-out  on FOLDER/held_out, with families that the constants have not seen

FOLDER has the runs of `bench.diagnose.corpus`. The verdict's questions are asked once of each run, and the answers kept in
FOLDER/answers; constants are fitted on these alone: by turns, each is multiplied by a few factors, and what raises the mean
logarithm of the confidence in the planted cause, less a penalty for leaving the constants of before, is kept. What leaving out
one family at a time gives is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.rounds import write
from cloche.diagnose.why.causes import NONE, UNNAMED, confidences, values_of
from cloche.diagnose.why.constants import CONSTANTS, Constant
from cloche.diagnose.why.facts import gather
from cloche.part import import_parts
from cloche.runs import Run

FACTORS = (0.6, 0.8, 0.9, 1.1, 1.25, 1.6)
PENALTY = 0.01  # of the squared logarithm of by what a constant was multiplied
SWEEPS = 6
SLOPES = (1.0, 16.0)
LARGEST = 0.995  # weight


@dataclass(frozen=True)
class Graded:
    """One run: its family, the cause that was planted, and the answers to the verdict's questions."""

    name: str
    family: str
    cause: str
    hard: bool
    onset: int | None
    found: int | None
    values: dict[str, float | None]


def read(folder: Path, answers: Path, again: bool) -> list[Graded]:
    runs = []
    for path in sorted(folder.iterdir()):
        if not (path / "truth.json").exists():
            continue
        truth = json.loads((path / "truth.json").read_text())
        kept = answers / folder.name / f"{path.name}.json"
        if again or not kept.exists() or kept.stat().st_mtime < (path / "truth.json").stat().st_mtime:
            kept.parent.mkdir(parents=True, exist_ok=True)
            facts = gather(Run.open(path))
            kept.write_text(json.dumps({"values": values_of(facts), "onset": facts.onset}))
        said = json.loads(kept.read_text())
        about = truth["family"], truth["cause"], truth["hard"], truth.get("onset")
        runs.append(Graded(path.name, *about, said["onset"], said["values"]))
    return runs


def verdict(run: Graded, constants: Mapping[str, Constant]) -> tuple[str, float]:
    found = confidences(run.values, constants)
    del found[UNNAMED]
    best = max(found, key=found.__getitem__)
    return best, found[best]


def macro_f1(runs: Sequence[Graded], said: Sequence[str]) -> tuple[float, dict[str, float]]:
    """The mean of F1 over the causes that were planted, and each."""
    scores = {}
    for cause in sorted({run.cause for run in runs}):
        right = sum(run.cause == name == cause for run, name in zip(runs, said, strict=True))
        given, there = Counter(said)[cause], Counter(run.cause for run in runs)[cause]
        scores[cause] = 2 * right / (given + there)
    return sum(scores.values()) / len(scores), scores


def loss(runs: Sequence[Graded], constants: Mapping[str, Constant]) -> float:
    nats = [-math.log(max(confidences(run.values, constants)[run.cause], 1e-3)) for run in runs]
    by_cause = Counter(run.cause for run in runs)
    fit = sum(n / by_cause[run.cause] for n, run in zip(nats, runs, strict=True)) / len(by_cause)
    moved = sum(
        math.log(a / b) ** 2 for name in constants for a, b in zip(constants[name], CONSTANTS[name], strict=True)
    )
    return fit + PENALTY * moved


def fit(runs: Sequence[Graded]) -> dict[str, Constant]:
    """The constants that explain these runs best."""
    constants = dict(CONSTANTS)
    best = loss(runs, constants)
    for _ in range(SWEEPS):
        before = best
        for name in constants:
            for field in ("threshold",) if name.startswith("weight") else ("threshold", "slope"):
                for factor in FACTORS:
                    value = getattr(constants[name], field) * factor
                    if field == "slope" and not SLOPES[0] <= value <= SLOPES[1]:
                        continue
                    if name.startswith("weight"):
                        value = min(value, LARGEST)
                    changed = constants | {name: constants[name]._replace(**{field: value})}
                    if (now := loss(runs, changed)) < best - 1e-6:
                        best, constants = now, changed
        if before - best < 1e-4:
            break
    return constants


def left_out(runs: Sequence[Graded]) -> list[str]:
    """What each run is said to be by constants fitted without its family."""
    fitted = {family: fit([r for r in runs if r.family != family]) for family in {run.family for run in runs}}
    return [verdict(run, fitted[run.family])[0] for run in runs]


def report(runs: Sequence[Graded], said: Sequence[str]) -> dict[str, float]:
    score, by_cause = macro_f1(runs, said)
    for cause, value in by_cause.items():
        others = Counter(name for run, name in zip(runs, said, strict=True) if run.cause == cause and name != cause)
        print(f"{cause:16} {value:.2f}  of {sum(run.cause == cause for run in runs)}", dict(others) or "")
    healthy = [(run, name) for run, name in zip(runs, said, strict=True) if run.cause == NONE]
    false = sum(name != NONE for _, name in healthy)
    print(f"macro-F1 {score:.3f}; {false} of {len(healthy)} healthy runs are said to have a fault")
    return {"macro_f1": score, "false": false, "healthy": len(healthy), "runs": len(runs), **by_cause}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--fit", action="store_true")
    asked.add_argument("--held-out", action="store_true")
    asked.add_argument("--answers", type=Path, help="a folder for them, in place of FOLDER/answers")
    asked.add_argument("--again", action="store_true", help="ask the questions again")
    options = asked.parse_args()
    torch.set_num_threads(1)
    import_parts(["bench.diagnose.planted"])
    side = "held_out" if options.held_out else "tuning"
    runs = read(options.folder / side, options.answers or options.folder / "answers", options.again)
    constants = fit(runs) if options.fit else dict(CONSTANTS)
    said = [verdict(run, constants) for run in runs]
    for run, (name, confidence) in zip(runs, said, strict=True):
        if name != run.cause:
            print(f"{run.name:40} is {run.cause}{' (hard)' if run.hard else ''}, said {name} at {confidence:.0%}")
    figures = report(runs, [name for name, _ in said])
    if options.fit:
        print("with its family left out:")
        report(runs, left_out(runs))
        for name, constant in constants.items():
            print(f'    "{name}": Constant({constant.threshold:.3g}, {constant.slope:.3g}),')
    else:
        write(f"diagnose_causes_{side}", figures)


if __name__ == "__main__":
    main()
