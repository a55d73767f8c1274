"""Files and folders that are there whole or not at all, whoever is killed and whatever the disk says."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloche import files
from cloche.errors import ClocheError


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name.startswith((files.WRITING, files.REPLACED))]


def fill(folder: Path, text: str, replace: bool = True) -> None:
    with files.writing_folder(folder, replace) as fresh:
        (fresh / "one").write_text(text)
        (fresh / "two").write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    fill(tmp_path / "a", "old")
    fill(tmp_path / "a", "new")
    assert {path.name: path.read_text() for path in (tmp_path / "a").iterdir()} == {"one": "new", "two": "new"}
    with pytest.raises(ClocheError, match="nothing is overwritten"):
        fill(tmp_path / "a", "third", replace=False)
    with pytest.raises(ZeroDivisionError), files.writing_folder(tmp_path / "a", replace=True):
        raise ZeroDivisionError
    assert (tmp_path / "a" / "two").read_text() == "new"
    assert leftovers(tmp_path) == []


REPLACES = """
import os, signal, sys
from pathlib import Path
from cloche import files

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

files._exchange = lambda *_: False
rename, target = os.rename, Path(sys.argv[1])
def second(one, other):
    if Path(other) == target and second.seen:
        die()
    second.seen = Path(other).name.startswith(files.REPLACED)
    rename(one, other)
second.seen = False
os.rename = second
with files.writing_folder(target, replace=True) as fresh:
    (fresh / "one").write_text("new")
"""


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "a", "old")
    died = subprocess.run([sys.executable, "-c", REPLACES, str(tmp_path / "a")], check=False)
    assert died.returncode == -signal.SIGKILL
    assert not (tmp_path / "a").exists() and len(leftovers(tmp_path)) == 2
    files.remove_abandoned(tmp_path)
    assert (tmp_path / "a" / "one").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_only_what_ended_processes_left_is_removed(tmp_path: Path) -> None:
    mine = files.temporary_name(tmp_path / "x.json")
    machine, me, started = mine.name.removeprefix(files.WRITING).split("-")[0].split(".")
    stated = {
        "mine": (mine.name, False),
        "a number used again": (f".writing-{machine}.{me}.1-00000000-x", True),
        "another machine's": (f".writing-{machine[::-1]}x.{me}.{started}-00000000-x", False),
        "of no process": (f".writing-{machine}.99999999.{started}-00000000-x", True),
        "somebody's own": (".writing-paper", False),
    }
    for name, _ in stated.values():
        (tmp_path / name).mkdir()
    files.remove_abandoned(tmp_path)
    assert {what: (tmp_path / name).exists() for what, (name, _) in stated.items()} == {
        what: not removed for what, (_, removed) in stated.items()
    }
    os.utime(tmp_path / stated["another machine's"][0], (0, 0))
    files.remove_abandoned(tmp_path)
    assert not (tmp_path / stated["another machine's"][0]).exists()


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "you may write to"), (errno.EIO, "disk")]
)
def test_a_refused_write_is_one_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    files.write_atomically(tmp_path / "a", b"old")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ClocheError, match=says):
        files.write_atomically(tmp_path / "a", b"new")
    with pytest.raises(ClocheError, match=says), files.writing_file(tmp_path / "a") as path:
        path.write_bytes(b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and leftovers(tmp_path) == []


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path: Path) -> None:
    name = "ü" * 125 + ".json"
    files.write_atomically(tmp_path / name, b"{}")
    with files.writing_file(tmp_path / name) as path:
        path.write_bytes(b"[]")
    assert (tmp_path / name).read_bytes() == b"[]"
    with pytest.raises(ClocheError, match="shorter name"):
        files.write_atomically(tmp_path / ("n" * 300), b"")


# ---- hashes


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLOCHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sha256.txt"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose bytes were read to hash them."""
    seen: list[Path] = []
    really = files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda path: [seen.append(path), really(path)][1])
    return seen


def old_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_hash_is_remembered_until_the_file_changes(
    tmp_path: Path, cache: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = old_file(tmp_path / "a", b"one")
    first = files.known_sha256(file)
    assert files.known_sha256(file) == first and len(hashed) == 2, "just written: it may change within a tick"
    now = files.time.time()
    monkeypatch.setattr(files.time, "time", lambda: now + 10)
    assert [files.known_sha256(file) for _ in range(3)] == [first] * 3 and len(hashed) == 3
    times = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert files.known_sha256(file) != first, "also when its time of modification was put back"


@pytest.mark.parametrize("damage", ["unreadable", "garbage", "a folder", "a file for a folder", "torn"])
def test_a_damaged_cache_only_costs_time(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    file = old_file(tmp_path / "a", b"one")
    right = files.sha256_of(file)
    now = files.time.time()
    monkeypatch.setattr(files.time, "time", lambda: now + 10)
    if damage == "a file for a folder":
        cache.parent.write_bytes(b"")
    else:
        cache.parent.mkdir()
        if damage == "a folder":
            cache.mkdir()
        elif damage == "unreadable":
            monkeypatch.setenv("CLOCHE_CACHE", "/proc/1/nowhere")
        else:
            files.known_sha256(file)
            cache.write_bytes(cache.read_bytes()[:-9] if damage == "torn" else b"\xff\0 \n" * 1000)
    assert [files.known_sha256(file) for _ in range(3)] == [right] * 3


def test_the_list_of_remembered_hashes_is_bounded(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MOST_REMEMBERED", 2000)
    for i in range(100):
        files._remember(f"{i} 0 0 0 0 {'0' * 64}\n")
    assert cache.stat().st_size < 3000
    assert files._remembered("99 0 0 0 0") == "0" * 64 and files._remembered("0 0 0 0 0") is None


# ---- locks

HOLDS = """
import sys
from pathlib import Path
from cloche import files
with files.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ClocheError, match="taken"), files.locked(lock, 0, "taken"):
            pass
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    with files.locked(lock, 0):
        pass


def test_json_is_what_every_parser_reads() -> None:
    value = {"a": [1.5, float("nan"), float("inf")], 1: Path("x"), "s": "\udc80é"}
    assert json.loads(files.to_json(value)) == {"a": [1.5, None, None], "1": "x", "s": "\udc80é"}
