"""Every mutant of a right model is caught when it is loaded, and named: what is recorded, declared or computed wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from combinations import lively, random_ids
from mutants import SPECS, wrong_declarations, wrong_modules, wrong_values
from torch import Tensor

from cloche.errors import ClocheError, SitesWrong
from cloche.model import LM, Network, load_network, network, save_network
from cloche.model.sites import Key, PlanRecorder
from cloche.model.sites.proof import LENGTH, ROWS, TOLERANCE, prove_sites
from cloche.model.sites.vocabulary import Sites

IDS = random_ids(ROWS, LENGTH)


def record(monkeypatch: pytest.MonkeyPatch, key: Key, wrong: Callable[[Tensor], Tensor]) -> None:
    """Have every pass record at `key` what `wrong` makes of the right value, and go on with the right one."""
    right = PlanRecorder.__call__

    def call(self: PlanRecorder, name: str, layer: int | None, value: Tensor) -> Tensor:
        out = right(self, name, layer, value)
        if (name, layer) == key and key in self.kept:
            self.kept[key] = wrong(self.kept[key])
        return out

    monkeypatch.setattr(PlanRecorder, "__call__", call)


def sites_of(spec: LM) -> list[str]:
    """Its sites, of the middle layer and of the whole model."""
    return [str(site) for site in spec.build().sites if site.layer in (1, None)]


CASES = [(name, site) for name, spec in SPECS.items() for site in sites_of(spec)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Callable[[str], Any]:
    """A folder of each model, saved once."""
    made: dict[str, Any] = {}

    def folder(name: str) -> Any:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            save_network(lively(SPECS[name]), made[name])
        return made[name]

    return folder


@pytest.mark.parametrize(
    ("name", "text"), [case if case[0] == "llama" else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
def test_a_wrong_recording_is_caught_and_named(name: str, text: str, folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong by a factor, head, layer, axis or place: at least five of each site."""
    net = load_network(folders(name))
    sites = list(net.sites)
    result = net.run(
        torch.randint(net.spec.vocab, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0)), save=sites
    )
    right = {(site.name, site.layer): result[site] for site in sites}
    site = net.sites.resolve(text)[0]
    mutants = wrong_values(net, (site.name, site.layer), right)
    assert len(mutants) >= 5
    for how, wrong in mutants.items():
        with monkeypatch.context() as patch:
            record(patch, (site.name, site.layer), lambda _, wrong=wrong: wrong)
            with pytest.raises(SitesWrong) as caught:
                load_network(folders(name))
        assert str(caught.value).startswith(f"{text} is "), how


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(case for case in CASES if case[0] == "llama"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES if case[0] == "gpt_oss"),
    ],
)
def test_a_wrong_declaration_is_caught(name: str, text: str, folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size, an axis' name or place, what it is a view of; and a site that is declared and never offered."""
    net = load_network(folders(name))
    declared = net.sites.declared(net.sites.resolve(text)[0])
    plain = text.partition("[")[0]
    mutants: dict[str, Any] = dict(wrong_declarations(declared)) | {"under another name": None}
    assert len(mutants) >= 4
    for how, wrong in mutants.items():

        def spoilt(*tables: Any, wrong: Any = wrong) -> Sites:
            before, layers, after, *named = tables
            return Sites(spoil(before, wrong), [spoil(at, wrong) for at in layers], spoil(after, wrong), *named)

        def spoil(table: dict[str, Any], wrong: Any) -> dict[str, Any]:
            if wrong is not None:
                return {site: wrong if site == plain else own for site, own in table.items()}
            return {("another" if site == plain else site): own for site, own in table.items()}

        with monkeypatch.context() as patch:
            patch.setattr(network, "Sites", spoilt)
            with pytest.raises(ClocheError, match=f"{plain}|another"):
                load_network(folders(name))
        assert how


def module_mutants() -> list[tuple[str, str]]:
    return [(name, how) for name, spec in SPECS.items() for how, _ in wrong_modules(spec.build())]


@pytest.mark.parametrize(("name", "how"), module_mutants())
def test_a_module_that_computes_otherwise_is_caught(name: str, how: str) -> None:
    """What the module computes with is not what its part says: a number, an activation, a bias, the order of q, k and v."""
    net: Network = lively(SPECS[name])
    prove_sites(net)
    dict(wrong_modules(net))[how]()
    with pytest.raises(SitesWrong):
        prove_sites(net)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_within_tolerance_is_not_reported(dtype: str, share: int, folders, monkeypatch) -> None:
    for text in sites_of(SPECS["llama"])[dtype == "float32" :: share]:
        name, _, layer = text.rstrip("]").partition("[")
        key = (name, int(layer) if layer else None)
        for size, caught in ((0.2, False), (5.0, True)):
            with monkeypatch.context() as patch:
                record(patch, key, lambda x, size=size: (x * (1 + size * TOLERANCE[getattr(torch, dtype)])).to(x.dtype))
                if not caught:
                    load_network(folders("llama"), dtype)
                    continue
                with pytest.raises(SitesWrong, match=name):
                    load_network(folders("llama"), dtype)


def test_how_many_mutants_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Of each kind, so that a rule which makes none any more is noticed."""
    values = declarations = 0
    for name in SPECS:
        net = lively(SPECS[name])
        result = net.run(IDS, save=list(net.sites))
        right = {(site.name, site.layer): result[site] for site in net.sites}
        for site in (site for site in net.sites if site.layer in (1, None)):
            values += len(wrong_values(net, (site.name, site.layer), right))
            if name in ("llama", "gpt_oss"):
                declarations += len(list(wrong_declarations(net.sites.declared(site)))) + 1
    modules = len(module_mutants())
    print(f"{values} recordings, {declarations} declarations, {modules} modules")
    assert values > 800 and declarations > 200 and modules > 60
