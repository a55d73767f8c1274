"""Logs as columns: what a chart wants, and what JSON can carry.

A record a line is right for writing; a browser plots columns. Non-finite numbers become null (JSON has no NaN), and a
long health log is thinned to the number of columns a screen can show.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cloche.runs import read_from

HEALTH_COLUMNS = 600
METRIC_KEYS = ("step", "time", "tokens", "flops", "loss", "lr", "grad_norm", "tokens_per_second", "mfu", "eta")
VALIDATION_KEYS = ("step", "time", "tokens", "flops", "val_loss", "val_bpb", "val_bytes")

Record = dict[str, Any]


def clean(value: Any) -> Any:
    """A JSON value with every non-finite number null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    return value


def columns(records: Iterable[Record], keys: Iterable[str]) -> dict[str, list[Any]]:
    """One list per key, equally long; null where a record lacks the key."""
    rows = list(records)
    return {key: [clean(row.get(key)) for row in rows] for key in keys}


def read_whole(path: Path) -> tuple[list[Record], str]:
    """Every complete record of a log and the cursor from which to follow it. A missing log is empty."""
    records, cursor, _ = read_after(path, "")
    return records, cursor


def read_after(path: Path, cursor: str) -> tuple[list[Record], str, bool]:
    """The records after a cursor, the new cursor, and whether the log was rewritten since (then from its start).

    A cursor is `inode-offset`: a resumed run rewrites its logs without the steps after the checkpoint, which shows as
    another inode or a file shorter than the offset.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        return [], "", cursor != ""
    inode, _, offset = cursor.partition("-")
    rewritten = cursor != "" and (inode != str(state.st_ino) or not offset.isdigit() or state.st_size < int(offset))
    start = 0 if rewritten or not cursor else int(offset)
    if state.st_size == start:
        return [], f"{state.st_ino}-{start}", rewritten
    records, end = read_from(path, start)
    return records, f"{state.st_ino}-{end}", rewritten


def age(log: Path) -> float | None:
    """Seconds since a log was last written to; None when it does not exist."""
    try:
        return max(0.0, time.time() - log.stat().st_mtime)
    except FileNotFoundError:
        return None


def history(log_folder: Path) -> dict[str, Any]:
    """The metrics as columns, training and validation records apart, and the events, with the cursors to follow them."""
    metrics, metrics_cursor = read_whole(log_folder / "metrics.jsonl")
    events, events_cursor = read_whole(log_folder / "events.jsonl")
    return {
        "train": columns((r for r in metrics if "loss" in r), METRIC_KEYS),
        "validation": columns((r for r in metrics if "val_bpb" in r), VALIDATION_KEYS),
        "events": clean(events),
        "cursors": {"metrics": metrics_cursor, "events": events_cursor},
        "age": age(log_folder / "metrics.jsonl"),
    }


def thin(records: list[Record], most: int) -> list[Record]:
    """At most `most` records, evenly spaced, the last one always among them."""
    if len(records) <= most:
        return records
    last = len(records) - 1
    return [records[round(i * last / (most - 1))] for i in range(most)]


def health(log_folder: Path) -> dict[str, Any]:
    records, cursor = read_whole(log_folder / "health.jsonl")
    return {"records": clean(thin(records, HEALTH_COLUMNS)), "total": len(records), "cursors": {"health": cursor}}


def samples(log_folder: Path) -> dict[str, Any]:
    records, cursor = read_whole(log_folder / "samples.jsonl")
    return {"records": clean(records), "cursors": {"samples": cursor}}
