"""Runs that are killed, doubled, starved of disk or robbed of their files, and what is left of them.

Each trial ends in one word: "held", or what went wrong. A killed run must go on with `resume` (or with the same `pretrain`,
where it was killed before it was a run) to the same weights, logs and samples as the run that nothing happened to.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.runs.forks import Child, Outcome, command, counted, killed_at, watched

RECIPE = (
    *("model.width=48", "model.body.depth=2", "model.body.block.map.hidden=64", "tokenizer.vocab=300"),
    *("run.length=32", "run.batch=4", "run.steps=12", "evaluate.tokens=512", "evaluate.sample_tokens=8"),
    *(
        "run.threads=1",
        "run.precision=fp32",
        "log.every=2",
        "log.health_every=4",
        "checkpoint.count=3",
        "evaluate.look=true",
    ),
)
CLOCK = {"time", "tokens_per_second", "mfu", "eta", "chain"}
Trial = Callable[[], str]


class Laboratory:
    """A folder of trials over one recipe, with the run that nothing happened to as their yardstick."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._number = folder, 0
        text = Path(sysconfig.get_path("stdlib")) / "json"
        self.grow = ("--data", text, "--set", *RECIPE)
        self.straight = folder / "straight"
        note = folder / "changes"
        outcome = self.run(counted(command("pretrain", "--out", self.straight, *self.grow), self.straight, note))
        if outcome.code != 0:
            raise SystemExit(f"the run that nothing happens to failed: {outcome.output}")
        self.changes, self.seconds = len(note.read_bytes()), outcome.cpu
        self.expected = fingerprint(self.straight)

    def run(self, work: Callable[[], object], seconds: float = 120.0) -> Outcome:
        return self.start(work).wait(seconds)

    def start(self, work: Callable[[], object]) -> Child:
        self._number += 1
        return Child(work, self.folder / f"output-{self._number}.txt")

    def place(self, name: str) -> Path:
        self._number += 1
        return self.folder / f"{name}-{self._number}"

    def pretrain(self, out: Path) -> Callable[[], object]:
        return command("pretrain", "--out", out, *self.grow)

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.straight, self.place(name), symlinks=True))

    def finished_like_straight(self, run: Path) -> str:
        """Goes on with a run until it is finished; "held", or how it differs from the run that nothing happened to."""
        again = command("resume", run) if (run / "recipe.toml").exists() else self.pretrain(run)
        outcome = self.run(again)
        if outcome.code != 0:
            return f"could not go on: {last_line(outcome)}"
        return self.judged(run)

    def judged(self, run: Path) -> str:
        found = fingerprint(run)
        different = [key for key in self.expected if found.get(key) != self.expected[key]]
        if different:
            return f"went on to other {', '.join(different)}"
        checked = self.run(command("verify", run))
        if checked.code != 0:
            return f"verify: {last_line(checked)}"
        left = [path.name for path in run.rglob(".writing-*")]
        return f"left {left[0]} behind" if left else "held"


def fingerprint(run: Path) -> dict[str, object]:
    """All of a run that must not depend on what happened to it on the way."""
    checkpoints = sorted((run / "checkpoints").glob("step-*"))
    if not checkpoints:
        return {}
    manifest = json.loads((checkpoints[-1] / "manifest.json").read_text())
    logs = {name: _records(run / "log" / f"{name}.jsonl") for name in ("metrics", "health", "samples")}
    ends = [r["kind"] for r in _records(run / "log" / "events.jsonl") if r["kind"] in ("finished", "stopped")]
    return {
        "weights": {name: manifest["files"][name]["sha256"] for name in ("model.safetensors", "optimizer.safetensors")},
        "checkpoints": [path.name for path in checkpoints],
        **logs,
        "end": ends[-1:],
        "kinds of file": sorted({path.parent.name for path in run.glob("findings/*/*.json")})
        + sorted(path.name for path in run.glob("dictionaries/[!.]*")),
    }


def _records(path: Path) -> list[dict[str, object]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCK} for line in lines]


def last_line(outcome: Outcome) -> str:
    if outcome.timed_out:
        return "it hung"
    lines = [line for line in outcome.output.splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit {outcome.code} without a word")[:300]


# ---- the trials


def kills(lab: Laboratory, count: int, seed: int) -> Iterator[tuple[str, Trial]]:
    """kill -9 just before a change to the folder, drawn evenly from all of them; a third are killed again on the way back."""
    draw = random.Random(f"kills {seed}")
    for _ in range(count):
        points = [draw.randint(1, lab.changes) for _ in range(draw.choice((1, 1, 2)))]

        def trial(points: list[int] = points) -> str:
            run = lab.place("killed")
            work = lab.pretrain(run)
            for point in points:
                lab.run(killed_at(work, run, point))
                work = command("resume", run) if (run / "recipe.toml").exists() else lab.pretrain(run)
            return lab.finished_like_straight(run)

        yield f"killed before change {' then '.join(map(str, points))}", trial


def doubles(lab: Laboratory, count: int, seed: int) -> Iterator[tuple[str, Trial]]:
    """Two or three processes at one folder: exactly one does the work, the others leave with a sentence, nothing is lost."""
    draw = random.Random(f"doubles {seed}")
    for _ in range(count):
        kind, several = draw.choice(("pretrain", "resume", "pretrain and resume")), draw.choice((2, 2, 3))
        later = draw.uniform(0, 0.7) * lab.seconds

        def trial(kind: str = kind, several: int = several, later: float = later) -> str:
            run = lab.place("doubled")
            if kind != "pretrain":
                lab.run(killed_at(lab.pretrain(run), run, lab.changes // 2))
            works = [lab.pretrain(run) if kind == "pretrain" else command("resume", run)]
            works += [command("resume", run) if kind != "pretrain" else lab.pretrain(run)] * (several - 1)
            if kind == "pretrain and resume":
                works[-1] = lab.pretrain(run)
            children = [lab.start(works[0])]
            subprocess.run(["sleep", f"{later:.2f}"], check=True)
            children += [lab.start(work) for work in works[1:]]
            outcomes = [child.wait() for child in children]
            if not all(outcome.clean for outcome in outcomes):
                return next(last_line(outcome) for outcome in outcomes if not outcome.clean)
            if all(outcome.code for outcome in outcomes):
                return f"all of them failed: {last_line(outcomes[0])}"
            return lab.judged(run)

        yield f"{several} of {kind}, {later:.1f} s apart", trial


def full_disks(lab: Laboratory, count: int, seed: int) -> Iterator[tuple[str, Trial]]:
    """A file system that is too small, from nothing to nearly enough, and is then made larger. As root only."""
    draw = random.Random(f"disks {seed}")
    needed = sum(path.stat().st_size for path in lab.straight.rglob("*") if path.is_file()) // 1024
    for _ in range(count):
        size = draw.randint(8, needed)

        def trial(size: int = size) -> str:
            disk = lab.place("disk")
            disk.mkdir()
            mounted = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], capture_output=True
            )
            if mounted.returncode != 0:
                return "skipped: no right to mount a file system"
            try:
                run = disk / "run"
                first = lab.run(lab.pretrain(run))
                if not first.clean:
                    return last_line(first)
                subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
                return lab.finished_like_straight(run) if first.code else lab.judged(run)
            finally:
                subprocess.run(["umount", disk], check=True)

        yield f"a disk of {size} of about {needed} kB", trial


def deletions(lab: Laboratory, count: int, seed: int) -> Iterator[tuple[str, Trial]]:
    """Something of the run is deleted while it trains. It ends well or with a sentence, and the loss does not go unseen."""
    draw = random.Random(f"deletions {seed}")
    for _ in range(count):
        point, pick = draw.randint(1, lab.changes), draw.random()

        def trial(point: int = point, pick: float = pick) -> str:
            run, gone = lab.place("robbed"), lab.place("gone")

            def rob(n: int) -> None:
                if n == point:
                    present = sorted(path for path in run.rglob("*") if not path.name.startswith("."))
                    if present:
                        victim = present[int(pick * len(present))]
                        gone.write_text(f"{victim}\n")
                        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()

            first = lab.run(watched(lab.pretrain(run), run, rob))
            if not first.clean:
                return last_line(first)
            if not gone.exists():
                return "held"
            victim = Path(gone.read_text().strip())
            if first.code:
                return "held" if "cloche" in first.output or str(run) in first.output else last_line(first)
            if victim.exists() and lab.judged(run) == "held":
                return "held"
            return "held" if lab.run(command("verify", run)).code == 1 else f"nobody saw that {victim.name} was deleted"

        yield f"something deleted at change {point}", trial
