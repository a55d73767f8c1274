"""Harvested activations: all of them, well mixed, never many at once."""

import pytest
import torch
from hand_built import TOKENS, echo

from cloche.errors import ClocheError
from cloche.interp import activations, harvest


def windows(count: int = 40, length: int = 17) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randint(TOKENS, (2, length), generator=rng) for _ in range(count)]


def test_activations_are_the_runs_own() -> None:
    net, batches = echo(), windows(3)
    for (ids, values), batch in zip(activations(net, batches, "resid_post[1]"), batches, strict=True):
        assert torch.equal(ids, batch)
        assert torch.equal(values, net.run(batch, save=["resid_post[1]"])["resid_post[1]"])


def test_harvest_gives_every_position_but_the_first_once() -> None:
    net, batches = echo(), windows()
    stream = torch.cat(list(harvest(net, batches, "resid_post[0]", buffer=100)))
    expected = torch.cat([batch[:, 1:].flatten() for batch in batches])
    assert len(stream) == len(expected) == 40 * 2 * 16
    assert torch.equal(stream.argmax(1).bincount(minlength=TOKENS), expected.bincount(minlength=TOKENS))


def test_harvest_is_mixed_bounded_and_decided_by_its_seed() -> None:
    net = echo()
    blocks = [torch.full((1, 33), token) for token in range(TOKENS)]  # in order, equal tokens would come in runs
    pieces = list(harvest(net, blocks, "resid_post[0]", buffer=256, seed=3))
    assert max(map(len, pieces)) <= 256
    tokens = torch.cat(pieces).argmax(1)
    assert (tokens[1:] == tokens[:-1]).double().mean() < 0.3  # 0.97 unmixed
    again = torch.cat(list(harvest(net, blocks, "resid_post[0]", buffer=256, seed=3)))
    other = torch.cat(list(harvest(net, blocks, "resid_post[0]", buffer=256, seed=4)))
    assert torch.equal(again, torch.cat(pieces)) and not torch.equal(again, other)


def test_sites_that_give_no_vectors_are_refused() -> None:
    with pytest.raises(ClocheError, match="axes batch, head, query, key"):
        next(harvest(echo(), windows(1), "pattern[0]"))
    with pytest.raises(ClocheError, match="resid_pots"):
        next(harvest(echo(), windows(1), "resid_pots[0]"))
    with pytest.raises(ClocheError, match="cannot shuffle"):
        next(harvest(echo(), windows(1), "resid_post[0]", buffer=1))
