"""The packages stand as docs/architecture.md says: who imports whom, who may import torch, how long a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "cloche"
MOST_LINES = {True: 400, False: 450}  # of the package; of tests and measurements
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
ROW = re.compile(r"^\| `(?P<room>\w+)` \|(?P<holds>[^|]*)\|(?P<stands_on>[^|]*)\|$", re.MULTILINE)


@cache
def table() -> dict[str, tuple[set[str], bool]]:
    """{room: (the rooms it may import, whether it may import torch)} as written in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {match["room"]: match["stands_on"] for match in ROW.finditer(text)}
    allowed = {}
    for room, stands_on in rooms.items():
        named = set(rooms) if "everything" in stands_on else set(re.findall(r"`(\w+)`", stands_on))
        allowed[room] = (named | {room}, "no torch" not in stands_on)
    return allowed


def imports(path: Path) -> list[tuple[int, str, bool]]:
    """(line, module, whether it is imported only for types) of every import in a file, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, id(node) in for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; write the whole name"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "cloche" else [node.module]
            )
            found += [(node.lineno, str(name), id(node) in for_types) for name in names]
    return found


def files(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def test_the_table_names_exactly_the_rooms_there_are() -> None:
    assert set(table()) == {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert len(table()) == 11
    assert table()["data"] == ({"data", "runs", "text"}, False)


@pytest.mark.parametrize("room", table())
def test_a_room_imports_only_what_it_stands_on(room: str) -> None:
    allowed, _ = table()[room]
    wrong = []
    for path in files(room):
        for line, module, _ in imports(path):
            top, _, rest = module.partition(".")
            other = rest.partition(".")[0]
            if top == "cloche" and other in table() and other not in allowed and not _is_worker(room, path):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong


def _is_worker(room: str, path: Path) -> bool:
    """The microscope's worker is a process of its own and the only place of that room where models are."""
    return room == "microscope" and path.name == "worker.py"


@pytest.mark.parametrize("room", [room for room, (_, torch) in table().items() if not torch])
def test_rooms_without_torch_name_it_nowhere(room: str) -> None:
    named = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files(room)
        for line, module, for_types in imports(path)
        if module.split(".")[0] in ("torch", "transformers") and not for_types
    ]
    assert not named


@pytest.mark.parametrize("room", [*(room for room, (_, torch) in table().items() if not torch), "cli", "microscope"])
def test_importing_a_room_without_torch_brings_none(room: str) -> None:
    code = f"import sys, cloche.{room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def sources() -> list[Path]:
    return [
        path
        for folder in ("src", "tests", "bench")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if ".venv" not in str(path)
    ]


def test_files_hold_one_idea() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources()
        if (lines := len(path.read_text().splitlines())) > MOST_LINES[path.is_relative_to(PACKAGE)]
    }
    assert not long
    assert not [str(path.relative_to(ROOT)) for path in sources() if path.stem in FORBIDDEN_NAMES]


def test_every_module_says_what_it_is() -> None:
    silent = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and not ast.get_docstring(tree):
            silent.append(str(path.relative_to(ROOT)))
    assert not silent


def test_files_are_written_and_hashed_in_one_place() -> None:
    alone = re.compile(r"os\.(replace|rename|fsync)\(|file_digest\(|\.fsync\(")
    wrong = [
        f"{path.relative_to(PACKAGE)}: {match[0]}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for match in alone.finditer(path.read_text(encoding="utf-8"))
        if path.relative_to(PACKAGE).as_posix()
        not in ("files.py", "runs/logs.py", "data/pack.py")  # the last two append
    ]
    assert not wrong
    code = "import sys, cloche.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def packages() -> list[Path]:
    return sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def test_packages_load_what_they_hand_out_when_it_is_asked_for() -> None:
    """Every export is imported under `if TYPE_CHECKING:` and listed in `__all__`, and no module has its name: importing a
    module sets it on its package, over the lazy export."""
    wrong = []
    for folder in packages():
        tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
        at = folder.relative_to(PACKAGE.parent)
        exports = {
            alias.asname or alias.name
            for block in tree.body
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in block.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        eager = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)} - {
            *("__future__", "typing", "collections.abc", "cloche.lazy", "cloche.missing")
        }
        wrong += [f"{at} imports {name} eagerly" for name in sorted(eager, key=str)]
        listed = next((ast.literal_eval(n.value) for n in tree.body if _assigns(n, "__all__")), [])
        if exports and exports != set(listed) - {"__version__"}:
            wrong.append(f"{at} imports other names than __all__ lists: {sorted(exports ^ set(listed))}")
        modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
        wrong += [f"{at} hands out {name} and has a module of that name" for name in sorted(exports & modules)]
    assert not wrong


def _assigns(node: ast.stmt, name: str) -> TypeGuard[ast.Assign]:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name


def test_no_pickle_anywhere() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if any(module.split(".")[0] in ("pickle", "dill", "joblib", "shelve") for _, module, _ in imports(path)):
            wrong.append(f"{path.relative_to(ROOT)} imports a pickler")
        if "torch.save(" in text or re.search(r"torch\.load\((?![^)]*\bweights_only=True)", text):
            wrong.append(f"{path.relative_to(ROOT)} saves or loads with torch, which pickles")
    assert not wrong


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports test files by their bare names, so two of one name cannot run together."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
