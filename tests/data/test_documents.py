"""Reading: every format and compression gives the same text; what cannot be read gets one sentence."""

import gzip
import io
import json
import os
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cloche.data import Document, ReadingReport, documents
from cloche.data.reading.pieces import PIECE, cut
from cloche.errors import ClocheError

FILLER = b"a plain line\n" * 30
TEXTS = ["eins\n", "zwei é 中\r\n", "\U0001f409 drei\x00\t", "vier"]


def read(*paths, **options) -> list[Document]:
    return list(documents(list(paths), **options))


def compress(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data)
    return zstandard.compress(data) if name.endswith(".zst") else data


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()


def parquet(texts: list[str | None], **options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_every_format_gives_the_same_text(tmp_path, compression: str):
    (tmp_path / f"a.txt{compression}").write_bytes(compress(compression, TEXTS[1].encode()))
    (tmp_path / f"b.jsonl{compression}").write_bytes(compress(compression, jsonl(TEXTS)))
    (tmp_path / f"c.parquet{compression}").write_bytes(compress(compression, parquet(TEXTS)))
    report = ReadingReport()
    found = read(tmp_path, report=report)
    assert [d.text for d in found] == [TEXTS[1], *TEXTS, *TEXTS]
    assert [d.name for d in found[:3]] == [f"a.txt{compression}", f"b.jsonl{compression}#1", f"b.jsonl{compression}#2"]
    assert found[-1].name == f"c.parquet{compression}#4" and all(d.last for d in found)
    assert (report.files, report.documents, report.invalid_utf8) == (3, 9, 0)
    assert report.position == report.size == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_frames_and_members_one_after_the_other(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    (tmp_path / "b.txt.zst").write_bytes(
        zstandard.compress(b"one ") + zstandard.compress(b"") + zstandard.compress(b"two")
    )
    assert [d.text for d in read(tmp_path)] == ["one two", "one two"]


@pytest.mark.parametrize("name", ["huge.txt", "huge.txt.zst", "huge.jsonl", "huge.parquet"])
@pytest.mark.parametrize("line", [60, 3_000_000], ids=["lines", "one line"])
def test_a_huge_document_comes_in_bounded_pieces(tmp_path, name: str, line: int):
    rng = random.Random(line)
    letters = "".join(rng.choices("abc é中\U0001f409", k=1_200_000))
    text = "".join(letters[i : i + line - 1] + "\n" for i in range(0, len(letters), line - 1))
    data = parquet([text]) if "parquet" in name else jsonl([text]) if "jsonl" in name else text.encode()
    (tmp_path / name).write_bytes(compress(name, data))
    pieces = read(tmp_path)
    assert "".join(piece.text for piece in pieces) == text
    assert len(pieces) == -(-len(text.encode()) // PIECE) or len(pieces) > 3
    assert all(len(piece.text.encode()) <= PIECE for piece in pieces)
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len({piece.name for piece in pieces}) == 1
    if line == 60:
        assert all(piece.text.endswith("\n") for piece in pieces[:-1])


@pytest.mark.parametrize("character", ["a", "é", "中", "\U0001f409"])
@pytest.mark.parametrize("shift", range(4))
def test_a_cut_never_splits_a_character(character: str, shift: int):
    data = b"a" * shift + character.encode() * (PIECE // len(character.encode()) + 5)
    pieces = list(cut(io.BytesIO(data)))
    assert b"".join(pieces) == data
    assert len(pieces) == 2 and [piece.decode() for piece in pieces]


def test_a_file_of_exactly_one_piece_and_one_byte_around_it():
    for size in (PIECE - 1, PIECE, PIECE + 1):
        pieces = list(cut(io.BytesIO(b"x" * size)))
        assert sum(map(len, pieces)) == size and all(0 < len(piece) <= PIECE for piece in pieces)


def test_invalid_utf8_is_replaced_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good \xff bad \xe4\xb8 cut \xef\xbf\xbd real\n" + FILLER)
    (tmp_path / "b.jsonl").write_bytes(
        b'{"text": "x\xfe"}\n{"text": "\\ud83d alone \\ud83d\\udc09"}\n{"text": "%s"}' % FILLER.replace(b"\n", b"")
    )
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfafter a byte order mark")
    report = ReadingReport()
    texts = [d.text for d in read(tmp_path, report=report)]
    assert texts == [
        "good \ufffd bad \ufffd cut \ufffd real\n" + FILLER.decode(),
        "x\ufffd",
        "\ufffd alone \U0001f409",
        FILLER.decode().replace("\n", ""),
        "after a byte order mark",
    ]
    assert report.invalid_utf8 == 4
    assert report.invalid_names == ["a.txt", "b.jsonl#1", "b.jsonl#2"]


def test_invalid_utf8_in_parquet_is_replaced_and_counted(tmp_path):
    offsets = np.array([0, 3, 303], dtype=np.int32)
    column = pa.StringArray.from_buffers(2, pa.py_buffer(offsets), pa.py_buffer(b"a\xffb" + b"c" * 300))
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    report = ReadingReport()
    assert [d.text for d in read(tmp_path, report=report)] == ["a\ufffdb", "c" * 300]
    assert report.invalid_utf8 == 1


def test_empty_files_and_records_are_left_out_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": ""}\n\n{"text": null}\n{"text": "here"}\n')
    (tmp_path / "c.parquet").write_bytes(parquet(["", None, "there"]))
    (tmp_path / "d.txt.zst").write_bytes(b"")
    report = ReadingReport()
    found = read(tmp_path, report=report)
    assert [d.name for d in found] == ["b.jsonl#4", "c.parquet#3"]
    assert (report.documents, report.empty) == (2, 6)


def refused(match: str, *paths, **options) -> None:
    with pytest.raises(ClocheError, match=match) as error:
        read(*paths, **options)
    assert str(error.value).count("\n") == 0


def test_a_corpus_without_text_gets_a_sentence(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"")
    refused("corpus is empty: 1 files hold no text", tmp_path)
    refused("No corpus is named")


def test_a_missing_field_names_the_place_and_the_fields_there(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n{"story": "y", "id": 3}\n')
    refused(r"a\.jsonl:2 has no field 'text'; its fields are story, id", tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": 7}\n')
    refused(r"'text' of .*a\.jsonl:1 holds an int", tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b"[1]\n")
    refused(r"a\.jsonl:1 holds a list", tmp_path)
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.parquet").write_bytes(parquet(["x"]))
    refused(r"b\.parquet has no column 'story'; its columns are id, text", tmp_path, field="story")
    refused(r"'id' of row 1 of .*b\.parquet holds an int", tmp_path, field="id")


def test_another_field_is_read_by_name(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"story": "y", "id": 3}\n')
    assert [d.text for d in read(tmp_path, field="story")] == ["y"]


def test_a_malformed_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n{"text": "y"\n')
    refused(r"a\.jsonl:2 is not JSON", tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b"[" * 100_000)
    refused(r"a\.jsonl:1 is not JSON", tmp_path)


def test_an_endless_line_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("cloche.data.reading.records.LONGEST", 100)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"x" * 200 + b'"}\n')
    refused(r"a\.jsonl:1 is longer", tmp_path)


@pytest.mark.parametrize(
    "name", ["a.txt.gz", "a.txt.zst", "a.jsonl.gz", "a.jsonl.zst", "a.parquet.gz", "a.parquet.zst", "a.parquet"]
)
def test_a_truncated_file_is_named(tmp_path, name: str):
    texts = [str(random.Random(i).random()) for i in range(9000)]
    data = parquet(texts) if "parquet" in name else jsonl(texts)
    whole = compress(name, data)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    refused(f"{name} is (truncated or damaged|not a readable parquet file)", tmp_path)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.parquet"])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, name: str):
    (tmp_path / name).write_bytes(b"\x07\x00 this is neither compressed nor text, and long enough to be a header")
    refused(f"{name} is (truncated or damaged|not a readable parquet file)", tmp_path)


def test_a_file_or_folder_without_permission_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(b"x")
    monkeypatch.setattr("builtins.open", refuse_permission)
    refused(r"a\.txt cannot be read \(Permission denied\)", tmp_path)
    monkeypatch.setattr(os, "scandir", refuse_permission)
    refused(r"folder .* cannot be read \(Permission denied\)", tmp_path)


def refuse_permission(path, *rest, **options):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_corpus_is_streamed_not_collected(tmp_path):
    """The first document is there before the second file is opened."""
    (tmp_path / "a.txt").write_bytes(b"first")
    (tmp_path / "b.jsonl").write_bytes(b"broken")
    stream = documents([tmp_path])
    assert next(stream).text == "first"
    with pytest.raises(ClocheError):
        next(stream)
