"""What the core install does alone: every package of an extra is hidden from a fresh interpreter, as if it were not there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cloche.errors import ExtraMissing
from cloche.missing import extra

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = (
    *("numba", "llvmlite", "scipy", "pywt", "pyarrow", "zstandard", "PIL", "huggingface_hub", "anywidget"),
    *("transformers", "sklearn", "pandas", "jinja2", "httpx"),
)
NEED_AN_EXTRA = re.compile(r"cloche\.sparse\.(sindy|compiled|pursuit\.kernels|.*_kernel$)")
ALONE = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"  # None: importing it raises ModuleNotFoundError

IMPORT_ALL = """
import importlib, pkgutil, cloche
for found in pkgutil.walk_packages(cloche.__path__, "cloche.", onerror=lambda name: None):
    if found.name == "cloche.__main__":
        continue
    try:
        importlib.import_module(found.name)
    except ImportError as error:
        print(found.name, type(error).__name__, error)
"""

WORK = """
from cloche.interp.probing.probes import probe
from cloche.sparse import SyntheticFeatures, TopK, Training, train_sae
from cloche.sparse.saes import AuxLoss
from cloche.sparse.truth import grade, synthetic_report

def train(stream, seed):
    return train_sae(stream, 24, 2, Training(steps=10, batch=64, aux=AuxLoss(dead_after=10_000)), kind=TopK(), seed=seed)[0]

synthetic = SyntheticFeatures(width=16, features=24, active=2)
print(synthetic_report(train, synthetic, seeds=range(2), batch=64, held_out=128))
signals, code = synthetic.sample(600)
labels = code.dense()[:, :1].numpy() > 0
print(probe(code, labels, signals[:, 0].numpy() > signals[:, 0].median().item(), ks=(1,))[0].by_k[1])
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", ALONE + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_module_of_the_core_is_imported_without_extras() -> None:
    refused = [line.split(maxsplit=2) for line in python(IMPORT_ALL).splitlines()]
    assert not [line for line in refused if not NEED_AN_EXTRA.match(line[0])]
    assert {"cloche.sparse.compiled", "cloche.sparse.sindy"} <= {name for name, *_ in refused}


def test_a_missing_extra_is_one_sentence_with_the_command() -> None:
    with pytest.raises(ExtraMissing, match=r"^Frames need Nothing: pip install 'cloche\[images\]'\.$"):
        extra("no_such_package_at_all", "images", "Frames need Nothing")


NEEDS = (
    "from cloche.sparse.pursuit import NonNegativeOMP as P; P(k=1).encode(torch.ones(2, 4), Dictionary(torch.eye(4)))",
    "from cloche.sparse.transforms import noise_level; noise_level(torch.ones(64))",
    "from cloche.sparse.sindy import SINDy; SINDy()",
)


def test_what_needs_an_extra_says_which_and_the_rest_needs_none() -> None:
    """Autoencoders, planted truth and probes among the rest."""
    tries = "".join(f"try:\n    {code}\nexcept ExtraMissing as error:\n    print(error)\n" for code in NEEDS)
    imports = "import torch\nfrom cloche.errors import ExtraMissing\nfrom cloche.sparse import Dictionary\n"
    said = python(imports + tries + WORK).splitlines()
    refused, worked = said[: len(NEEDS)], "\n".join(said[len(NEEDS) :])
    assert all(line.endswith(": pip install 'cloche[sparse]'.") for line in refused)
    assert "±" in worked and "Sparse(chosen=(0,)" in worked


def test_nothing_of_an_extra_is_loaded_where_it_is_there() -> None:
    packages = ("cli", "data", "decode", "glass", "interp", "microscope", "model", "runs", "sparse", "text", "train")
    code = "import sys\n" + "".join(
        f"from cloche.{package} import *\n" for package in packages
    )  # all that they hand out
    code += f"print(*[name for name in {EXTRAS!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_core_names_no_package_of_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {re.split(r"[>=<\[ ]", line)[0].lower() for line in project["dependencies"]}
    assert core == {
        "torch",
        "numpy",
        "filelock",
        "tokenizers",
        "safetensors",
        "pydantic",
        "tomli-w",
        "typer",
        "rich",
    } | {
        "starlette",
        "uvicorn",
    }
