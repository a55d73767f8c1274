"""Sites prove themselves when a model is loaded: what is right passes, and what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from combinations import NUMBERS, combination, lively, random_ids
from torch import Tensor

import cloche
from cloche.errors import SitesWrong, SiteUnsuitable
from cloche.model import save_network
from cloche.model.sites import Key, PlanRecorder
from cloche.model.sites.proof import prove_sites
from cloche.model.sites.vocabulary import AXES


def record(monkeypatch: pytest.MonkeyPatch, key: Key, wrong: Callable[[dict[Key, Tensor]], Tensor]) -> None:
    """Have every pass record at `key` what `wrong` makes of what was recorded until then, and go on with what is right."""
    right = PlanRecorder.__call__

    def call(self: PlanRecorder, name: str, layer: int | None, value: Tensor) -> Tensor:
        out = right(self, name, layer, value)
        if (name, layer) == key and key in self.kept:
            self.kept[key] = wrong(self.kept)
        return out

    monkeypatch.setattr(PlanRecorder, "__call__", call)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", NUMBERS[::5])
def test_a_right_model_proves_every_site(number: int, dtype: torch.dtype) -> None:
    net = lively(combination(number)).to(dtype)
    assert set(prove_sites(net)) == set(map(str, net.sites))


def test_what_is_wrong_is_named_on_loading_and_may_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = lively(combination(0))
    save_network(net, tmp_path)
    record(monkeypatch, ("mlp_pre", 1), lambda kept: 2 * kept["mlp_pre", 1])
    with pytest.raises(SitesWrong, match=r"mlp_pre\[1\] is not what .* off by 1 of its size \(1e-05 is rounding\)"):
        cloche.load(tmp_path)
    assert torch.equal(cloche.load(tmp_path, check_sites=False).net(random_ids(1, 5)), net(random_ids(1, 5)))


def test_a_view_is_saved_and_not_edited() -> None:
    net, ids = lively(combination(0)), random_ids(2, 6)
    site = net.sites.head_out[1]
    result = net.run(ids, save=[site, "attn_out[1]"])
    bias = net.layers[1].mix.out.bias
    whole = result[site].sum(2) + (0 if bias is None else bias)
    torch.testing.assert_close(whole, result["attn_out[1]"], rtol=1e-5, atol=1e-5)
    assert site.head(0).axes == ("batch", "position", "width") and "head" in AXES["head_out"]
    for act in (lambda edit: net.run(ids, edits=[edit]), lambda edit: net.sweep(ids, [edit], read=lambda x: x)):
        with pytest.raises(SiteUnsuitable, match=r"head_out\[1\] is .* edit z instead"):
            act(site.head(0).zero())
