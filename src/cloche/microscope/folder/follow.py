"""Following a run while it trains: appended log records and new files in its folders as one stream of events.

One server-sent-event stream per tab carries the events of all runs that the tab shows. Each event's id holds the
cursors after it, so a browser that reconnects (it sends the last id automatically) misses nothing and fetches nothing
twice. A reader that falls far behind gets the event `behind` and fetches the thinned history again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from cloche.errors import ClocheError
from cloche.microscope.folder.lines import Cursor, Damage, LogLines
from cloche.microscope.folder.logbook import appended
from cloche.microscope.folder.reading import RunFiles
from cloche.microscope.library import Library, dictionary_names

LOGS = ("metrics", "health", "samples", "events")  # that a page shows
POLL_SECONDS = 0.25
KEEPALIVE_SECONDS = 15.0
MOST_BACKLOG_BYTES = 1 << 18
MOST_RUNS = 8

Event = tuple[str, dict[str, Any]]
Cursors = dict[str, dict[str, str]]


def folder_stamp(files: RunFiles, folder: str) -> tuple[Any, ...]:
    """A value that changes when something appears in a folder or its sub-folders; cheap enough to compute four times
    a second."""
    try:
        own = (files.root / folder).stat().st_mtime_ns
        children = (
            files.entries(folder) if folder != "checkpoints" else []
        )  # which are complete when they appear: they are renamed into place
        return (own, *((entry.name, entry.stat().st_mtime_ns) for entry in children if entry.is_dir()))
    except OSError:
        return ()


class Follower:
    """Polls the folders of some runs from cursors, {run: {log: cursor}}; a log without one is read from its start."""

    def __init__(self, library: Library, cursors: Cursors) -> None:
        self.library = library
        self.runs = {run: library.run(run) for run in list(cursors)[:MOST_RUNS]}
        self.logs = {
            run: {log: LogLines(files, log, Cursor.parse(cursors[run].get(log, ""))) for log in LOGS}
            for run, files in self.runs.items()
        }
        self.damage = {(run, log): Damage(log) for run in self.runs for log in LOGS}
        self.stamps: dict[tuple[str, str], Any] = {}
        self.reported: set[str] = set()

    @property
    def cursors(self) -> Cursors:
        """The current cursors."""
        return {run: {log: str(lines.cursor) for log, lines in logs.items()} for run, logs in self.logs.items()}

    def poll(self) -> list[Event]:
        """Everything new since the last call: (event name, data)."""
        return [event for part in self.parts() for event in part()]

    def parts(self) -> Iterator[Callable[[], list[Event]]]:
        """`poll` in parts of bounded size: a log or the folders of one run."""
        for run, files in self.runs.items():
            for log in LOGS:
                yield lambda run=run, log=log: self._poll_log(run, log)  # type: ignore[misc]
            yield lambda run=run, files=files: self._poll_folders(run, files)  # type: ignore[misc]

    def _poll_log(self, run: str, log: str) -> list[Event]:
        damage = self.damage[run, log]
        before = damage.count
        try:
            found = appended(self.logs[run][log], damage, MOST_BACKLOG_BYTES)
            events: list[Event] = [
                (name, {"run": run, "log": log} | ({"records": records} if records else {})) for name, records in found
            ]
        except (ClocheError, OSError) as error:
            return self._trouble(run, str(error))
        return events + (self._trouble(run, damage.sentence) if damage.count > before else [])

    def _poll_folders(self, run: str, files: RunFiles) -> list[Event]:
        try:
            self.library.run(run)
        except ClocheError as error:
            return self._trouble(run, str(error))
        events: list[Event] = []
        if self._changed(run, "checkpoints", files):
            events.append(("checkpoints", {"run": run, "checkpoints": files.checkpoints()}))
        if self._changed(run, "dictionaries", files):
            events.append(("dictionaries", {"run": run, "dictionaries": dictionary_names(files)}))
        if self._changed(run, "findings", files) and files.entries("findings"):
            events.append(("findings", {"run": run, **self.library.findings(run)}))
        return events

    def _trouble(self, run: str, sentence: str) -> list[Event]:
        """An error sentence, sent once."""
        fresh = sentence not in self.reported
        self.reported.add(sentence)
        return [("trouble", {"run": run, "message": sentence})] if fresh else []

    def _changed(self, run: str, folder: str, files: RunFiles) -> bool:
        stamp = folder_stamp(files, folder)
        changed = self.stamps.get((run, folder), ()) != stamp
        self.stamps[run, folder] = stamp
        return changed


def as_text(name: str, data: dict[str, Any], cursors: Cursors | None = None) -> bytes:
    """One server-sent event as bytes."""
    ident = "" if cursors is None else f"id: {json.dumps(cursors, separators=(',', ':'))}\n"
    text = f"{ident}event: {name}\ndata: {json.dumps(data, separators=(',', ':'), allow_nan=False)}\n\n"
    return text.encode()


async def server_sent_events(follower: Follower, stopping: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The events as text, while the browser listens and the server runs. Nothing is read ahead: a log is read only
    after the events before it were sent, so that a browser that does not read keeps at most one part of a log in
    memory."""
    yield as_text("hello", {"runs": list(follower.runs)})
    quiet = 0.0
    while not stopping():
        for part in follower.parts():
            events = await asyncio.to_thread(part)
            for i, (name, data) in enumerate(events):
                # Only the last event of a part moves the cursors: an earlier id would skip the rest of it on
                # reconnecting.
                yield as_text(name, data, follower.cursors if i == len(events) - 1 else None)
            quiet = 0.0 if events else quiet
        quiet += POLL_SECONDS
        if quiet >= KEEPALIVE_SECONDS:
            quiet = 0.0
            yield b": still here\n\n"
        await asyncio.sleep(POLL_SECONDS)
