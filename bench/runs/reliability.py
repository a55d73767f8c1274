"""What happens to runs that are killed, doubled, starved and damaged, to files from strangers, and to requests from strangers.

    python -m bench.runs.reliability            about a quarter of an hour: 100 kills and the rest; results/reliability.json
    python -m bench.runs.reliability --quick    a minute or two: 10 kills and a few of each

Everything is drawn by `--seed`; a failure is printed with what was done, and the exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.rounds import RESULTS, machine, table, write
from bench.runs.forks import bounded, command, import_everything
from bench.runs.reliability_kills import Laboratory, deletions, doubles, full_disks, kills, last_line

if TYPE_CHECKING:
    from bench.runs.faults import Fault

MODULES = (
    *("torch._dynamo", "rich.console", "rich.progress"),  # what torch.optim and the progress lines import late
    *(
        "cloche.cli",
        "cloche.cli.app",
        "cloche.cli.running.grow",
        "cloche.cli.running.inside",
        "cloche.train",
        "cloche.interp",
        "cloche.microscope",
    ),
    *(
        "cloche.data",
        "cloche.glass",
        "cloche.runs",
        "cloche.text",
        "cloche.sparse",
        "cloche.sparse.saes",
        "cloche.sparse.sindy",
    ),
)
COUNTS = {"kills": 100, "doubles": 25, "disks": 25, "deletions": 50, "faults": 300, "files": 600, "requests": 1000}
QUICK = {"kills": 10, "doubles": 2, "disks": 2, "deletions": 3, "faults": 20, "files": 40, "requests": 60}
READING = 10  # CPU seconds that reading one small hostile file may take, compilation of nothing included
MEMORY = 2048  # megabytes it may take


def tried(name: str, trials: Iterable[tuple[str, Callable[[], str]]]) -> dict[str, Any]:
    """Runs the trials of one kind; counts how they ended and prints those that did not hold."""
    held, skipped, failures = 0, 0, []
    begin = time.monotonic()
    for what, trial in trials:
        result = trial()
        if result == "held":
            held += 1
        elif result.startswith("skipped"):
            skipped += 1
        else:
            failures.append(what)
            print(f"{name}: {what}: {result}", flush=True)
    count = held + len(failures)
    print(f"{name}: {held} of {count} held, {time.monotonic() - begin:.0f} s", flush=True)
    return {"tried": count, "held": held, "skipped": skipped, "failures": failures}


def faults(lab: Laboratory, count: int, seed: int) -> Iterable[tuple[str, Callable[[], str]]]:
    """Damage to a finished run, which `verify` must find."""
    from bench.runs.faults import faults as drawn
    from bench.runs.faults import snapshot

    before = snapshot(lab.straight)
    for fault in islice(drawn(lab.straight, seed), count):

        def trial(fault: Fault = fault) -> str:
            run = lab.copy("damaged")
            try:
                fault.apply(run)
                outcome = lab.run(bounded(command("verify", run), READING))
                right = int(snapshot(run) != before)  # a draw may have changed nothing, and then nothing must be found
                return "held" if outcome.clean and outcome.code == right else last_line(outcome)
            finally:
                shutil.rmtree(run, ignore_errors=True)

        yield fault.description, trial


def files(lab: Laboratory, count: int, seed: int) -> Iterable[tuple[str, Callable[[], str]]]:
    """Damaged and hostile files, which are read or refused with one sentence."""
    from bench.runs.hostile_files import hostile
    from bench.runs.hostile_specimens import specimens

    good = specimens(lab)
    for specimen in good:  # the control: what nobody has spoiled is read
        outcome = lab.run(lambda: specimen.read(specimen.path))  # noqa: B023
        if outcome.code != 0:
            raise SystemExit(f"{specimen.name} is not read although nothing is wrong with it: {outcome.output}")
    for what, read in hostile(good, count, lab.place("hostile"), seed):

        def trial(read: Callable[[], object] = read) -> str:
            outcome = lab.run(bounded(_refusing(read), READING, MEMORY))
            return "held" if outcome.clean else last_line(outcome) if outcome.code >= 0 else f"signal {-outcome.code}"

        yield what, trial


def _refusing(read: Callable[[], object]) -> Callable[[], object]:
    """`read`, in which a ClocheError of one line is a refusal and every other exception a traceback."""

    def work() -> object:
        from cloche.errors import ClocheError

        try:
            return read()
        except ClocheError as error:
            if "\n" in str(error).strip() or not str(error).strip():
                raise AssertionError(f"not one sentence: {error}") from error
            return None

    return work


def requests(lab: Laboratory, count: int, seed: int) -> Iterable[tuple[str, Callable[[], str]]]:
    """Hostile requests to the microscope over the run that nothing happened to."""
    from bench.microscope.hostile_requests import complaint, hostile_requests, send

    address = lab.place("address")

    def serve() -> None:
        from cloche.microscope.serving.server import make_server

        server, listener, _ = make_server(lab.straight)
        address.write_text(f"{listener.getsockname()[1]} {server.config.app.state.token}")
        server.run(sockets=[listener])

    server = lab.start(serve)
    try:
        while not address.exists() or not address.read_text():
            time.sleep(0.05)
        port, token = address.read_text().split()
        for request in hostile_requests(seed, count, token):
            yield str(request)[:300], lambda: complaint(send(int(port), request)) or "held"  # noqa: B023
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few of each, and no results file")
    parser.add_argument("--only", choices=list(COUNTS), nargs="+", help="these kinds alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="this many times the counts")
    arguments = parser.parse_args()
    import_everything(MODULES)
    counts = {name: max(1, round(arguments.scale * n)) for name, n in (QUICK if arguments.quick else COUNTS).items()}
    kinds = {
        "kills": kills,
        "doubles": doubles,
        "disks": full_disks,
        "deletions": deletions,
        "faults": faults,
        "files": files,
        "requests": requests,
    }
    with tempfile.TemporaryDirectory() as folder:
        lab = Laboratory(Path(folder))
        print(f"a run of {lab.seconds:.1f} CPU seconds and {lab.changes} changes to its folder", flush=True)
        wanted = arguments.only or list(kinds)
        found = {name: tried(name, kinds[name](lab, counts[name], arguments.seed)) for name in wanted}
    print(table(["", "tried", "held"], [[name, str(row["tried"]), str(row["held"])] for name, row in found.items()]))
    if not arguments.quick:
        before = json.loads((RESULTS / "reliability.json").read_text())["found"] if arguments.only else {}
        write("reliability", {"machine": machine(), "seed": arguments.seed, "found": before | found})
    raise SystemExit(any(row["failures"] for row in found.values()))


if __name__ == "__main__":
    main()
