"""Every field of a run folder, one by one or many at once, in place of which stands something hostile."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

OUT = "http://127.0.0.1:9/out"  # asked for by what is hostile; a page must never
MARK = "hostile-mark"
TEXTS = [
    f'<meta http-equiv="refresh" content="0;url={OUT}">',
    f'"><img src="{OUT}" onerror="window.owned=1">',
    "<script>window.owned=1</script>",
    f"</style></title></code></textarea><script src={OUT}></script>",
    f"'\"><svg/onload=window.owned=1><base href={OUT}>",
    f'<iframe src="{OUT}"></iframe><object data="{OUT}"></object>',
    f'<form action="{OUT}"><input autofocus onfocus=window.owned=1></form>',
    f'<link rel="stylesheet" href="{OUT}"><style>@import "{OUT}";</style>',
    f"url({OUT});background:url('{OUT}')",
    "javascript:window.owned=1",
    "<!-- ]]> --><a href='javascript:window.owned=1'>x</a>",
    "{{token}} ${window.owned=1} <%= 1 %>",
    "\ud800 \u202e \u0000 \u2028 \ufeff",
    "&lt;script&gt;&#60;b&#62;&quot;",
    "1" * 5000,
    "a\r\n\r\n<b>b</b>\r\nSet-Cookie: a=b",
]
OTHERS: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    -1e-308,
    10**29,
    [],
    {},
    [[]],
    {"a": TEXTS[0]},
    [TEXTS[1]],
    [None, TEXTS[2], 3],
]
Path_ = tuple[Any, ...]


def fields(value: Any, path: Path_ = (), most: int = 1) -> Iterator[Path_]:
    """The path of every value below one, itself included. Of a long list, of which all are alike, the first `most`."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from fields(value[key], (*path, key), most)
    elif isinstance(value, list):
        for i in range(min(len(value), most)):
            yield from fields(value[i], (*path, i), most)


def replaced(value: Any, path: Path_, new: Any) -> Any:
    """The value with another at a path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def documents(run: Path) -> dict[str, Any]:
    """{relative path: parsed} of every JSON file, every log (as its list of records) and the recipe of a run."""
    found: dict[str, Any] = {"recipe.toml": tomllib.loads((run / "recipe.toml").read_text())}
    for path in sorted(run.rglob("*.json")):
        found[path.relative_to(run).as_posix()] = json.loads(path.read_text())
    for path in sorted((run / "log").glob("*.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.relative_to(run).as_posix()] = records[-4:]
    return found


def write(run: Path, relative: str, value: Any) -> None:
    """Writes a document back as its file has it."""
    path = run / relative
    if relative.endswith(".toml"):
        path.write_text(
            "".join(_toml(name, section) for name, section in value.items()) if isinstance(value, dict) else ""
        )
    elif relative.endswith(".jsonl"):
        records = value if isinstance(value, list) else [value]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        path.write_text(json.dumps(value))


def _toml(name: str, section: Any) -> str:
    if not isinstance(section, dict):
        return f"{json.dumps(name)} = {json.dumps(section, ensure_ascii=True)}\n"
    lines = "".join(f"{key} = {json.dumps(text)}\n" for key, text in section.items() if isinstance(text, str | int))
    return f"[{name}]\n{lines}".replace("\\ud800", "?")


def single_changes(run: Path, seed: int = 0, share: float = 1.0) -> Iterator[tuple[str, Path_, Callable[[], None]]]:
    """Each field of each file in turn, made hostile: (file, field, how to write it). The run's `format` stays.

    With a `share` below 1, that share of them, drawn by the seed."""
    r = random.Random(seed)
    for relative, value in documents(run).items():
        for path in fields(value):
            if (relative, path) not in (("run.json", ()), ("run.json", ("format",))) and r.random() < share:
                new = r.choice(TEXTS) + MARK if r.random() < 0.75 else r.choice(OTHERS)
                yield relative, path, partial(write, run, relative, replaced(value, path, new))


def poison(run: Path, seed: int, share: float) -> int:
    """Makes about a share of all fields hostile at once; how many. Only texts stand for texts, so that pages are drawn."""
    r, count = random.Random(seed), 0
    for relative, value in documents(run).items():
        changed = value
        for path in list(fields(value, most=3)):
            old = value
            try:
                for key in path:
                    old = old[key]
            except (LookupError, TypeError):
                continue
            if (
                not path
                or isinstance(old, dict | list)
                or (relative, path) == ("run.json", ("format",))
                or r.random() > share
            ):
                continue
            if isinstance(old, str) or r.random() < 0.1:
                changed, count = replaced(changed, path, r.choice(TEXTS)), count + 1
        write(run, relative, changed)
    return count
