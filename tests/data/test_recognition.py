"""What a file is, by its content: compression, encoding, records; and the sentence for what is none of them."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cloche.data import ReadingReport, documents
from cloche.errors import ClocheError

TEXT = "Żółw é 中文 the tortoise, \U0001f409 and a line\r\n" * 30
RECORDS = [{"id": i, "text": f'Cat {i} é 中 "q" \\ {{x}}\nline two', "url": "http://a.b"} for i in range(30)]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)
TEXTS = [record["text"] for record in RECORDS]


def long_window(data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=31 if len(data) < 2000 else 28)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(data) + packer.flush()


COMPRESSIONS = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "gzip members": lambda data: gzip.compress(data[:99]) + gzip.compress(data[99:]) + b"\0" * 64,
    "gzip twice": lambda data: gzip.compress(gzip.compress(data)),
    "zstd long window": long_window,
    "zstd skippable frame": lambda data: b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstandard.compress(data),
    "xz streams": lambda data: lzma.compress(data[:99]) + b"\0" * 8 + lzma.compress(data[99:]) + b"\0" * 4,
    "bzip2 streams": lambda data: bz2.compress(data[:99]) + bz2.compress(data[99:]),
    "bzip2 of nothing, then some": lambda data: bz2.compress(b"") + bz2.compress(data),
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


def read(path, **options) -> list[str]:
    return [document.text for document in documents([path], **options)]


def refused(match: str, path, **options) -> str:
    with pytest.raises(ClocheError, match=match) as error:
        read(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", ["a.txt", "c4-train.00000.json.gz", "a.jsonl", "a.log", "a.ndjson.zst"])
def test_compression_encoding_and_records_are_read_from_the_content(tmp_path, compression: str, name: str):
    for encoding in ENCODINGS if compression in ("plain", "gzip") else ["utf-8", "utf-16"]:
        for text, wanted in ((TEXT, [TEXT]), (LINES, TEXTS), (json.dumps(RECORDS, indent=2), TEXTS)):
            if text is TEXT and ("jsonl" in name or "ndjson" in name):
                continue
            (tmp_path / name).write_bytes(COMPRESSIONS[compression](text.encode(encoding)))
            assert read(tmp_path / name) == wanted, encoding


def test_other_forms_of_json_records(tmp_path):
    path = tmp_path / "a.json"
    for text in (
        "\n \r\n" + LINES.replace("\n", "\r\n\r\n"),
        "\n".join(json.dumps(record, indent=1) for record in RECORDS),
        json.dumps(RECORDS),
        "[\n" + ",\n".join(LINES.splitlines()) + "\n]\n",
        "\ufeff".join(LINES.splitlines(keepends=True)),
    ):
        path.write_text(text, "utf-8")
        assert read(path) == TEXTS
    path.write_text(
        "[" + json.dumps({"text": "x" * 200_000}) + "," + json.dumps({"text": "中" * 100_000}) + "]", "utf-8"
    )
    assert read(path) == ["x" * 200_000, "中" * 100_000]
    assert [document.number for document in documents([path])] == [1, 2]


def test_the_field_is_asked_for_and_a_missing_one_names_those_there(tmp_path):
    path = tmp_path / "stories.json.gz"
    for text in (LINES, json.dumps(RECORDS)):
        path.write_bytes(gzip.compress(text.encode()))
        assert read(path, field="url") == ["http://a.b"] * 30
        assert "its fields are id, text, url" in refused("no field 'story'", path, field="story")


def test_json_without_records_is_text_where_it_is_named_and_left_out_where_it_is_not(tmp_path):
    settings = json.dumps({"name": "x", "list": [1, 2]}, indent=2)
    (tmp_path / "a.json").write_text(settings)
    (tmp_path / "b.json").write_text("[1, 2, 3]")
    (tmp_path / "c.json").write_text('{"name": "x"}')
    (tmp_path / "c.txt").write_text("words")
    report = ReadingReport()
    assert read(tmp_path, report=report) == ["words"]
    assert report.skipped == {"JSON without records": 3} and report.files == 1 and report.size == 5
    report = ReadingReport()
    assert read(tmp_path / "a.json", report=report) == [settings] and report.formats == {"JSON as text": 1}
    refused("its fields are name", tmp_path / "c.json")
    (tmp_path / "c.json").unlink()
    assert read(tmp_path, glob="*.json") == [settings, "[1, 2, 3]"]
    refused("neither lines nor an array of objects, so it has no field 'story'", tmp_path / "a.json", field="story")
    (tmp_path / "c.txt").unlink()
    refused(r"The \.json files found hold no records", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "{curly} words\nand more\n",
        "[a link](there) and\nmore",
        '{"a": 1}\nthen prose\n',
        "{\n  x = 1;\n}\n",
        "[",
        "{",
        '{"a',
    ],
)
def test_text_that_begins_like_json_stays_text(tmp_path, text: str):
    (tmp_path / "a.md").write_text(text)
    assert read(tmp_path / "a.md") == [text]


def test_damage_in_an_array_is_named_by_its_record(tmp_path):
    path = tmp_path / "a.json"
    for text, says in (
        ('[{"text": "x"}, {"text": "y"', "record 2 of .* is not JSON"),
        ('[{"text": "x"}, 7]', "record 2 of .* is a int"),
        ('[{"text": "x"} {"text": "y"}]', "after its record 1 there is neither"),
        ('[{"text": "x"}] more', "something follows"),
    ):
        path.write_text(text)
        refused(says, path)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "shift_jis", "koi8-r", "gb18030", "iso2022_jp", "utf-16-le"])
def test_another_encoding_is_refused_until_it_is_named(tmp_path, encoding: str):
    text = {
        "shift_jis": "吾輩は猫である。",
        "iso2022_jp": "吾輩は猫である。",
        "koi8-r": "все счастливые ",
        "gb18030": "中文字符",
    }.get(encoding, "Käse, déjà vu, ") * 9 + "\n"
    text = text if encoding != "utf-16-le" else "中文字符"
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    (tmp_path / "b.txt").write_text("naïve UTF-8 beside it")
    if encoding != "iso2022_jp":  # seven bits: valid UTF-8
        refused(r"of .*a\.txt is not UTF-8; name its encoding with --encoding", path)
    report = ReadingReport()
    assert read(tmp_path, encoding=encoding, report=report) == [text, "naïve UTF-8 beside it"]
    assert report.invalid_utf8 == 0 and sum(report.formats.values()) == 2


def test_a_little_invalid_utf8_is_replaced_and_a_cut_end_is_not_held_against_a_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x" * 99 + b"\xff")
    assert read(tmp_path / "a.txt") == ["x" * 99 + "\ufffd"]
    (tmp_path / "a.txt").write_bytes(b"x" * 98 + b"\xff\xff")
    refused("2.0% of", tmp_path / "a.txt")
    report = ReadingReport()
    for data, text in (("é 中".encode()[:-1], "é \ufffd"), ("few".encode("utf-16-le") + b"x", "few\ufffd")):
        (tmp_path / "a.txt").write_bytes(data)
        assert read(tmp_path / "a.txt", report=report) == [text]
    assert report.invalid_utf8 == 2


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize(
    "text", ["все счастливые семьи похожи\n", "中文 字符\n", "ไทย ไทย\n", "Hi", "a\tb\r\n", "\U0001f409 \U0001f409"]
)
def test_wide_characters_without_a_mark_show_by_their_nuls(tmp_path, encoding: str, text: str):
    for times in (1, 700):
        (tmp_path / "a.txt").write_bytes((text * times).encode(encoding))
        assert read(tmp_path / "a.txt") == [text * times]


def test_a_lone_surrogate_in_utf16_is_replaced_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(
        ("words " * 50 + "\ufffd").encode("utf-16") + b"\x3d\xd8" + "x".encode("utf-16-le")
    )
    report = ReadingReport()
    assert read(tmp_path / "a.txt", report=report) == ["words " * 50 + "\ufffd\ufffdx"]
    assert report.invalid_utf8 == 1 and report.formats == {"text in utf-16-le": 1}


def test_a_mark_in_the_middle_is_a_character_and_a_few_nuls_are_too(tmp_path):
    text = "one\n\ufefftwo\n" + "x" * 200 + "\0"
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + text.encode())
    assert read(tmp_path / "a.txt") == [text]
    (tmp_path / "b.txt").write_bytes(codecs.BOM_UTF8)
    report = ReadingReport()
    assert read(tmp_path, report=report) == [text] and report.empty == 1


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a"])
def test_what_holds_no_text_is_named(tmp_path, name: str):
    array = io.BytesIO()
    np.save(array, np.arange(1000))
    for data, says in (
        (b"PK\x03\x04\x14\0\0\0\x08\0", "a zip archive"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF"),
        (array.getvalue(), "a NumPy array"),
        (b"a.txt" + b"\0" * 252 + b"ustar\0", "a tar archive"),
    ):
        (tmp_path / name).write_bytes(data)
        refused(says, tmp_path / name)
    (tmp_path / "b.txt").write_bytes(np.arange(-9000, 9000).astype("<i4").tobytes())
    refused("is a binary file|is not UTF-8", tmp_path / "b.txt")
    (tmp_path / "b.txt").write_bytes(np.random.default_rng(0).integers(0, 4096, 5000).astype("<u2").tobytes())
    refused("is a binary file|is not UTF-8", tmp_path / "b.txt")


@pytest.mark.parametrize(
    "data",
    [pytest.param(library.compress(b"x" * 9999), id=library.__name__) for library in (gzip, lzma, bz2)],
)
def test_a_truncated_or_flipped_file_is_named(tmp_path, data: bytes):
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0xFF
    for broken in (data[:-3], bytes(flipped)):
        (tmp_path / "a.txt").write_bytes(broken)
        refused(r"a\.txt is truncated or damaged", tmp_path / "a.txt")


def test_a_window_above_2_gib_says_what_to_do(tmp_path):
    frame = b"\x28\xb5\x2f\xfd\x00\xb0\x01\x00\x00"  # window descriptor 22 << 3: 4 GiB; an empty raw block
    (tmp_path / "a.txt.zst").write_bytes(frame)
    refused("window above 2 GiB; compress it again with zstd --long=31", tmp_path / "a.txt.zst")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("latin1x", "did you mean latin"),
        ("shift-jiss", "did you mean shift_?jis"),
        ("hex", "no text"),
        ("\0", "no text"),
        ("idna", "no text"),
    ],
)
def test_a_wrong_encoding_gets_the_nearest_name(tmp_path, name: str, says: str):
    (tmp_path / "a.txt").write_text("x")
    refused(says if says != "no text" else "There is no text encoding", tmp_path / "a.txt", encoding=name)


def test_a_damaged_parquet_file_is_one_sentence_wherever_it_is_damaged(tmp_path):
    held = io.BytesIO()
    pq.write_table(pa.table({"text": [f"A line of text, number {i}." for i in range(400)]}), held)
    rng, good, said = np.random.default_rng(0), held.getvalue(), []
    for _ in range(40):
        data = np.frombuffer(good, np.uint8).copy()
        data[rng.integers(0, len(data), 50)] ^= np.uint8(1) << rng.integers(0, 8, 50).astype(np.uint8)
        (tmp_path / "a.parquet").write_bytes(data.tobytes())
        try:
            list(documents([tmp_path / "a.parquet"]))
        except ClocheError as error:
            said.append(str(error))
    assert len(said) > 20
    assert [text for text in said if "\n" in text or not re.search(r"a\.parquet .*[a-z]{3}.*; ", text)] == []
