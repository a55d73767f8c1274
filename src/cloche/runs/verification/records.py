"""Checks logs: that each line is as it was written and follows from those before it, and that none is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloche.errors import ClocheError
from cloche.runs import chain, logs
from cloche.runs.chain import DIGITS, LINK_BYTES, Anchor
from cloche.runs.verification.files import RESTORE
from cloche.runs.verification.problem import Problem
from cloche.runs.verification.reading import MOST_LINE, Unreadable, json_object, lines, opened

Source = tuple[str, Mapping[str, Anchor]]  # what wrote anchors down, and those anchors


@dataclass
class _Reading:
    records: int = 0
    chained: int = 0  # lines that state a chain at all
    broken: list[tuple[int, int]] = field(default_factory=list)  # (record, counted from 1; byte)
    chains: dict[int, str] = field(default_factory=dict)  # after so many records
    is_torn: bool = False


def check_log(path: Path, where: str, sources: Iterable[Source], is_ours: bool) -> Iterator[Problem | None]:
    """The problems of one log, whose name is `where` in the run; None says that nothing in the file is a writer's work.

    `is_ours`: it is one of the logs that cloche writes, whatever is in it.
    """
    anchors = [(source, anchors[path.stem]) for source, anchors in sources if path.stem in anchors]
    anchors.sort(key=lambda item: -item[1].records)
    try:
        found = _read(path, {anchor.records for _, anchor in anchors})
    except Unreadable as error:
        yield Problem(where, str(error), RESTORE)
        return
    except OSError as error:
        yield Problem(where, f"cannot be read ({error.strerror})", RESTORE)
        return
    if not anchors and not is_ours and not found.chained:
        yield None
        return
    if found.broken:
        number, byte = found.broken[0]
        more = f", nor are {len(found.broken) - 1:,} after it" if len(found.broken) > 1 else ""
        yield Problem(
            where,
            f"is damaged: record {number:,} (byte {byte:,}) is not as it was written after the one before it{more}",
            RESTORE,
        )
    yield from _missing(where, found, anchors)
    if found.is_torn and not _is_being_written(path):
        yield Problem(where, "ends in a torn line", "resume the run: its writer cuts the line off")


def _missing(where: str, found: _Reading, anchors: list[tuple[str, Anchor]]) -> Iterator[Problem]:
    """At most one problem: the first anchor, from the furthest on, that the log does not meet."""
    for source, anchor in anchors:
        if found.records < anchor.records:
            yield Problem(where, f"has {found.records:,} records where {source} counted {anchor.records:,}", RESTORE)
            return
        if not found.broken and found.chains.get(anchor.records) != anchor.chain:
            yield Problem(where, f"does not begin with the {anchor.records:,} records that {source} counted", RESTORE)
            return


def missing_logs(present: Iterable[str], sources: Iterable[Source]) -> Iterator[Problem]:
    """Logs that were written down and are not there at all."""
    there = set(present)
    told = [(anchor.records, name, source) for source, anchors in sources for name, anchor in anchors.items()]
    for records, name, source in sorted(told, reverse=True):
        if name not in there and records:
            there.add(name)
            yield Problem(f"log/{name}.jsonl", f"is missing: {source} counted {records:,} records", RESTORE)


def _read(path: Path, wanted: set[int]) -> _Reading:
    found = _Reading()
    previous = chain.first(path).encode()
    position = 0
    sha256, link = hashlib.sha256, b'"chain": "%s"}\n'
    if 0 in wanted:
        found.chains[0] = previous.decode()
    with opened(path) as file:
        for line in lines(file):
            head = line[:-LINK_BYTES]
            follows = sha256(previous + head).hexdigest()[:DIGITS].encode()
            if line[-LINK_BYTES:] == link % follows:
                found.chained += 1
            elif not line.endswith(b"\n") and len(line) < MOST_LINE:
                found.is_torn = True
                break
            else:
                own = chain.stated(line)
                found.chained += own is not None
                found.broken.append((found.records + 1, position))
                follows = own.encode() if own else previous  # a foreign line; the writer goes on from before it
            previous = follows
            position += len(line)
            found.records += 1
            if found.records in wanted:
                found.chains[found.records] = previous.decode()
    return found


def _is_being_written(path: Path) -> bool:
    try:
        return logs.is_being_written(path)
    except ClocheError:
        return False


def saved_checkpoints(events: Path) -> tuple[set[str], set[str]]:
    """The names of the checkpoints that events.jsonl says were written and not removed since, and of those that were."""
    saved: set[str] = set()
    removed: set[str] = set()
    try:
        with opened(events) as file:
            for line in lines(file):
                if b'"checkpoint"' not in line:
                    continue
                try:
                    event = json_object(line)
                except Unreadable:
                    continue
                name = event.get("checkpoint")
                if event.get("kind") == "checkpoint" and isinstance(name, str):
                    saved.add(name)
                    removed.discard(name)
                elif event.get("kind") == "removed" and isinstance(name, str):
                    saved.discard(name)
                    removed.add(name)
    except (Unreadable, OSError):
        pass
    return saved, removed
