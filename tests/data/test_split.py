"""The split: whole files where they fit, ends of files where they do not, nothing on both sides and nothing lost."""

import gzip
import json
import random
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cloche.data import Document, ReadingReport
from cloche.data.reading.read import read_file, read_files, recognised_files
from cloche.data.split import Split, plan_split
from cloche.errors import ClocheError


def plan(*paths, validation=0.05) -> Split:
    files = list(recognised_files(paths, None, "text", None, ReadingReport()))
    return plan_split(files, validation, lambda file: read_file(file, "text", ReadingReport()))


def divided(*paths, validation=0.05) -> dict[str, list[Document]]:
    """The pieces of each side."""
    files = list(recognised_files(paths, None, "text", None, ReadingReport()))
    sides: dict[str, list[Document]] = {"train": [], "validation": []}
    for side, piece in plan(*paths, validation=validation).divide(read_files(files, "text", ReadingReport())):
        sides[side].append(piece)
    return sides


def size(pieces: list[Document]) -> int:
    return sum(len(piece.text.encode()) for piece in pieces)


def share(sides: dict[str, list[Document]]) -> float:
    return size(sides["validation"]) / (size(sides["train"]) + size(sides["validation"]))


def write(folder, sizes: dict[str, int]) -> None:
    for name, count in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((b"some words of it\n" * (count // 17 + 1))[:count])


def test_many_files_are_held_out_whole_by_a_hash_that_never_changes(tmp_path):
    write(tmp_path, {f"{i:03d}.txt": 1000 for i in range(100)})
    split = plan(tmp_path)
    # fixed by sha256: these must not change between machines or versions
    assert split.files == {"014.txt", "037.txt", "059.txt", "076.txt", "077.txt"}
    assert not split.ends and not split.records and "014.txt" in split.how and "5.0% of the bytes" in split.how


def test_a_licence_of_five_bytes_is_not_the_validation_set(tmp_path):
    write(tmp_path, {"book.txt": 100_000, "LICENSE.txt": 5, "prepare.py": 300})
    sides = divided(tmp_path)
    assert 0.05 <= share(sides) < 0.07
    assert {piece.name for piece in sides["train"]} == {"book.txt"}


def test_two_books_and_the_notes_beside_them_validate_on_their_ends(tmp_path):
    write(tmp_path, {"books/a.txt": 60_000, "books/b.txt": 50_000, "notes/c.md": 100, "notes/d.md": 200})
    sides = divided(tmp_path / "notes", tmp_path / "books/b.txt", tmp_path / "books/a.txt")
    assert 0.05 <= share(sides) < 0.07
    assert {"books/a.txt", "books/b.txt"} <= {piece.name for piece in sides["validation"]}
    how = plan(tmp_path / "notes", tmp_path / "books/b.txt", tmp_path / "books/a.txt").how
    assert "the last 5% of books/a.txt, books/b.txt" in how


@pytest.mark.parametrize("line", ["word " * 60_000, "中文字符没有空格" * 12_000, "x" * 300_000])
def test_a_title_and_then_one_long_line_trains_on_the_line(tmp_path, line: str):
    (tmp_path / "b.txt").write_text("The title, here\n" + line, "utf-8")
    sides = divided(tmp_path / "b.txt")
    assert 0.05 <= share(sides) < 0.061
    assert "".join(piece.text for piece in sides["train"] + sides["validation"]) == "The title, here\n" + line
    if " " in line:
        assert sides["validation"][0].text.startswith(" word")


def test_an_end_is_cut_at_a_line_and_both_parts_are_documents(tmp_path):
    text = "".join(f"line {i}\n" for i in range(400_000))  # several pieces
    (tmp_path / "a.txt").write_text(text)
    sides = divided(tmp_path, validation=0.5)
    assert "".join(piece.text for piece in sides["train"] + sides["validation"]) == text
    for pieces in sides.values():
        assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True] and len(pieces) > 1
        assert pieces[-1].text.endswith("\n")
    assert 0.5 <= share(sides) < 0.51


def test_records_of_one_file_serve_both_sides_whole(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"story {i}\n"}) + "\n" for i in range(1000)))
    sides = divided(tmp_path)
    assert len(sides["train"]) + len(sides["validation"]) == 1000 and 0.05 <= share(sides) < 0.052
    assert sorted(piece.number for pieces in sides.values() for piece in pieces) == list(range(1, 1001))


def test_few_large_records_validate_on_their_ends(tmp_path):
    pq.write_table(pa.table({"text": ["a b c d " * n for n in (900, 1000, 1100)]}), tmp_path / "a.parquet")
    sides = divided(tmp_path)
    assert 0.05 <= share(sides) < 0.061 and len(sides["train"]) == len(sides["validation"]) == 3


def test_sizes_are_those_of_the_text_not_of_the_disk(tmp_path):
    """Each compressed file is 1% of the folder on disk and 20% of the text."""
    write(tmp_path, {"a.txt": 50_000, "b.txt": 50_000})
    for name in "cdef":
        (tmp_path / f"{name}.txt.gz").write_bytes(gzip.compress(b"some words\n" * 6000))
    assert 0.02 <= share(divided(tmp_path)) <= 0.1


def test_the_order_of_the_paths_and_the_place_of_the_folder_do_not_matter(tmp_path):
    write(tmp_path / "one", {f"{name}/{i}.txt": 700 + i for name in "ab" for i in range(30)})
    shutil.copytree(tmp_path / "one", tmp_path / "else/where")
    first = plan(tmp_path / "one" / "a", tmp_path / "one" / "b")
    assert first == plan(tmp_path / "one" / "b", tmp_path / "one" / "a") == plan(tmp_path / "else/where")


def test_patterns_hold_out_files_by_name_or_its_last_part(tmp_path):
    write(tmp_path, {"books/Emma.md": 30, "books/other.md": 30, "c.jsonl": 0})
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n' * 3)
    for patterns, held in (
        (["Emma*"], {"books/Emma.md"}),
        ("books/*", {"books/Emma.md", "books/other.md"}),
        (["c*"], {"c.jsonl#1", "c.jsonl#2", "c.jsonl#3"}),
        (["emma*", "other.md"], None),
    ):
        if held is None:
            with pytest.raises(ClocheError, match=r"'emma\*'"):
                plan(tmp_path, validation=patterns)
        else:
            assert {piece.name for piece in divided(tmp_path, validation=patterns)["validation"]} == held


@pytest.mark.parametrize("validation", [0.01, 0.2, 0.5, 0.9])
def test_another_share_is_reached_and_leaves_text_to_train_on(tmp_path, validation: float):
    rng = random.Random(1)
    write(tmp_path, {f"{i}.txt": rng.randrange(1000, 20_000) for i in range(30)})
    assert validation <= share(divided(tmp_path, validation=validation)) <= min(2 * validation, (1 + validation) / 2)


def corpus(rng: random.Random, folder) -> int:
    """1 to 30 files of mixed kinds, sizes log-uniform from 1 byte to 30 kB; the bytes of their text."""
    total = 0
    for i in range(rng.randrange(1, 31)):
        path = folder / rng.choice(["", "a", "b/c"]) / f"{rng.randrange(10**6)}-{i}"
        path.parent.mkdir(parents=True, exist_ok=True)
        count = rng.choice([1, 2, 30])
        kind = rng.choice(["txt", "gz", "utf-16", "jsonl", "array"])
        texts = []
        for _ in range(count if kind in ("jsonl", "array") else 1):
            word = rng.choice(["the cat ", "one line\n", "中文", "x"])
            texts.append((word * 30_000)[: max(1, int(10 ** rng.uniform(0, 4.5) / len(word.encode()) / count))])
        if kind == "txt":
            path.with_suffix(".txt").write_text(texts[0], "utf-8", newline="")
        elif kind == "gz":
            path.with_suffix(".txt.gz").write_bytes(gzip.compress(texts[0].encode(), 1))
        elif kind == "utf-16":
            path.with_suffix(".md").write_bytes(texts[0].encode("utf-16"))
        elif kind == "jsonl":
            path.with_suffix(".jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        else:
            path.with_suffix(".json").write_text(json.dumps([{"text": text} for text in texts], indent=1))
        total += sum(len(text.encode()) for text in texts)
    return total


def test_random_corpora_keep_the_share_and_every_byte(tmp_path):
    tried = 0
    for seed in range(40):
        total = corpus(random.Random(seed), tmp_path / str(seed))
        if total < 4096:
            continue
        sides = divided(tmp_path / str(seed))
        assert size(sides["train"]) + size(sides["validation"]) == total, seed
        assert 0.02 <= share(sides) <= 0.1, (seed, plan(tmp_path / str(seed)).how)
        for pieces in sides.values():
            ends = Counter(piece.name for piece in pieces if piece.last)
            assert set(ends) == {piece.name for piece in pieces} and set(ends.values()) == {1}
        tried += 1
    assert tried >= 30


@pytest.mark.parametrize(
    ("validation", "says"),
    [
        (0.0, "not between 0 and 1"),
        (1, "not between 0 and 1"),
        ([], "No validation file is named"),
        (["c*"], r"No file matches the validation pattern 'c\*'; the files are a.txt, b.txt"),
        (["a*", "nothing"], "'nothing'"),
        (["*"], "match every file"),
    ],
)
def test_misuse_gets_a_sentence(tmp_path, validation, says: str):
    write(tmp_path, {"a.txt": 3, "b.txt": 3})
    with pytest.raises(ClocheError, match=says):
        plan(tmp_path, validation=validation)
