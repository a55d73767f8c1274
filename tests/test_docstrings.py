"""The example in the docstring of every public name runs, on a tiny model and in an empty folder, and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import sys
from typing import Any, get_origin

import pytest
from typing_extensions import is_typeddict

import cloche

# Packages of which every public name has an example. A package that is not here yet runs those that it has.
COMPLETE = {
    "cloche",
    "cloche.data",
    "cloche.data.reading",
    "cloche.decode",
    "cloche.diagnose",
    "cloche.drawing",
    "cloche.evals",
    "cloche.interp",
    "cloche.interp.dictionaries",
    "cloche.interp.lenses",
    "cloche.interp.manifolds",
    "cloche.interp.probing",
    "cloche.microscope",
    "cloche.model",
    "cloche.model.sites",
    "cloche.runs",
    "cloche.runs.verification",
    "cloche.sparse",
    "cloche.sparse.learners",
    "cloche.sparse.pursuit",
    "cloche.sparse.saes",
    "cloche.sparse.sindy",
    "cloche.sparse.transforms",
    "cloche.sparse.truth",
    "cloche.tasks",
    "cloche.text",
    "cloche.train",
    "cloche.train.controller",
    "cloche.train.recipe",
}
PACKAGES = ["cloche", *(found.name for found in pkgutil.walk_packages(cloche.__path__, "cloche.") if found.ispkg)]


def is_documented(thing: Any) -> bool:
    """Whether it is a class or a function, rather than a constant, a type alias or the type of a record."""
    return callable(thing) and get_origin(thing) is None and not is_typeddict(thing)


def public() -> dict[str, Any]:
    """Every documented object that a package hands out, by the first name it goes by."""
    found: dict[int, tuple[str, Any]] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if is_documented(thing):
                found.setdefault(id(thing), (f"{package}.{name}", thing))
    return dict(sorted(found.values()))


PUBLIC = public()


def examples(name: str) -> doctest.DocTest:
    text = inspect.getdoc(PUBLIC[name]) or ""
    return doctest.DocTestParser().get_doctest(text, {"cloche": cloche}, name, None, 0)


@pytest.mark.parametrize("name", [name for name in PUBLIC if ">>>" in (inspect.getdoc(PUBLIC[name]) or "")])
def test_the_example_runs(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(
        examples(name), out=said.append
    )
    assert not said, "".join(said)


@pytest.mark.parametrize("package", sorted(COMPLETE))
def test_every_public_name_has_an_example(package: str) -> None:
    module = sys.modules[package]
    things = {name: getattr(module, name) for name in module.__all__}
    assert not [
        name for name, thing in things.items() if is_documented(thing) and ">>>" not in (inspect.getdoc(thing) or "")
    ]
