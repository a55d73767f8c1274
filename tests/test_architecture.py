"""The packages stand as docs/architecture.md says: who imports whom, who may import torch, how large things may be."""

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
ROW = re.compile(r"^\| `(?P<package>\w+)` \|(?P<holds>[^|]*)\|(?P<imports>[^|]*)\|$", re.MULTILINE)
BASE = {"errors", "files", "lazy", "missing", "part", "memory", "part_text", "ranks", "words"}
OPEN_MODELS = {"interp", "microscope", "cli", "evals", "posttrain", "diagnose", "serve"}  # may import glass
# What the table allows and no code does yet; an import that begins to be used is taken from here.
NOT_YET = {
    "text": {"runs", "drawing"},
    "data": {"runs"},
    "interp": {"data"},
    "evals": {"runs", "decode"},
    "diagnose": {"interp", "text"},
}

MOST_MODULES, MOST_FUNCTION, MOST_PARAMETERS, MOST_FIELDS = 12, 60, 8, 8
MANY_MODULES = {"model/huggingface/families"}  # one file for each family
RESULTS = {  # what is given back, or written down: as many fields as there are figures
    *("data/reading/reading_report.py ReadingReport", "drawing/panels.py Heatmap", "drawing/panels.py Lines"),
    *("diagnose/why/course.py Course", "diagnose/why/facts.py Facts"),
    *("sparse/sindy/model.py Model", "sparse/sindy/regression.py Regression", "tasks/task.py Item"),
}


@cache
def table() -> dict[str, tuple[set[str], bool]]:
    """{package: (the packages it may import, whether it may import torch)} as written in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = {match["package"]: match["imports"] for match in ROW.finditer(text)}
    allowed = {}
    for package, stated in rows.items():
        named = set(rows) - {package} if "everything" in stated else set(re.findall(r"`(\w+)`", stated))
        allowed[package] = (named, "no torch" not in stated)
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


def files(package: str) -> list[Path]:
    single = PACKAGE / f"{package}.py"
    return [single] if single.is_file() else sorted((PACKAGE / package).rglob("*.py"))


def of_others(package: str) -> list[tuple[Path, int, str]]:
    """(file, line, module) of every import from another package or module of the project, the base modules left out."""
    return [
        (path, line, module)
        for path in files(package)
        for line, module, _ in imports(path)
        if module.startswith("cloche.") and module.split(".")[1] not in BASE | {package, "__version__"}
    ]


def test_the_table_names_exactly_the_packages_there_are() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - BASE - {"__init__", "__main__"}
    assert set(table()) == folders | modules
    assert table()["data"] == ({"runs", "text"}, False)


@pytest.mark.parametrize("package", table())
def test_a_package_imports_what_the_table_says(package: str) -> None:
    allowed, _ = table()[package]
    found = [each for each in of_others(package) if not _is_worker(package, each[0])]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path, line, module in found
        if module.split(".")[1] not in allowed | ({"glass"} if package in OPEN_MODELS else set())
    ]
    assert not wrong
    used = {module.split(".")[1] for _, _, module in found}
    if package != "cli":
        assert allowed - used <= NOT_YET.get(package, set()), "the table names what is not imported"


@pytest.mark.parametrize("package", table())
def test_packages_are_imported_through_what_they_hand_out(package: str) -> None:
    past = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path, line, module in of_others(package)
        if not PACKAGE.joinpath(*module.split(".")[1:]).is_dir() and module.count(".") > 1
    ]
    assert not past, "import from the package, and export the name there"


@pytest.mark.parametrize("module", sorted(BASE))
def test_base_modules_import_nothing_above_them(module: str) -> None:
    names = [name for _, name, _ in imports(PACKAGE / f"{module}.py")]
    assert not [name for name in names if name.startswith("cloche.") and name.split(".")[1] not in BASE]
    assert module == "ranks" or not [name for name in names if name.split(".")[0] in ("torch", "transformers")]


def _is_worker(package: str, path: Path) -> bool:
    """The microscope's worker is a process of its own and the only place of that package where models are."""
    return package == "microscope" and path.name == "worker.py"


@pytest.mark.parametrize("package", [name for name, (_, torch) in table().items() if not torch])
def test_packages_without_torch_name_it_nowhere(package: str) -> None:
    named = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files(package)
        for line, module, for_types in imports(path)
        if module.split(".")[0] in ("torch", "transformers") and not for_types
    ]
    assert not named


@pytest.mark.parametrize("package", [*(name for name, (_, torch) in table().items() if not torch), "cli", "microscope"])
def test_importing_a_package_without_torch_brings_none(package: str) -> None:
    code = f"import sys, cloche.{package}; sys.exit('torch' in sys.modules)"
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


def test_folders_hold_few_modules() -> None:
    many = {
        str(folder.relative_to(PACKAGE)): count
        for folder in packages()
        if (count := len(list(folder.glob("*.py"))) - 1) > MOST_MODULES
    }
    assert not {name: count for name, count in many.items() if name not in MANY_MODULES}


def test_functions_and_settings_are_small() -> None:
    """Functions of at most 60 lines; at most 8 parameters and fields. Commands have as many parameters as options, and compiled
    kernels pass what they would rather keep."""
    long, parameters, fields = [], [], []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not path.stem.endswith("_kernel"):
                first = node.body[0] if where.startswith("cli/") else node  # options are no part of a command's length
                told = ast.get_docstring(node, clean=False) or ""  # nor is what it says of itself
                if (node.end_lineno or 0) - first.lineno - told.count("\n") >= MOST_FUNCTION:
                    long.append(f"{where} {node.name}")
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len(names) - (names[:1] in (["self"], ["cls"])) > MOST_PARAMETERS and not where.startswith("cli/"):
                    parameters.append(f"{where} {node.name}")
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
                stated = [part for part in node.body if isinstance(part, ast.AnnAssign)]
                if len([part for part in stated if "ClassVar" not in ast.unparse(part.annotation)]) > MOST_FIELDS:
                    fields.append(f"{where} {node.name}")
    assert not long
    assert not parameters
    assert not set(fields) - RESULTS


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
