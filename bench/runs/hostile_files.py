"""Damaged and hostile versions of every file that cloche reads, drawn by a seed.

A specimen is a good file or folder with the function that reads it. `hostile` copies it and spoils one file of it: bytes
flipped, cut, doubled or replaced; and in JSON and TOML a value replaced by what no reader expects. The reader may succeed, or
refuse with a ClocheError of one sentence; anything else (another exception, a signal, a hang, too much memory) is a failure.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**63,
        10**30,
        -(10**30),
        0.5,
        -0.0,
        1e308,
        "",
        "x",
        "\x00",
        "../../etc/passwd",
        "\ud800",
    ),
    *([], {}, [[]], {"": None}, ["x"] * 1000, "x" * 100_000, "NaN", "1e999"),
)
RAW = {
    "empty": b"",
    "one byte": b"{",
    "NULs": bytes(4096),
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "not finite": b'{"a": NaN, "b": Infinity, "c": 1e999}',
    "UTF-16": "text in sixteen bits\n".encode("utf-16") * 50,
    "invalid UTF-8": b"\xff\xfe\xfd\xc3(" * 500,
    "a gzip header": b"\x1f\x8b\x08\x00" + bytes(100),
    "a zstd header": b"\x28\xb5\x2f\xfd" + bytes(100),
    "a huge safetensors header": (2**62).to_bytes(8, "little") + b"{}",
    "a pickle": b"cos\nsystem\n(S'touch /tmp/executed'\ntR.",
}


@dataclass(frozen=True)
class Specimen:
    """`read` is handed a copy of `path`, one file of which is spoiled. `files`: which may be, as glob patterns."""

    name: str
    path: Path
    read: Callable[[Path], object]
    files: tuple[str, ...] = ("*",)


def hostile(
    specimens: list[Specimen], count: int, folder: Path, seed: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    """`count` spoiled specimens, each kind in turn: what was done, and the work of reading it. Copies lie below `folder`."""
    draw = random.Random(f"hostile {seed}")
    for number in range(count):
        specimen = specimens[number % len(specimens)]
        copy = folder / f"hostile-{number}" / specimen.path.name
        copy.parent.mkdir(parents=True)
        victim = copy
        if specimen.path.is_dir():
            shutil.copytree(specimen.path, copy)
            victim = draw.choice(
                sorted({path for form in specimen.files for path in copy.glob(form) if path.is_file()})
            )
        else:
            shutil.copyfile(specimen.path, copy)
        what = spoil(victim, draw)

        def read(specimen: Specimen = specimen, copy: Path = copy) -> object:
            return specimen.read(copy)

        yield f"{specimen.name}: {victim.relative_to(copy.parent)}: {what}", read


def spoil(path: Path, draw: random.Random) -> str:
    """Spoils one file in one way; says which."""
    ways: list[Callable[[Path, random.Random], str]] = [_raw, _flip, _cut, _swap, _missing]
    if path.suffix in (".json", ".toml", ".safetensors"):
        ways += [_odd_value] * 6
    return draw.choice(ways)(path, draw)


def _raw(path: Path, draw: random.Random) -> str:
    name = draw.choice(sorted(RAW))
    path.write_bytes(RAW[name])
    return name


def _flip(path: Path, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    places = [draw.randrange(len(data)) for _ in range(draw.choice((1, 5, 50)))] if data else []
    for place in places:
        data[place] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return f"{len(places)} bits flipped"


def _cut(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    length = draw.randrange(len(data) + 1)
    path.write_bytes(data[:length])
    return f"cut at {length} of {len(data)} bytes"


def _swap(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    path.write_bytes(data[b:] + data[a:b] + data[:a])
    return "its pieces swapped"


def _missing(path: Path, draw: random.Random) -> str:
    path.unlink()
    if draw.random() < 0.5:
        path.mkdir()
        return "a folder in its place"
    return "missing"


def _odd_value(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        what = _change(header, draw)
        new = json.dumps(header).encode()
        path.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])
        return f"header: {what}"
    if path.suffix == ".toml":
        import tomllib

        import tomli_w

        settings = tomllib.loads(data.decode())
        what = _change(
            settings, draw, lambda value: value == "x" or not (value in (None, {"": None}) or isinstance(value, str))
        )
        path.write_bytes(tomli_w.dumps(settings).encode())
        return what
    value = json.loads(data)
    what = _change(value, draw)
    path.write_text(json.dumps(value), errors="surrogatepass")
    return what


def _change(value: Any, draw: random.Random, fits: Callable[[Any], bool] = lambda value: True) -> str:
    """Replaces, or removes, one value somewhere in a tree, as likely near the root as far from it."""
    where = []
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        if not keys:
            return "nothing to change"
        key = draw.choice(list(keys))
        where.append(str(key))
        inside = value[key]
        if isinstance(inside, (dict, list)) and len(inside) and draw.random() < 0.8:
            value = inside
            continue
        if draw.random() < 0.15:
            del value[key]
            return f"{'.'.join(where)} removed"
        odd = draw.choice([odd for odd in ODD_VALUES if fits(odd)])
        value[key] = odd
        return f"{'.'.join(where)} = {repr(odd)[:40]}"
