"""What saving costs in memory: the bytes asked for, and hardly more, whatever larger tensor a site is a part of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity

from cloche.decode import generate
from cloche.model import GLU, LM, Attention, Block, Network, RoPE, Stack

DEPTH, WIDTH, BATCH, LENGTH = 6, 64, 2, 96
IDS = torch.randint(40, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
MOST = 1.05


@pytest.fixture(scope="module")
def net() -> Network:
    block = Block(mix=Attention(heads=4, kv_heads=2, position=RoPE()), map=GLU(hidden=96))
    return LM(40, WIDTH, Stack(DEPTH, block)).build(seed=0).eval()


def memory(work: Callable[[], object]) -> tuple[int, int]:
    """(bytes allocated at the worst moment of `work`, bytes still held when it is done and its result alive)."""
    work()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = work()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del result
    return most, now


SAVES = ["resid_post", "q", "k", "v", "z", "mlp_pre", "mlp_act", "attn_out", "resid_mid"]


@pytest.mark.parametrize("name", SAVES)
def test_a_save_holds_what_was_asked_for(net: Network, name: str) -> None:
    site = f"{name}.all"
    asked = sum(t.numel() * t.element_size() for t in net.run(IDS, save=[site])[site])
    plain, kept = memory(lambda: net.run(IDS)), memory(lambda: net.run(IDS, save=[site]))
    assert kept[1] - plain[1] <= MOST * asked  # in the end
    assert kept[0] - plain[0] <= MOST * asked  # at the worst moment
    assert kept[1] - plain[1] >= asked  # and it is really there: the measure can see it


def test_a_save_of_all_parts_of_one_product(net: Network) -> None:
    sites = [f"{name}.all" for name in ("q", "k", "v")]
    saved = net.run(IDS, save=sites)
    asked = sum(t.numel() * t.element_size() for site in sites for t in saved[site])
    plain, kept = memory(lambda: net.run(IDS)), memory(lambda: net.run(IDS, save=sites))
    assert asked <= kept[1] - plain[1] <= MOST * asked
    assert kept[0] - plain[0] <= MOST * asked


def test_generation_keeps_one_copy_of_what_it_saves(net: Network) -> None:
    """The steps write into one place, so nothing is held twice while the prompt and the new tokens are joined."""
    new = 32
    plain = memory(lambda: generate(net, IDS, new=new))
    kept = memory(lambda: generate(net, IDS, new=new, save="resid_post.all"))
    asked = DEPTH * BATCH * (LENGTH + new) * WIDTH * 4
    assert asked <= kept[1] - plain[1] <= MOST * asked
    prompt = DEPTH * BATCH * LENGTH * WIDTH * 4  # the prompt's own values, until they are in their place
    assert kept[0] - plain[0] <= MOST * asked + prompt
