"""Which files a corpus is made of, in which order, under which names."""

import os
from pathlib import Path

import pytest

from cloche.data import ReadingReport, standard_library
from cloche.data.reading.sources import find_sources
from cloche.errors import ClocheError


def names(*paths, glob: str | None = None, report: ReadingReport | None = None) -> list[str]:
    return [source.name for source in find_sources(paths, glob, report or ReadingReport())]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b/x.txt",
        "a/y.md",
        "a/z.py",
        "a.txt",
        "c.rst",
        "c.rst.gz",
        "d.jsonl.zst",
        "e.parquet",
        "f.tar",
        "G.TXT",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    return tmp_path


def test_known_suffixes_sorted_by_name(tree: Path):
    report = ReadingReport()
    assert names(tree, report=report) == ["G.TXT", "a.txt", "a/y.md", "a/z.py", "b/x.txt", "d.jsonl.zst", "e.parquet"]
    assert report.skipped == {"other suffix": 3} and report.files == 7 and report.size == 28


def test_the_order_of_the_paths_does_not_matter_and_nothing_is_read_twice(tree: Path):
    report = ReadingReport()
    expected = ["a.txt", "a/y.md", "a/z.py", "b/x.txt"]
    assert names(tree / "b", tree / "a.txt", tree / "a", tree / "a" / "y.md") == expected
    os.symlink(tree / "a.txt", tree / "a" / "again.txt")
    assert names(tree / "a.txt", tree / "a", tree / "b", report=report) == expected
    assert report.skipped == {"same file twice": 1}


def test_names_are_relative_to_what_the_paths_share(tree: Path, monkeypatch):
    assert names(tree / "a") == ["y.md", "z.py"]
    assert names(tree / "a" / "y.md") == ["y.md"]
    assert [source.name for source in find_sources(str(tree / "a"), None, ReadingReport())] == ["y.md", "z.py"]
    assert names(tree / "a" / "y.md", tree / "b" / "x.txt") == ["a/y.md", "b/x.txt"]
    monkeypatch.chdir(tree)
    assert names("a", "b") == ["a/y.md", "a/z.py", "b/x.txt"]


def test_a_glob_picks_any_suffix_on_name_or_path(tree: Path):
    report = ReadingReport()
    assert names(tree, glob="*.rst", report=report) == ["c.rst", "c.rst.gz"]
    assert report.skipped == {"not in glob": 8}
    assert names(tree, glob="a/*") == ["a/y.md", "a/z.py"]


def test_a_file_named_outright_is_read_whatever_its_suffix(tree: Path):
    (source,) = find_sources([tree / "c.rst"], None, ReadingReport())
    assert source.asked_for and source.suffix == ".rst"


def test_hidden_names_and_links_are_skipped_and_counted(tree: Path):
    for name in (".git/config.txt", ".hidden.txt", "a/__pycache__/z.py"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("no")
    os.symlink(tree / "nowhere.txt", tree / "dangling.txt")
    os.symlink(tree / "b", tree / "loop")
    report = ReadingReport()
    assert len(names(tree, report=report)) == 7
    assert report.skipped == {"other suffix": 3, "hidden or __pycache__": 3, "linked folder": 1, "no regular file": 1}


@pytest.mark.parametrize(
    ("name", "glob", "says"),
    [
        ("nowhere", None, "There is no file or folder"),
        ("b", "*.rst", r"No file in .* matches '\*\.rst'"),
        ("empty", None, r"No file in .* ends in \.txt"),
        ("f.tar", None, "archive"),
        ("pipe.txt", None, "not a regular file"),
    ],
)
def test_misuse_gets_a_sentence(tree: Path, name: str, glob: str | None, says: str):
    (tree / "empty").mkdir()
    os.mkfifo(tree / "pipe.txt")
    with pytest.raises(ClocheError, match=says):
        names(tree / name, glob=glob)


def test_the_standard_library_is_library_code():
    files = standard_library()
    assert files == sorted(files) and len(files) > 400
    found = names(*files)
    assert {"json/decoder.py", "asyncio/base_events.py", "argparse.py"} <= set(found)
    parts = {part for name in found for part in Path(name).parts}
    assert not parts & {"test", "tests", "site-packages", "__pycache__", "encodings"}
    assert sum(path.stat().st_size for path in files) > 8_000_000
