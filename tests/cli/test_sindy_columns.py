"""`cloche sindy` finds columns whose headings carry a unit, and says what is amiss with those it does not find."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Call = Callable[..., tuple[int, str, str]]


def table(folder: Path, heading: str) -> Path:
    t = np.arange(0, 6, 0.05)
    x = 293.15 + 10 * np.exp(-0.5 * t)
    path = folder / "in.csv"
    lines = [heading, *(f"{a:.2f};{b:.6f}" for a, b in zip(t, x, strict=True))]
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("time [s];temp [K]", ()),
        ("Time (s);temp [K]", ("--columns", "temp")),
        ("when [s];temp [K]", ("--time", "when", "--columns", "temp [K]")),
    ],
)
def test_a_unit_in_the_heading_need_not_be_typed(
    call: Call, tmp_path: Path, heading: str, words: tuple[str, ...]
) -> None:
    code, out, err = call("sindy", table(tmp_path, heading), *words, "--json")
    assert code == 0, err
    read = json.loads(out)
    assert read["time"] == heading.split(";")[0] and list(read["states"]) == ["temp [K]"]


def test_names_that_differ_in_their_unit_alone_are_told_apart(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("t,a [m],a [km]\n1,2,3\n")
    code, _, err = call("sindy", path, "--columns", "a")
    assert code == 1 and "more than one column 'a'" in err


def test_an_array_is_not_asked_to_be_renamed(call: Call, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(20))
    code, _, err = call("sindy", tmp_path / "x.npy")
    assert code == 1 and "save it as CSV" in err and "rename" not in err
