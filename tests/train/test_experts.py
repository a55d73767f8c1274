"""Training a mixture of experts under a capped, biased head: it learns, stays balanced, and resumes to the same bytes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_resume import fingerprint
from tiny_training import tiny_recipe

from cloche.model import GLU, Attention, Block, MoE, RoPE, Stack, Unembed
from cloche.train import Recipe, Stepper, Trainer

KINDS = ["AdamW", "Muon", "SOAP(every=2)", "Shampoo(every=2)", "SGD", "RMSprop"]


def recipe(experts: int = 4, active: int = 2, **changes: object) -> Recipe:
    tiny = tiny_recipe(**changes)
    block = Block(mix=Attention(heads=2, position=RoPE()), map=MoE(experts, active, GLU("silu", hidden=24)))
    spec = dataclasses.replace(tiny.model, body=Stack(2, block), tied=False, head=Unembed(bias=True, cap=15.0))
    return tiny.model_copy(update={"model": spec})


@pytest.mark.parametrize("kind", ["AdamW", "Muon"])
def test_it_learns_and_its_records_say_how_even_the_routing_is(new_run, kind: str) -> None:
    wanted = recipe(optimizer=kind, run__steps=60)
    run = new_run(kind, wanted)
    trainer = Trainer.start(wanted, run)
    list(trainer)
    metrics = [r for r in run.read_log("metrics") if "loss" in r]
    scores = [r for r in run.read_log("metrics") if "val_loss" in r]
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.5
    assert scores[-1]["val_loss"] == pytest.approx(metrics[-1]["loss"], abs=0.5)  # no balance in either
    assert all(4 * 0.95 < r["balance"] < 4 * 2.0 for r in metrics)  # two layers of two active ones: four where even
    assert {len(r["attention_entropy"]) for r in run.read_log("health")} == {2}
    bias = trainer.net.unembed.bias
    assert bias.abs().max() > 0.01  # it was trained too


def test_balance_keeps_experts_in_use(new_run) -> None:
    """With its weight turned up the routing is more even than with none."""
    last = {}
    for weight in (0.0, 1.0):
        wanted = recipe(8, 1, objective__balance=weight, run__steps=60)
        run = new_run(f"balance-{weight}", wanted)
        list(Trainer.start(wanted, run))
        last[weight] = [r["balance"] for r in run.read_log("metrics") if "balance" in r][-1]
    assert last[1.0] < 2.1 < last[0.0]


def test_stopped_and_resumed_ends_in_the_same_bytes(new_run) -> None:
    """Thirty-two experts for few tokens: some are sent none in a step, and still have a state to go on from."""
    wanted = recipe(32, 1, run__steps=8, run__batch=1, checkpoint__count=4)
    straight, broken = new_run("straight", wanted), new_run("broken", wanted)
    list(Trainer.start(wanted, straight))
    trainer = Trainer.start(wanted, broken)
    for record in trainer:
        if record.get("step") == 4 and record["log"] == "events":
            trainer.stop()
    assert broken.checkpoint("last").step < 8
    list(Trainer.resume(broken))
    assert fingerprint(broken) == fingerprint(straight)


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_without_tokens(kind: str) -> None:
    """Its gradient counts as zero; Muon, which would move it as far as any other, leaves it where it is."""
    wanted = recipe(4, 1, optimizer=kind)
    nets = [wanted.model.build(0) for _ in range(2)]
    for net, explicit in zip(nets, (False, True), strict=True):
        optimizer, expert = Stepper(net, wanted.optimizer), net.layers[0].map.experts[2]
        for step in range(3):
            for p in net.parameters():
                p.grad = torch.ones_like(p)
            for p in expert.parameters() if step else ():
                p.grad = torch.zeros_like(p) if explicit else None
            before = expert.inner.weight.clone()
            optimizer.step()
            moved = not torch.equal(before, expert.inner.weight)
            assert moved == (step == 0 or explicit or kind != "Muon")
    for (name, p), q in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        skipped = kind == "Muon" and ".0.map.experts.2." in name
        assert torch.equal(p, q) != skipped, name


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_that_never_had_a_token_has_a_state_to_resume_from(kind: str) -> None:
    wanted = recipe(4, 1, optimizer=kind)
    net = wanted.model.build(0)
    optimizer = Stepper(net, wanted.optimizer)
    for name, p in net.named_parameters():
        p.grad = None if ".experts.2." in name else torch.ones_like(p)
    optimizer.step()
    assert {name.split("/")[0] for name in optimizer.state()} == {name for name, _ in net.named_parameters()}
    Stepper(net, wanted.optimizer).restore(optimizer.state())
