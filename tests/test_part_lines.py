"""One line of text as a value: what it means, what it refuses, and that none of it ever runs or imports anything."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cloche import part_text
from cloche.errors import ClocheError, ImportRefused, PartInvalid, PartUnknown
from cloche.part import Part, import_parts, part_from_dict, part_from_line


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_text, "imported", [])  # other tests start processes that would import the same


class Shape(Part):
    """What the lines below describe."""

    renamed = {"circle": "Circle", "old-ring": "Circle"}  # noqa: RUF012 (a class's table, as Part declares it)


@dataclasses.dataclass(frozen=True)
class Circle(Shape):
    radius: float = 1.0
    label: str = "c"
    filled: bool = False


@dataclasses.dataclass(frozen=True)
class Several(Shape):
    shapes: tuple[Shape, ...]
    sizes: tuple[int, ...] = ()
    limit: float | None = None
    corner: tuple[int, float] = (0, 0.5)


LINES = {
    "Circle": Circle(),
    "Circle()": Circle(),
    "circle": Circle(),
    "old-ring": Circle(),
    " Circle(2) ": Circle(2.0),
    "Circle(2, 'a b')": Circle(2.0, "a b"),
    "Circle(label=word, filled=True)": Circle(label="word", filled=True),
    "Circle(label='my_parts:Circle')": Circle(label="my_parts:Circle"),
    "Circle(-1e-3)": Circle(-0.001),
    "Circle(inf)": Circle(math.inf),
    "Circle(radius=-inf)": Circle(-math.inf),
    "test_part_lines:Circle(3)": Circle(3.0),
    "Several([])": Several(()),
    "Several([Circle, Circle(2)], sizes=(1, 2), limit=None)": Several((Circle(), Circle(2.0)), (1, 2)),
    "Several(shapes=[Several([test_part_lines:Circle(filled=True)])], corner=[1, 2])": Several(
        (Several((Circle(filled=True),)),), corner=(1, 2.0)
    ),
    "Several(['Circle(4)'], limit=3)": Several((Circle(4.0),), limit=3.0),
}


@pytest.mark.parametrize("text", LINES)
def test_a_line_is_a_value_and_back(text: str) -> None:
    found = part_from_line(text, Shape)
    assert found == LINES[text] and hash(found) == hash(LINES[text])
    assert part_from_line(found.to_line(), Shape) == found == part_from_dict(found.to_dict(), base=Shape)
    found.check_fields("it")


def test_what_a_line_looks_like() -> None:
    value = Several((Circle(2.0, "it's"),), (1, 2))
    assert value.to_line() == (
        """test_part_lines:Several(shapes=[test_part_lines:Circle(radius=2.0, label="it's", filled=False)], """
        "sizes=[1, 2], corner=[0, 0.5])"
    )


DEEP = "Several(" * 500 + ")" * 500
REFUSED = {
    "": "is not a part",
    "Circle(": "is not a part",
    "Circle(1))": "is not a part",
    "Circle(1); Circle(2)": "is not a part",
    "Circle\0": "is not a part",
    "lambda: Circle()": "is not a part",
    "(lambda: 1)()": "is not a part",
    "Circle(lambda: 1)": "is not a part",
    "Circle(label=f'{1}')": "is not a part",
    "Circle(label=b'x')": "is not a part",
    "Circle(radius=1+1)": "is not a part",
    "Circle(radius=9**9**9)": "is not a part",
    "Circle(radius=1j)": "is not a part",
    "Circle(radius=[x for x in (1,)])": "is not a part",
    "Circle(radius=(y := 2))": "is not a part",
    "Circle(*[1])": "is not a part",
    "Circle(**{'radius': 1})": "is not a part",
    "Circle(radius=1, radius=2)": "is not a part",
    "Circle().radius": "is not a part",
    "Circle.__class__": "is not a part",
    "Circle.__init__.__globals__['os']": "is not a part",
    "Circle(label={'a': 1})": "is not a part",
    "__import__('os').system('touch owned')": "is not a part",
    "__import__('os')": "unknown Shape '__import__'",
    "__class__": "unknown Shape '__class__'",
    "exec(label='import os')": "unknown Shape 'exec'",
    "print(1)": "unknown Shape 'print'",
    "os:system('touch owned')": "must be|os has no Shape of that name",
    "builtins:eval('1')": "builtins has no Shape of that name",
    "Shape": "unknown Shape 'Shape'",
    "Dictionary(1)": "unknown Shape",
    "Circel(1)": "did you mean '.*Circle'",
    "Circle(raduis=1)": "no field 'raduis'; did you mean 'radius'",
    "Circle(__class__=1)": "no field '__class__'",
    "Circle(part='Several')": "no field 'part'",
    "Circle(1, radius=2)": "radius twice",
    "Circle(1, 'a', True, 4)": "takes radius, label, filled, but was given 4 values without a name",
    "Circle(radius='wide')": r"\[it.radius\] must be of type float, not 'wide'",
    "Circle(radius=wide)": r"\[it.radius\] must be of type float, not 'wide'",
    "Circle(radius=True)": r"\[it.radius\] must be of type float, not True",
    "Circle(filled=1)": r"\[it.filled\] must be of type bool",
    "Circle(label=Circle)": "",  # a word: it is the label
    "Circle(label=Circle())": r"\[it.label\] must be of type str",
    "Several": "needs shapes",
    "Several(3)": r"\[it.shapes\] must be a list",
    "Several([3])": r"\[it.shapes\[0\]\] must be a Shape",
    "Several([], corner=[1])": "must be a list of 2",
    "Circle(" + "9" * 60 + ")": "must be of type float, not 9",
    "Several([], [" + "9" * 30 + "])": "beyond 64 bits",
    "Circle(" + "9" * 5000 + ")": "is not a part",
    DEEP: "is not a part|nested more than",
    "Several(" + "[" * 150 + "]" * 150 + ")": "nested more than 64",
    "Circle(" + "-" * 5000 + "1)": "is not a part",
    "Circle(label='" + "x" * 30_000 + "')": "at most 20,000 characters",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:40])
def test_what_is_no_value_is_refused_in_one_sentence(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    if not REFUSED[text]:
        assert part_from_line(text, Shape) == Circle(label="Circle")
        return
    with pytest.raises(ClocheError, match=REFUSED[text]) as caught:
        part_from_line(text, Shape, "it")
    assert str(caught.value).startswith("[it") and "\n" not in str(caught.value) and len(str(caught.value)) < 900
    assert not list(tmp_path.iterdir()) and not {"antigravity", "this"} & (set(sys.modules) - before)


@pytest.mark.parametrize(
    "data",
    [
        {"part": "__import__('os').system('touch owned')"},
        {"part": "Circle(radius=1)"},
        {"part": "os:system"},
        {"part": "hostile_parts:Circle"},
        {"part": "Circle", "radius": {"part": "hostile_parts:Circle"}},
        {"part": "Several", "shapes": ["hostile_parts:Circle(1)"]},
        {"part": "Several", "shapes": [{"part": "Several", "shapes": "x"}]},
        {"part": "Several", "shapes": json.loads("[" * 300 + "]" * 300)},
        {"part": "Circle", "radius": 10**5000},
        {"part": "Several", "shapes": [], "sizes": [10**400]},
        {"part": "Several", "shapes": [], "limit": float("nan"), "__init__": 1},
    ],
    ids=lambda data: data["part"],
)
def test_a_hostile_dict_is_refused_without_a_side_effect(
    data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hostile_parts.py").write_text("import pathlib; pathlib.Path('owned').touch()")
    with pytest.raises(ClocheError):
        part_from_dict(data, base=Shape)
    assert not (tmp_path / "owned").exists() and "hostile_parts" not in sys.modules


MODULE = """
from dataclasses import dataclass
from test_part_lines import Shape

@dataclass(frozen=True)
class Square(Shape):
    side: float = 1.0
"""


def test_a_module_is_imported_only_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squares_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(PartUnknown, match="if you trust it, add --import squares_of_mine"):
        part_from_line("squares_of_mine:Square(side=2)", Shape)
    with pytest.raises(PartUnknown, match=r"unknown Shape 'Square' \(add --import MODULE if it is your own\); "):
        part_from_line("Square(side=2)", Shape)
    import_parts(["squares_of_mine"])
    found = part_from_line("Square(side=2)", Shape)
    assert found.to_line() == "squares_of_mine:Square(side=2.0)"
    assert found == part_from_line(found.to_line(), Shape) == part_from_dict(found.to_dict(), base=Shape)
    again = dataclasses.dataclass(frozen=True)(type("Square", (Shape,), {"__module__": "squares_of_others"}))
    with pytest.raises(PartUnknown, match="squares_of_mine:Square or squares_of_others:Square"):
        part_from_line("Square", Shape)
    assert type(part_from_line("squares_of_others:Square", Shape)) is again
    again.__name__ = "Renamed"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("absent_parts", None, "no module 'absent_parts' in the current folder"),
        (
            "broken_parts",
            "import absent_library",
            r"ModuleNotFoundError: No module named 'absent_library' \(broken_parts.py, line 1",
        ),
        ("raising_parts", "\nraise SystemExit(3)", r"SystemExit: 3 \(raising_parts.py, line 2\)"),
        ("garbled_parts", "def (", "SyntaxError: invalid syntax"),
        ("my_parts.py", None, "is not the name of a Python module; give one, such as 'my_parts'"),
        ("", None, "is not the name of a Python module"),
        ("../my_parts", None, "is not the name of a Python module"),
        ("os; import this", None, "is not the name of a Python module"),
    ],
)
def test_an_import_that_fails_is_one_sentence(
    name: str, text: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    if text is not None:
        (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(ImportRefused, match=said) as caught:
        import_parts([name])
    assert "\n" not in str(caught.value)


def test_nothing_in_the_current_folder_stands_in_for_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colorsys.py").write_text("raise SystemExit")
    (tmp_path / "parts_with_colours.py").write_text("import colorsys")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    import_parts(["parts_with_colours"])


class Bare(Circle):
    thickness: float = 1.0


@dataclasses.dataclass(frozen=True)
class Foggy(Shape):
    of: Elsewhere = None  # type: ignore[name-defined]  # noqa: F821


def test_classes_that_are_no_whole_parts_are_told_how_to_be() -> None:
    assert part_from_line("Bare(2)", Shape) == Bare(2.0)
    with pytest.raises(ClocheError, match=r"no field 'thickness'; write @dataclass\(frozen=True\) above the class\."):
        part_from_line("Bare(thickness=2)", Shape)
    with pytest.raises(ClocheError, match=r"'Elsewhere' is not defined\); import it outside"):
        part_from_line("Foggy", Shape)


def test_an_installed_package_is_asked_only_for_an_unknown_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed_parts.py").write_text(MODULE.replace("Square", "Hexagon"))
    monkeypatch.syspath_prepend(tmp_path)
    entries = [
        EntryPoint("Hexagon", "installed_parts:Hexagon", part_text.GROUP),
        EntryPoint("Missing", "no_such_package:Missing", part_text.GROUP),
        EntryPoint("Circle", "no_such_package:Circle", part_text.GROUP),
    ]
    monkeypatch.setattr(part_text, "entry_points", lambda group: [e for e in entries if e.group == group])
    assert part_from_line("Circle", Shape) == Circle()
    assert "installed_parts" not in sys.modules
    assert part_from_line("Hexagon(2)", Shape).to_line() == "installed_parts:Hexagon(side=2.0)"
    with pytest.raises(ImportRefused, match="no_such_package"):
        part_from_line("Missing", Shape)


def test_what_installed_packages_offer_may_be_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of one name, a module that raises, what is no class or no part of this base."""
    for package in ("one_package", "other_package"):
        (tmp_path / f"{package}.py").write_text(MODULE.replace("Square", "Octagon") + "\nPi = 3\nWord = str\n")
    (tmp_path / "raising_package.py").write_text("raise RuntimeError('two\\nlines')")
    monkeypatch.syspath_prepend(tmp_path)
    entries = [
        *(EntryPoint("Octagon", f"{package}:Octagon", part_text.GROUP) for package in ("one_package", "other_package")),
        EntryPoint("Raising", "raising_package:Raising", part_text.GROUP),
        EntryPoint("Pi", "one_package:Pi", part_text.GROUP),
        EntryPoint("Word", "one_package:Word", part_text.GROUP),
        EntryPoint("Gone", "one_package:Gone", part_text.GROUP),
    ]
    monkeypatch.setattr(part_text, "entry_points", lambda group: entries)
    with pytest.raises(ClocheError, match="write one_package:Octagon or other_package:Octagon"):
        part_from_line("Octagon", Shape)
    assert part_from_line("other_package:Octagon(2)", Shape).to_line() == "other_package:Octagon(side=2.0)"
    with pytest.raises(ImportRefused, match=r"raising_package:Raising cannot be imported: RuntimeError: two lines"):
        part_from_line("Raising", Shape)
    for name in ("Pi", "Word"):
        with pytest.raises(ClocheError, match=f"one_package:{name} of an installed package is no Shape"):
            part_from_line(name, Shape)
    with pytest.raises(ImportRefused, match="one_package:Gone cannot be imported: AttributeError"):
        part_from_line("Gone", Shape)


def test_the_command_line_imports_what_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "noisy_parts.py").write_text("print('imported')")

    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from cloche.cli import main; main()", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = ran("verify", "nowhere", "--import", "noisy_parts")
    assert done.stdout.startswith("imported\n") and done.returncode == 1
    done = ran("--import", "absent_parts", "verify", "nowhere", "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["code"] == "IMPORT-REFUSED"
    assert "imported" not in ran("verify", "nowhere").stdout


def test_values_need_no_torch() -> None:
    code = "import sys, cloche.part; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_abstract_class_says_what_it_lacks() -> None:
    from cloche.tasks import Task

    class HalfMade(Task):
        def draw(self, level, rng):
            return {}

    with pytest.raises(PartInvalid, match="HalfMade, which does not define isomorphic and rules and swap and template"):
        part_from_line("HalfMade", Task, "task")
