"""Forty random models of the supported families beside transformers; and every change of their arithmetic, which is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic import changed_trees
from combinations import close, random_ids
from family_table import built
from random_configs import NAMES, random_config
from torch import Tensor

from cloche.model import LM, Network, load_network
from cloche.model.sites import prove_sites

pytest.importorskip("transformers")
LENGTHS = (9, 40)  # within and beyond the length that frequencies are scaled from
QUICK = 5  # the others are slow


def numbered(count: int, quick: int) -> list[Any]:
    return [n if n < quick else pytest.param(n, marks=pytest.mark.slow) for n in range(count)]


def loaded(number: int, folder: Path) -> tuple[Any, Network]:
    model = built(*random_config(number), seed=number)
    model.save_pretrained(folder)
    return model, load_network(folder, check_sites=False)


@pytest.mark.parametrize("number", numbered(40, QUICK), ids=lambda n: f"{n}-{random_config(n)[0]}")
def test_a_random_model_proves_its_sites_and_has_their_logits(number: int, tmp_path: Path) -> None:
    model, net = loaded(number, tmp_path)
    assert set(prove_sites(net)) == set(map(str, net.sites))
    for length in LENGTHS:
        ids = random_ids(2, length, net.spec.vocab)
        with torch.no_grad():
            close(net(ids), model(ids).logits)


@pytest.mark.parametrize("number", numbered(2 * len(NAMES), 2), ids=lambda n: f"{n}-{random_config(n)[0]}")
def test_every_change_of_the_arithmetic_is_seen(number: int, tmp_path: Path) -> None:
    """Such as an activation, an eps, a base of frequencies, a window, a missing bias: the logits are no longer theirs."""
    model, net = loaded(number, tmp_path)
    texts = [random_ids(2, length, net.spec.vocab) for length in LENGTHS]
    with torch.no_grad():
        wanted = [model(ids).logits for ids in texts]
        assert _alike([net(ids) for ids in texts], wanted)
        changes = dict(changed_trees(net.spec.resolved()))
        unseen = [what for what, tree in changes.items() if _alike([_with(tree, net)(i) for i in texts], wanted)]
    assert len(changes) >= 5 and not unseen, unseen


def _with(tree: LM, net: Network) -> Network:
    """The network of another tree with the weights of this one, as far as it has them."""
    other = tree.build(None)
    weights = dict(net.named_parameters())
    for name, parameter in other.named_parameters():
        parameter.copy_(weights[name])
    return other


def _alike(logits: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(logits, wanted, strict=True))


def test_how_many_changes_there_are() -> None:
    """Of the trees that the configs are read as, so that a rule which changes nothing any more is noticed."""
    from cloche.model.huggingface.families.family import find_family

    trees = []
    for number in range(2 * len(NAMES)):
        family, fields = random_config(number)
        config = built(family, fields).config.to_dict()
        trees.append(find_family(config["model_type"]).read(config).resolved())
    assert sum(len(dict(changed_trees(tree))) for tree in trees) > 450
