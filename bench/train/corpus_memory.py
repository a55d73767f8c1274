"""How much memory it takes to turn a corpus larger than memory should hold into a tokenizer and packed tokens.

Generates about 1.1 GB of seeded text (lines of the standard library in random order, one new random word in every line, so
that the number of distinct words keeps growing as it does in the wild) as huge plain files, .jsonl, .gz and .zst, runs
`prepare` on it in a process of its own, and writes its peak and its resident memory over time to
results/corpus_memory.json.

    python -m bench.train.corpus_memory [--megabytes 1100] [--keep FOLDER] [--duplicates]

With --duplicates near duplicates are looked for too, and the rows of a best-fit packing laid out and read;
results/corpus_memory_duplicates.json.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zstandard

from cloche.data import (
    Batches,
    BestFit,
    Draw,
    Mixture,
    NearDuplicates,
    PackedTokens,
    Source,
    prepare_mixture,
    standard_library,
)

RESULTS = Path(__file__).parents[1] / "results"
LIMIT_MB = 2000
SAMPLE_SECONDS = 20.0
SHARES = {"huge.txt": 0.35, "long.md": 0.2, "records.jsonl": 0.2, "packed.txt.gz": 0.15, "records.jsonl.zst": 0.1}


def text_blocks(seed: int) -> Iterator[str]:
    """Endless seeded text in blocks of 2,000 lines."""
    lines = [line for path in standard_library() for line in path.read_text("utf-8", "replace").splitlines()]
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    while True:
        chosen = rng.integers(len(lines), size=2000)
        words = letters[rng.integers(26, size=(2000, 9))]
        yield "".join(f"{lines[i]} {''.join(word)}\n" for i, word in zip(chosen, words, strict=True))


def open_writer(path: Path) -> BinaryIO:
    """A stream that compresses as the name says."""
    if path.suffix == ".gz":
        return gzip.open(path, "wb", compresslevel=1)
    if path.suffix == ".zst":
        return io.BufferedWriter(zstandard.open(path, "wb"))
    return open(path, "wb")


def generate(folder: Path, total: int) -> int:
    """Writes the corpus; returns the UTF-8 bytes of its text."""
    written = 0
    for seed, (name, share) in enumerate(SHARES.items()):
        size = 0
        with open_writer(folder / name) as file:
            for block in text_blocks(seed):
                data = block.encode()
                file.write(json.dumps({"text": block}).encode() + b"\n" if ".jsonl" in name else data)
                size += len(data)
                if size >= total * share:
                    break
        written += size
    return written


def resident_mb() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def recorder(started: float, trace: list[dict]) -> Callable[[str, int, int], None]:
    """A progress callback that notes resident memory every twenty seconds."""

    def note(stage: str, done: int, total: int) -> None:
        now = time.perf_counter() - started
        if not trace or now - trace[-1]["seconds"] >= SAMPLE_SECONDS:
            trace.append(
                {"seconds": round(now, 1), "stage": stage, "done": round(done / total, 4), "mb": round(resident_mb())}
            )

    return note


def measure(corpus: Path, out: Path, duplicates: bool) -> None:
    """In the measured process: prepares the corpus, prints what it found as JSON."""
    started = time.perf_counter()
    trace: list[dict] = []
    rule = NearDuplicates() if duplicates else None
    mixture = Mixture((Source((str(corpus),)),))
    index = prepare_mixture(mixture, out, duplicates=rule, on_progress=recorder(started, trace))
    if duplicates:
        batches = Batches(PackedTokens.open(out, "train"), 256, 8, draw=Draw(BestFit()))
        for step in range(200):
            batches.rows(step * 1000)
    sides = {name: {k: side[k] for k in ("tokens", "bytes", "documents")} for name, side in index["splits"].items()}
    print(json.dumps({"seconds": round(time.perf_counter() - started, 1), "splits": sides, "trace": trace}))


def run(megabytes: int, folder: Path, duplicates: bool) -> dict:
    """Generates, measures in a child process, and returns the record."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    text_bytes = generate(corpus, megabytes * 10**6)
    command = [sys.executable, "-m", "bench.train.corpus_memory", "--measure", str(corpus), str(folder / "run")]
    command += ["--duplicates"] if duplicates else []
    child = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3  # kB on Linux
    record = {
        "what": "prepare: tokenizer of 4,096 and packed tokens from a generated corpus"
        + (", near duplicates, best-fit rows" if duplicates else ""),
        "text_mb": round(text_bytes / 1e6),
        "files": {path.name: round(path.stat().st_size / 1e6) for path in sorted(corpus.iterdir())},
        "peak_rss_mb": round(peak),
        "limit_mb": LIMIT_MB,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
    } | json.loads(child.stdout)
    packed = sum(side["bytes"] for side in record["splits"].values())
    if packed != text_bytes:
        raise SystemExit(f"{packed} bytes were packed of {text_bytes} generated")
    return record


def print_table(record: dict) -> None:
    """The finding in a few lines: the peak, the rate, and resident memory in each tenth of the packing."""
    print(
        f"{record['text_mb']} MB of text in {record['seconds']} s: peak {record['peak_rss_mb']} MB (limit {LIMIT_MB} MB)"
    )
    packing = [sample for sample in record["trace"] if sample["stage"] == "packing"]
    for tenth in range(10):
        here = [sample["mb"] for sample in packing if tenth <= sample["done"] * 10 < tenth + 1]
        if here:
            print(f"  packing {tenth * 10:3d}-{tenth * 10 + 10}%: {min(here)} to {max(here)} MB resident")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1100)
    parser.add_argument("--keep", type=Path, help="a folder to keep the corpus and the run in")
    parser.add_argument(
        "--duplicates", action="store_true", help="also look for near duplicates and lay out best-fit rows"
    )
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure, arguments.duplicates)
        return
    with tempfile.TemporaryDirectory() as temporary:
        record = run(arguments.megabytes, arguments.keep or Path(temporary), arguments.duplicates)
    name = "corpus_memory_duplicates" if arguments.duplicates else "corpus_memory"
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print_table(record)
    if record["peak_rss_mb"] >= LIMIT_MB:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
