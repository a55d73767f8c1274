"""Batches whose gradients are added up make the update of one large batch; their number may grow over the run."""

import pytest
import torch
from tiny_training import tiny_recipe

from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, RoPE, Stack, Unembed
from cloche.runs import Run
from cloche.train import (
    WSD,
    AdamW,
    Loop,
    MultiToken,
    NextToken,
    Setup,
    Stepper,
    StepPlan,
    Term,
    TokenBatch,
    Trainer,
    Windowed,
)

VOCAB, LENGTH = 23, 12


class Rows:
    """Random rows; batches of `size`, some targets of which weigh nothing."""

    def __init__(self, size):
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(VOCAB, (64, LENGTH + 1), generator=generator)
        self.weights = (torch.rand(64, LENGTH, generator=generator) > torch.linspace(0, 0.9, 64)[:, None]).float()
        self.size, self.at = size, 0

    def next(self):
        rows = slice(self.at, self.at + self.size)
        self.at += self.size
        return TokenBatch(self.ids[rows], weights=self.weights[rows])

    def state(self):
        return {"at": self.at}

    def restore(self, state):
        self.at = state["at"]


def loop(tmp_path, size, accumulate, objective=NextToken(), **schedule):  # noqa: B008
    block = Block(Attention(2, position=RoPE()), GLU(hidden=16))
    net = LM(VOCAB, 32, Stack(2, block)).build(0)
    plan = StepPlan(4, WSD(accumulate=accumulate, **schedule))
    run = Run.create(tmp_path / f"run-{size}-{accumulate}", "")
    return Loop(
        run, net, Rows(size), objective, Stepper(net, AdamW()), plan, setup=Setup(log_every=1, tokens=size * LENGTH)
    )


@pytest.mark.parametrize("objective", [NextToken(), NextToken(z_loss=0.01), Windowed(3)])
def test_accumulated_batches_make_the_gradient_of_the_large_one(tmp_path, objective):
    large, small = (loop(tmp_path, size, n, objective) for size, n in ((16, 1), (4, 4)))
    one, four = large.backward([large.source.next()]), small.backward([small.source.next() for _ in range(4)])
    assert one == pytest.approx(four, rel=1e-6)
    for (name, p), q in zip(large.net.named_parameters(), small.net.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 1e-6 * p.grad.norm() + 1e-9, name
    # The control: a mean of the batches' means is another gradient, for some have fewer targets than others.
    if objective == NextToken():
        small.objective = type("Equal", (), {"terms": objective.terms})()
        small.net.zero_grad()
        small.source.at = 0
        small.backward([small.source.next() for _ in range(4)])
        assert (
            large.net.embed.weight.grad - small.net.embed.weight.grad
        ).norm() > 1e-2 * large.net.embed.weight.grad.norm()


def test_further_heads_accumulate_too_though_few_targets_have_one_after_them(tmp_path):
    large, small = (loop(tmp_path, size, n, MultiToken(3)) for size, n in ((16, 1), (4, 4)))
    for each in (large, small):
        each.net = LM(VOCAB, 32, Stack(2, Block(Attention(2), GLU(hidden=16))), head=Unembed(ahead=2)).build(0)
    large.backward([large.source.next()])
    small.backward([small.source.next() for _ in range(4)])
    for (name, p), q in zip(large.net.named_parameters(), small.net.named_parameters(), strict=True):
        assert (p.grad - q[1].grad).norm() <= 2e-6 * p.grad.norm() + 1e-9, name


def test_a_ramp_takes_more_batches_as_it_goes_and_the_tokens_are_counted(tmp_path):
    records = [r for r in loop(tmp_path, 2, 3, ramp=0.75) if r["log"] == "metrics"]
    assert [r["tokens"] // (2 * LENGTH) for r in records] == [1, 3, 6, 9]


def test_a_batch_without_targets_counts_nothing(tmp_path):
    trained = loop(tmp_path, 4, 2)
    ids = trained.source.ids[:4]
    full, empty = TokenBatch(ids), TokenBatch(ids, weights=torch.zeros(4, LENGTH))
    alone = trained.backward([full])
    wanted = trained.net.unembed.weight.grad.clone()
    trained.net.zero_grad()
    assert trained.backward([full, empty]) == pytest.approx(alone)
    torch.testing.assert_close(trained.net.unembed.weight.grad, wanted)


def test_terms_without_a_weight_count_the_same(tmp_path):
    class Constant:
        def terms(self, net, batch):
            return {"loss": Term(net.embed.weight.sum() * 0 + float(batch))}

    trained = loop(tmp_path, 2, 1)
    trained.objective = Constant()
    assert trained.backward([1, 2, 6]) == {"loss": 3.0}


def test_a_ramped_run_resumes_in_the_same_bytes(new_run):
    from test_resume import crashed, fingerprint

    recipe = tiny_recipe(schedule__accumulate=3, schedule__ramp=0.5, run__steps=12)
    whole, cut = new_run("whole", recipe), new_run("cut", recipe)
    list(Trainer.start(recipe, whole))
    crashed(cut, 9)
    list(Trainer.resume(cut))
    assert fingerprint(whole) == fingerprint(cut)


def test_no_batches_are_refused():
    with pytest.raises(ClocheError, match="accumulate"):
        WSD(accumulate=0)
