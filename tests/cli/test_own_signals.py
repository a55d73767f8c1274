"""Pursuits, learners, transforms and terms that a user wrote, in a module outside the package, on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cloche import part_text

Call = Callable[..., tuple[int, str, str]]
OWN = '''
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cloche.sparse import Code, Dictionary
from cloche.sparse.learners import Learner
from cloche.sparse.pursuit import OMP, Pursuit
from cloche.sparse.sindy import ForwardBackward, Library, Selector
from cloche.sparse.transforms import Band, Transform


@dataclass(frozen=True)
class Strongest(Pursuit):
    """The k strongest correlations."""

    k: int = 1

    def encode(self, x, dictionary):
        scores = x @ dictionary.atoms.T
        best = scores.abs().topk(self.k, dim=1).indices
        return Code(best, scores.gather(1, best), dictionary.size)


@dataclass(frozen=True)
class Principal(Learner):
    """The first principal directions."""

    atoms: int
    pursuit: Pursuit = OMP(k=1)

    def fit(self, signals):
        dictionary = Dictionary(torch.linalg.svd(signals, full_matrices=False)[2][: self.atoms])
        return dictionary, self.pursuit.over(dictionary)


@dataclass(frozen=True)
class Cosines(Transform):
    """The orthogonal cosine transform of signals [n]."""

    shape: tuple[int, ...]
    axes = (1,)

    @cached_property
    def layout(self):
        return Band("coarse", (1,), 0), Band("cosine", (self.shape[0] - 1,), 1)

    def _matrix(self, like):
        n = self.shape[0]
        rows = torch.cos(torch.pi / n * torch.outer(torch.arange(n), torch.arange(n) + 0.5)) * (2 / n) ** 0.5
        rows[0] /= 2**0.5
        return rows.to(like)

    def _analyse(self, x):
        return x @ self._matrix(x).T

    def _synthesise(self, flat):
        return flat @ self._matrix(flat)


@dataclass(frozen=True)
class Cubes(Library):
    """v and v^3 of each variable."""

    def names(self, variables):
        return [*variables, *(f"{v}^3" for v in variables)]

    def values(self, x):
        return np.concatenate([x, x**3], 1)


@dataclass(frozen=True)
class Everything(Selector):
    """No term is left out."""

    def large_support(self, problem):
        return ForwardBackward().large_support(problem)

    def choose(self, problem):
        return list(range(problem.design.shape[1]))
'''
IMPORT = "--import=own_signals"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, with the module in it."""
    (tmp_path / "own_signals.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(part_text, "imported", [])
    sys.modules.pop("own_signals", None)
    return tmp_path


def test_a_learner_and_a_pursuit(call: Call, folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.save("rows.npy", rng.normal(size=(400, 3)) @ rng.normal(size=(3, 8)) + 0.01 * rng.normal(size=(400, 8)))
    words = ("sparse", "learn", "rows.npy", "--out", "d", "--method", "Principal(pursuit=Strongest(3))", "--atoms", 3)
    code, out, err = call(*words, IMPORT, "--json")
    assert code == 0, err
    assert json.loads(out)["fvu"] < 1e-3
    assert json.loads((folder / "d/dictionary.json").read_text())["method"] == (
        "own_signals:Principal(atoms=3, pursuit=own_signals:Strongest(k=3))"
    )
    words = ("sparse", "encode", "d", "rows.npy", "--out", "c.npz", "--method", "own_signals:Strongest", "--k", 2)
    code, out, err = call(*words, IMPORT, "--json")
    assert code == 0 and json.loads(out)["l0"] == 2, err
    code, _, err = call(*words[:5], "e.npz", "--method", "Strongest", "--penalty", 1, IMPORT)
    assert code == 1 and "Strongest has no setting for --penalty, only k" in err
    code, _, err = call(*words[:5], "e.npz", "--method", "Strongest(k=2)", "--k", 2, IMPORT)
    assert code == 1 and "k is in --method and given as --k" in err


def test_a_transform(call: Call, folder: Path) -> None:
    rng = np.random.default_rng(0)
    clean = np.cos(np.pi * 6 * (np.arange(200) + 0.5) / 200)
    np.save("wave.npy", clean + 0.3 * rng.normal(size=200))
    words = ("sparse", "denoise", "wave.npy", "--out", "quiet.npy", "--sigma", 0.3, "--dictionary")
    assert call(*words, "Cosines", IMPORT)[0] == 0
    assert np.std(np.load("quiet.npy") - clean) < 0.1
    np.save("square.npy", np.zeros((32, 32)))
    code, _, err = call("sparse", "denoise", "square.npy", "--out", "s.npy", "--dictionary", "Cosines()", IMPORT)
    assert code == 1 and "Cosines takes 1-D signals" in err


def test_terms_and_how_they_are_chosen(call: Call, folder: Path) -> None:
    t = np.linspace(0, 6, 400)
    x = 1 / np.sqrt(1 + (1 / 0.09 - 1) * np.exp(-2 * t))  # x' = x - x^3 from 0.3
    noisy = x + 1e-3 * np.random.default_rng(0).normal(size=400)
    np.savetxt("motion.csv", np.stack([t, noisy], 1), delimiter=",", header="t,x", comments="")
    code, out, err = call("sindy", "motion.csv", "--library", "Cubes", "--selector", "Everything", IMPORT, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["terms"] == ["x", "x^3"]
    amounts = {name: term["coefficient"] for name, term in told["states"]["x"]["terms"].items()}
    assert amounts == pytest.approx({"x": 1.0, "x^3": -1.0}, abs=0.05)
    code, _, err = call("sindy", "motion.csv", "--library", "Cubes", "--degree", 2, IMPORT)
    assert code == 1 and "--library names all terms: leave out --degree and --fourier" in err
    for words in (("--form", "Strong(degree=4)"), ("--selector", "Stable(STLSQ(0.1), resamples=3)")):
        assert call("sindy", "motion.csv", *words)[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--library", "Custom([], [])"), "0 functions"),
        (("--library", "Custom([1], ['x'])"), "cannot be written as text"),
        (("--library", "Polynomials(99)"), "degree 99"),
        (("--library", "Polynomials(degree=2, constants=1)"), "has no field 'constants'; did you mean 'constant'?"),
        (("--form", "Weakly"), "unknown Form 'Weakly'"),
        (("--selector", "Polynomials"), "must be a Selector, and Polynomials is not one"),
        (("--selector", "absent_signals:Everything"), "add --import absent_signals"),
    ],
)
def test_what_is_no_such_part_is_one_sentence(call: Call, folder: Path, words: tuple[str, str], said: str) -> None:
    Path("motion.csv").write_text("t,x\n" + "".join(f"{a},{np.sin(a / 9)}\n" for a in range(200)))
    code, _, err = call("sindy", "motion.csv", *words)
    assert code == 1 and err.count("\n") == 1 and said in err
