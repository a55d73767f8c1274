"""Files that are whole or absent, the leftovers of killed processes, remembered hashes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloche import files
from cloche.errors import ClocheError
from cloche.model.huggingface import known


@pytest.fixture
def dead() -> str:
    """How the temporary names of a process begin that has ended."""
    code = "from pathlib import Path; from cloche.files import temporary_name; print(temporary_name(Path('x')).name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip().removeprefix(files.WRITING).rpartition("-")[0]


def test_what_a_killed_process_left_is_removed_and_what_it_was_replacing_comes_back(tmp_path: Path, dead: str) -> None:
    (tmp_path / f".writing-{dead}-file").write_text("half")
    (tmp_path / f".writing-{dead}-folder").mkdir()
    set_aside = tmp_path / f".replaced-{dead.rpartition('-')[0]}-dictionary"
    set_aside.mkdir()
    (set_aside / "atoms").write_text("whole")
    living = files.temporary_name(tmp_path / "mine")
    living.write_text("being written")
    (tmp_path / ".writing-of-somebody-else").write_text("not ours")
    files.remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["dictionary", living.name, ".writing-of-somebody-else"]
    )
    assert (tmp_path / "dictionary" / "atoms").read_text() == "whole"


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for text in ("old", "new"):
        with files.writing_folder(tmp_path / "kept", replace=True) as fresh:
            (fresh / "file").write_text(text)
    assert (tmp_path / "kept" / "file").read_text() == "new"

    def fail() -> None:
        with files.writing_folder(tmp_path / "kept", replace=True) as fresh:
            (fresh / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").read_text() == "new"
    with pytest.raises(ClocheError, match="nothing is overwritten"), files.writing_folder(tmp_path / "kept"):
        pass


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCHE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known.time, "time", lambda: 4e9)  # long after the file was written
    file = tmp_path / "file"
    file.write_text("one")
    first = known.known_sha256(file)
    monkeypatch.setattr(known, "sha256_of", lambda path: "hashed anew")
    assert known.known_sha256(file) == first
    inode = file.stat().st_ino
    file.write_text("two")
    os.utime(file, (1, 1))
    assert file.stat().st_ino == inode
    assert known.known_sha256(file) == "hashed anew"


@pytest.mark.parametrize("damage", ["a file", "noise"])
def test_a_cache_that_cannot_be_used_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("CLOCHE_CACHE", str(cache))
    if damage == "a file":
        cache.write_text("in the way")
    else:
        cache.mkdir()
        (cache / "sha256.txt").write_bytes(os.urandom(5000))
    (tmp_path / "file").write_text("one")
    assert known.known_sha256(tmp_path / "file") == files.sha256_of(tmp_path / "file")
