"""Kinds of autoencoder that a user wrote, in a module outside the package, everywhere that ours are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cloche import part_text
from cloche.errors import ClocheError
from cloche.part import import_parts, part_from_line
from cloche.sparse import SAE, Kind, Training, load_sae, save_saelens, train_sae
from cloche.sparse.saes import Fit, SaveState

Call = Callable[..., tuple[int, str, str]]
SMALL = ("--site", "resid_post[1]", "--features", 64, "--l0", 4, "--tokens", 3_000)
OWN = '''
from dataclasses import dataclass
from pathlib import Path

from cloche.sparse import FeatureActs, Kind

Path("was-imported").touch()

@dataclass(frozen=True, kw_only=True)
class Saturating(Kind):
    """relu(pre) / (1 + relu(pre) / top), which no value passes; the sum of the values is penalised."""

    top: float = 8.0

    def activate(self, pre, extra):
        values = self.magnitude(pre, extra)
        return FeatureActs(values, values.sum())

    def magnitude(self, pre, extra):
        return pre.relu() / (1 + pre.relu() / self.top)
'''
LINE = "own_kinds:Saturating(nested=[], top=4.0)"


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_text, "imported", [])  # other tests start processes that would import the same


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, with the module in it."""
    (tmp_path / "own_kinds.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def kind(folder: Path) -> Kind:
    import_parts(["own_kinds"])
    return part_from_line("Saturating(top=4)", Kind)


def test_it_trains_saves_and_loads(kind: Kind, folder: Path) -> None:
    sae, history = train_sae(torch.randn(2_000, 8), 16, 2, Training(steps=40, batch=128), kind=kind)
    assert history[-1]["loss"] < history[0]["loss"] and float(sae.encode(torch.randn(99, 8)).values.max()) > 0
    sae.save(folder / "kept")
    assert json.loads((folder / "kept/dictionary.json").read_text())["kind"] == LINE == kind.to_line()
    with pytest.raises(ClocheError, match="SAELens has no counterpart of own_kinds:Saturating"):
        save_saelens(sae, folder / "theirs")
    again = load_sae(folder / "kept")
    assert again.kind == kind and type(again.kind).__module__ == "own_kinds"
    x = torch.randn(99, 8)
    assert torch.equal(again.encode(x).dense(), sae.encode(x).dense())


def test_it_goes_on_where_it_was_cut_off(kind: Kind, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(**options: object) -> SAE:
        return train_sae(
            torch.ones(1_000, 8).cumsum(0).sin(), 16, 2, Training(steps=30, batch=64, **options), kind=kind
        )[0]

    whole, step, done = trained(), Fit.step, []

    def killed(self: Fit, *rows: object) -> object:
        done.append(0)
        return step(self, *rows) if len(done) < 17 else 1 / 0

    monkeypatch.setattr(Fit, "step", killed)
    with pytest.raises(ZeroDivisionError):
        trained(save=SaveState(folder / "state", 5))
    monkeypatch.setattr(Fit, "step", step)
    resumed = trained(save=SaveState(folder / "state", 5))
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_it_is_trained_and_measured_on_the_command_line(call: Call, grown: Path, folder: Path) -> None:
    run = shutil.copytree(grown, folder / "run")
    code, _, err = call("sae", "train", run, "--kind", "Saturating(top=4)", *SMALL, "--import", "own_kinds")
    assert code == 0, err
    assert load_sae(run / "dictionaries/resid_post_1").kind.to_line() == LINE
    words = ("sae", "report", run, "resid_post_1", "--tokens", 500, "--probe", 0)
    code, out, err = call(*words, "--import=own_kinds", "--json")
    assert code == 0, err
    told = json.loads(out)["dictionary"]
    assert (told["kind"], told["wiring"]) == ("own_kinds:Saturating(top=4.0)", "autoencoder")


HOSTILE = ("own_kinds:Saturating(top=4.0)", "own_kinds:Saturating", "__import__('own_kinds')", "own_kinds.Saturating()")
OPEN_ALL = """
import sys
from cloche.errors import ClocheError
from cloche.sparse import load_sae
for folder in sys.argv[1:]:
    try:
        load_sae(folder)
    except ClocheError as error:
        print(error)
"""


def test_a_dictionary_that_names_a_module_never_imports_it(folder: Path) -> None:
    for i, kind in enumerate(HOSTILE):
        SAE(8, 16, 2, seed=0).save(folder / str(i))
        card = json.loads((folder / str(i) / "dictionary.json").read_text())
        (folder / str(i) / "dictionary.json").write_text(json.dumps(card | {"kind": kind}))
    command = [sys.executable, "-c", OPEN_ALL, *map(str, range(len(HOSTILE)))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == len(HOSTILE) and not (folder / "was-imported").exists()
    assert all("if you trust it, add --import own_kinds (in Python: import own_kinds)." in line for line in said[:2])
    assert all("is not a part" in line or "unknown Kind" in line for line in said[2:])
