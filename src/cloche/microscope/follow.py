"""Following a run while it trains: what was appended to the logs and what appeared in the folders, as one stream of events.

One server-sent-event stream per tab carries all of it, for every run the tab shows. Each event's id holds the cursors
after it, so a browser that reconnects (it sends the last id back by itself) misses nothing and fetches nothing twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from cloche.errors import ClocheError
from cloche.microscope.columns import clean, read_after
from cloche.microscope.library import Library, finding_files, step_names

LOGS = ("metrics", "health", "samples", "events")
POLL_SECONDS = 0.25
KEEPALIVE_SECONDS = 15.0
RECORDS_PER_EVENT = 2000

Event = tuple[str, dict[str, Any]]
Cursors = dict[str, dict[str, str]]


def folder_stamp(folder: Path) -> tuple[tuple[str, int], ...]:
    """Changes when something appears in a folder or its sub-folders; cheap enough to ask four times a second."""
    if not folder.is_dir():
        return ()
    children = sorted(p for p in folder.iterdir() if p.is_dir())
    return tuple((p.name, p.stat().st_mtime_ns) for p in [folder, *children] if p.exists())


class Follower:
    """Polls the folders of some runs from cursors, {run: {log: cursor}}; a log without one is read from its start."""

    def __init__(self, library: Library, cursors: Cursors) -> None:
        self.library = library
        self.cursors = {run: {log: cursors[run].get(log, "") for log in LOGS} for run in cursors}
        self.paths = {run: library.path(run) for run in cursors}
        self.stamps: dict[tuple[str, str], Any] = {}

    def poll(self) -> list[Event]:
        """Everything that is new since the last call: (event name, data)."""
        events: list[Event] = []
        for run, path in self.paths.items():
            for log in LOGS:
                events += self._poll_log(run, path / "log" / f"{log}.jsonl", log)
            if self._changed(run, "checkpoints", path):
                events.append(("checkpoints", {"run": run, "checkpoints": step_names(path)}))
            if self._changed(run, "findings", path) and (path / "findings").is_dir() and finding_files(path):
                events.append(("findings", {"run": run, **self.library.findings(run)}))
        return events

    def _poll_log(self, run: str, path: Path, log: str) -> list[Event]:
        records, cursor, rewritten = read_after(path, self.cursors[run][log])
        self.cursors[run][log] = cursor
        events: list[Event] = [("rewritten", {"run": run, "log": log})] if rewritten else []
        for start in range(0, len(records), RECORDS_PER_EVENT):
            part = clean(records[start : start + RECORDS_PER_EVENT])
            events.append(("records", {"run": run, "log": log, "records": part}))
        return events

    def _changed(self, run: str, folder: str, path: Path) -> bool:
        stamp = folder_stamp(path / folder)
        changed = self.stamps.get((run, folder)) != stamp
        self.stamps[run, folder] = stamp
        return changed


def as_text(name: str, data: dict[str, Any], cursors: Cursors | None = None) -> str:
    """One server-sent event as it goes over the wire."""
    ident = "" if cursors is None else f"id: {json.dumps(cursors, separators=(',', ':'))}\n"
    return f"{ident}event: {name}\ndata: {json.dumps(data, separators=(',', ':'), allow_nan=False)}\n\n"


async def stream(follower: Follower, stopping: Callable[[], bool]) -> AsyncIterator[str]:
    """The events as text, for as long as the browser listens and the server runs."""
    yield as_text("hello", {"runs": list(follower.paths)})
    quiet = 0.0
    while not stopping():
        try:
            events = await asyncio.to_thread(follower.poll)
        except ClocheError as error:
            # A log that was damaged by hand: say so once; the browser asks again by itself when this stream ends.
            yield as_text("trouble", {"message": str(error)})
            return
        for i, (name, data) in enumerate(events):
            last = i == len(events) - 1
            # Only the batch's last event moves the cursors: an earlier id would skip the rest of it on reconnecting.
            yield as_text(name, data, follower.cursors if last else None)
        quiet = 0.0 if events else quiet + POLL_SECONDS
        if quiet >= KEEPALIVE_SECONDS:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(POLL_SECONDS)
