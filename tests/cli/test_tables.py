"""Tables as programs and countries write them: the right numbers, or one sentence with the file, the row and the column."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cloche.cli.arrays import read_array
from cloche.cli.tables import read_table
from cloche.errors import ClocheError

Call = Callable[..., tuple[int, str, str]]
PLAIN = "t,x\n0,1.5\n1,-2e-3\n2,3\n"
GERMAN = "t;x\n0;1,5\n1;-2e-3\n2;3\n"
SAME = {  # all of these are the table PLAIN
    "commas": PLAIN,
    "byte-order mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16 without its mark": PLAIN.encode("utf-16-le"),
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "old line ends": PLAIN.replace("\n", "\r"),
    "semicolons": PLAIN.replace(",", ";"),
    "decimal commas": GERMAN,
    "decimal commas with tabs": GERMAN.replace(";", "\t"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "blanks": "  t      x\n  0    1.5\n  1 -2e-3\n  2      3\n",
    "blanks after commas": PLAIN.replace(",", ", "),
    "quoted": '"t","x"\n"0","1.5"\n"1","-2e-3"\n"2","3"\n',
    "comments and blank lines": "# made\n\nt,x\n0,1.5\n# half\n1,-2e-3\n,\n2,3\n\n",
    "a separator that ends each row": "t,x,\n0,1.5,\n1,-2e-3,\n2,3,\n",
    "pandas' index": ",t,x\n0,0,1.5\n1,1,-2e-3\n2,2,3\n",
    "pandas' index, read and written again": "Unnamed: 0,t,x\n0,0,1.5\n1,1,-2e-3\n5,2,3\n",
    "pandas' index of words": ",t,x\na,0,1.5\nb,1,-2e-3\nc,2,3\n",
    "R's row names": '"","t","x"\n"1",0,1.5\n"2",1,-2e-3\n"3",2,3\n',
    "R's write.table": '"t" "x"\n"1" 0 1.5\n"2" 1 -2e-3\n"3" 2 3\n',
    "Excel's sep=": "sep=;\r\n" + GERMAN.replace("\n", "\r\n"),
    "no last line end": PLAIN.rstrip(),
}


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "in.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("kind", SAME)
def test_a_table_is_the_same_however_it_is_written(tmp_path: Path, kind: str) -> None:
    read = read_table(table(tmp_path, SAME[kind]))
    assert [read.names[at] for at in read.numbered] == ["t", "x"]
    np.testing.assert_array_equal(read.numbers(), [[0, 1.5], [1, -0.002], [2, 3]])


@pytest.mark.parametrize(
    ("text", "heading", "numbers"),
    [
        ("1,2\n3,4\n", (), [[1, 2], [3, 4]]),
        ("5\n6\n", (), [[5], [6]]),
        ("x\n1,5\n2,5\n", ("x",), [[1.5], [2.5]]),
        (",0,1,2\n0,1.5,2.5,3.5\n", ("", "0", "1", "2"), [[1.5, 2.5, 3.5]]),
        ("0,1,2\n1.5,2.5,3.5\n", ("0", "1", "2"), [[1.5, 2.5, 3.5]]),
        ("température,x\n1,2\n".encode("latin-1"), ("température", "x"), [[1, 2]]),
        ("land,2019,2020\n1,2,3\n", ("land", "2019", "2020"), [[1, 2, 3]]),
    ],
)
def test_headings_and_what_only_looks_like_one(
    tmp_path: Path, text: str | bytes, heading: tuple[str, ...], numbers: list[list[float]]
) -> None:
    read = read_table(table(tmp_path, text))
    assert read.heading == heading
    np.testing.assert_array_equal(read.numbers(), numbers)


WRONG = {
    "": "no rows",
    "\n \n": "no rows",
    "# nothing\n": "no rows",
    "t,x\n": "no rows",
    "t,x\n1,\n": "Row 1 of .*column 'x', has no number",
    "t,x\n1,2\n3,NA\n": "Row 2 of .*column 'x', has no number",
    "1,,3\n2,3,4\n": "Row 1 of .*column '1', has no number",
    "t,x\n1,abc\n": "Row 1 .*'abc', which is not a number",
    "t,x\n1,True\n": "'True', which is not a number",
    "t,x\n1,1_0\n": "'1_0', which is not a number",
    "t,x\n1,\u0661\n": "which is not a number",
    "t,x\n1,2+3j\n": "which is not a number",
    "t,x\n1,inf\n": "which is infinite",
    "t,x\n1,1e999\n": "which is infinite",
    '"1,234",5\n3,4\n': "'1,234', which is not a number",
    "t;x\n1.234,5;2\n": "'1.234,5', which is not a number",
    "t;x\n1.5;2,5\n": "with commas .* and with points",
    "t,x\n1,2\n3\n": "Line 3 .* has 1 cells",
    "t,x\n1,2,3\n": "Line 2 .* has 3 cells",
    ",x\n0.5,2\n0.1,3\n": "first column .* has no name",
    "a\0b": "not a table of text",
    b"\x89PNG\r\n\x1a\n\x00\x00": "not a table of text",
    b"PK\x03\x04....": "save it as CSV",
    b"\x93NUMPY": "rename it to end in .npy",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_table_of_numbers_is_one_sentence(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(ClocheError, match=WRONG[text]) as caught:
        read_table(table(tmp_path, text)).numbers()
    assert "in.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_column_that_is_not_there_or_is_there_twice(tmp_path: Path) -> None:
    read = read_table(table(tmp_path, "a,b,b\n1,2,3\n"))
    for name, said in (("c", "has no column 'c'; it has a, b"), ("b", "2 columns called 'b'")):
        with pytest.raises(ClocheError, match=said):
            read.find(name)


def saved(values: object, **how: object) -> bytes:
    file = io.BytesIO()
    np.save(file, values, **how)  # type: ignore[arg-type]
    return file.getvalue()


ARRAYS = {
    "an empty file": (b"", "cannot be read"),
    "not an array": (b"hello", "cannot be read|not an array"),
    "cut short": (saved(np.ones(99))[:-8], "cannot be read"),
    "more than there is memory for": (saved(np.ones(9)).replace(b"(9,), }    ", b"(10**14,),}"), "cannot be read"),
    "pickled objects": (saved(np.array([{}], dtype=object), allow_pickle=True), "Python objects, which are never read"),
    "empty": (saved(np.ones((0, 3))), "it is empty"),
    "no axis": (saved(np.array(3.0)), "one or two axes"),
    "three axes": (saved(np.ones((2, 2, 2))), "one or two axes"),
    "complex": (saved(np.ones(3, dtype=complex)), "complex numbers"),
    "bool": (saved(np.ones(3, dtype=bool)), "contains booleans"),
    "texts": (saved(np.array(["a"])), "contains text"),
    "dates": (saved(np.array(["2020-01-01"], dtype="datetime64[D]")), "dates"),
    "records": (saved(np.zeros(3, dtype=[("a", float)])), "records"),
    "NaN": (saved(np.array([[1.0, 2.0], [np.nan, 1.0]])), r"NaN at \[1, 0\]"),
    "infinite": (saved(np.array([1.0, np.inf])), r"infinite number at \[1\]"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_cannot_be_used_are_one_sentence(tmp_path: Path, kind: str) -> None:
    data, said = ARRAYS[kind]
    (tmp_path / "in.npy").write_bytes(data)
    with pytest.raises(ClocheError, match=said) as caught:
        read_array(tmp_path / "in.npy")
    assert "in.npy" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [">f4", "<i2", "u8", "f2", "longdouble"])
def test_arrays_of_every_kind_of_real_number(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "in.npy", np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)))
    read = read_array(tmp_path / "in.npy")
    assert read.dtype == np.float64 and read.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_command_reads_and_writes_tables_as_they_were(call: Call, tmp_path: Path) -> None:
    """Semicolons, decimal commas and the index come back; no file is written over, nor through a file."""
    wave = np.sin(np.arange(64) / 5)
    rows = "".join(f"{i};{str(i / 10).replace('.', ',')};{str(v).replace('.', ',')}\n" for i, v in enumerate(wave))
    path = table(tmp_path, ";t;y\n" + rows)
    words = ("sparse", "denoise", path, "--column", "y", "--sigma", "0.1", "--out")
    assert call(*words, tmp_path / "new" / "out.csv")[0] == 0, "a folder that is missing is made"
    lines = (tmp_path / "new" / "out.csv").read_text().splitlines()
    assert lines[0] == ";t;y" and lines[2].startswith("1;0,1;") and "." not in "".join(lines)
    for out, said in (
        (path, "is the file that is read"),
        (tmp_path / "new" / "out.csv", "exists already"),
        (path / "x.csv", "is a file and not a folder"),
        (tmp_path / ("a" * 300), "choose a shorter name"),
    ):
        code, _, err = call(*words, out)
        assert (code, err.count("\n")) == (1, 1) and said in err, err
