"""The split: by name alone, nothing on both sides, a sentence where a side would be empty."""

import pytest

from cloche.data import Document, Report, split_of
from cloche.data.sources import find_sources
from cloche.data.split import plan_split
from cloche.errors import ClocheError


def plan(folder, validation, pieces=()):
    return plan_split(find_sources([folder], None, Report()), validation, lambda: iter(pieces))


def write(folder, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        (folder / name).write_bytes(b"x" * size)


def test_a_share_is_kept_and_depends_on_the_name_alone():
    sides = [split_of(f"folder/file{i}.py", 0.05) for i in range(20_000)]
    assert 0.045 < sides.count("validation") / 20_000 < 0.055
    # fixed by sha256: these must not change between machines or versions
    assert [i for i in range(100) if split_of(f"folder/file{i}.py", 0.05) == "validation"] == [6, 20, 62, 67, 75, 87]


def test_a_larger_share_holds_out_the_same_and_more():
    small = {i for i in range(2000) if split_of(f"{i}", 0.05) == "validation"}
    large = {i for i in range(2000) if split_of(f"{i}", 0.2) == "validation"}
    assert small < large


def test_patterns_see_the_name_its_last_part_and_the_file_of_a_record():
    for name in ("books/Emma.md", "Emma.md", "books/Emma.md#17"):
        assert split_of(name, ["Emma*"]) == "validation"
        assert split_of(name, "Emma.md") == "validation"
        assert split_of(name, ["emma*", "other"]) == "train"
    assert split_of("books/Emma.md", ["books/*"]) == "validation"


def test_pieces_of_a_file_stay_together(tmp_path):
    write(tmp_path, {"a.txt": 3, "b.txt": 3})
    pieces = [Document(name, "x", last=i == 9) for name in ("a.txt", "b.txt") for i in range(10)]
    divided = list(plan(tmp_path, ["b*"]).divide(pieces))
    assert [side for side, _ in divided] == ["train"] * 10 + ["validation"] * 10
    assert [piece for _, piece in divided] == pieces


def test_records_of_one_file_serve_both_sides(tmp_path):
    write(tmp_path, {"a.jsonl": 3})
    records = [Document(f"a.jsonl#{i}", "x") for i in range(1, 1001)]
    sides = [side for side, _ in plan(tmp_path, 0.1).divide(records)]
    assert 70 < sides.count("validation") < 130


def test_a_lone_text_file_gives_its_end(tmp_path):
    write(tmp_path, {"a.txt": 3})
    lines = "".join(f"line {i}\n" for i in range(1000))
    for count in (1, 3, 17):
        size = -(-len(lines) // count)
        texts = [lines[i : i + size] for i in range(0, len(lines), size)]
        pieces = [Document("a.txt", text, last=i == len(texts) - 1) for i, text in enumerate(texts)]
        divided = list(plan(tmp_path, 0.1, pieces).divide(pieces))
        assert "".join(piece.text for _, piece in divided) == lines
        sides = {side: [piece for s, piece in divided if s == side] for side in ("train", "validation")}
        for held in sides.values():
            assert [piece.last for piece in held] == [False] * (len(held) - 1) + [True]
            assert "".join(piece.text for piece in held).endswith("\n")
        assert 0.1 <= sum(len(piece.text) for piece in sides["validation"]) / len(lines) < 0.102
        assert [side for side, _ in divided] == sorted(side for side, _ in divided)


def test_few_files_still_validate_on_a_small_one(tmp_path):
    sizes = {f"{name}.txt": 100 for name in "abcdefgh"}
    assert all(split_of(name, 0.05) == "train" for name in sizes)
    write(tmp_path, sizes)
    split = plan(tmp_path, 0.05)
    divided = [side for side, _ in split.divide([Document(name, "x") for name in sizes])]
    assert divided.count("validation") == 1 and split.stand_in in sizes
    assert split.stand_in in split.how


def test_a_large_file_never_stands_in(tmp_path):
    write(tmp_path, {"a.txt": 1000, "b.txt": 1000})
    with pytest.raises(ClocheError, match="name the validation files"):
        plan(tmp_path, 0.05)


def test_a_hash_that_holds_out_most_of_the_text_gets_a_sentence(tmp_path):
    write(tmp_path, {f"{i}.txt": 10**6 if split_of(f"{i}.txt", 0.05) == "validation" else 10 for i in range(100)})
    with pytest.raises(ClocheError, match="most of the corpus"):
        plan(tmp_path, 0.05)


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
        plan(tmp_path, validation)
