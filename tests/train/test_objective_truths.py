"""Trained models against what can be known: entropies of a Markov chain, and a middle that both sides determine."""

import math

import pytest
import torch
from markov import THREE, Chain

import cloche
from cloche.model import GLU, LM, Attention, Block, Causal, Full, RoPE, Stack, Unembed
from cloche.train import (
    AdamW,
    FillInTheMiddle,
    LastToken,
    MaskedDiffusion,
    MultiToken,
    Stepper,
    TokenBatch,
    Windowed,
    total_loss,
)
from cloche.train.objectives.head_loss import head_loss

STICKY = Chain([[0.9, 0.1], [0.2, 0.8]])


def trained(objective, batch, steps, vocab, mask=None, ahead=None, layers=1):
    """A small network after so many steps on batch(step)."""
    block = Block(Attention(2, position=RoPE(), mask=mask or Causal()), GLU(hidden=64))
    net = LM(vocab, 32, Stack(layers, block), head=Unembed(ahead=ahead)).build(0)
    stepper = Stepper(net, AdamW(lr=0.005))
    for step in range(steps):
        stepper.set_rate(min(1.0, 2 * (1 - step / steps)))
        stepper.zero_grad()
        total_loss(objective.terms(net, batch(step))).backward()
        stepper.step()
    return net


def rows(chain, length, seed, number=64):
    return TokenBatch(chain.sample(number, length, seed), seed=seed)


def mean_terms(objective, net, chain, length):
    with torch.no_grad():
        found = objective.terms(net, rows(chain, length, seed=10**6, number=8192))
    return {name: term.value.item() for name, term in found.items()}


class Blind(MultiToken):
    """Its inputs are all one token: only their positions are left."""

    def examples(self, batch):
        e = super().examples(batch)
        return e._replace(inputs=torch.zeros_like(e.inputs))


@pytest.mark.slow
def test_a_head_ahead_reaches_the_entropy_of_its_token():
    """H(X_{t + j} | X_t) for each head; given positions alone, every head has the marginal entropy."""
    truth = {"loss": STICKY.ahead(1), "ahead_2": STICKY.ahead(2), "ahead_3": STICKY.ahead(3)}
    for objective, expected in ((MultiToken(3), truth), (Blind(3), dict.fromkeys(truth, STICKY.marginal))):
        net = trained(objective, lambda step: rows(STICKY, 17, step), 250, vocab=2, ahead=2)
        found = mean_terms(objective, net, STICKY, 17)
        assert found == pytest.approx(expected, abs=0.012), type(objective)
    assert truth["loss"] + 0.1 < truth["ahead_2"] < truth["ahead_3"] - 0.04 < STICKY.marginal - 0.08


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "number", "targets"), [(LastToken(), 256, 1), (Windowed(4), 64, 4)])
def test_few_targets_reach_the_entropy_of_the_chain(objective, number, targets):
    assert objective.weight(rows(STICKY, 17, 0, number)) == number * targets
    net = trained(objective, lambda step: rows(STICKY, 17, step, number), 200, vocab=2)
    assert mean_terms(objective, net, STICKY, 17)["loss"] == pytest.approx(STICKY.ahead(1), abs=0.02)


@pytest.mark.slow
def test_a_trained_denoisers_bound_lies_just_above_the_entropy():
    length, objective = 12, MaskedDiffusion(mask=3)
    net = trained(objective, lambda step: rows(THREE, length + 1, step), 500, vocab=4, mask=Full(), layers=2)
    with torch.no_grad():
        found = torch.stack(
            [torch.divide(*objective.nats(net, rows(THREE, length + 1, 10**6 + i, 512))) for i in range(20)]
        )
    truth, error = THREE.entropy(length) / length, (found.std() / 20**0.5).item()
    assert truth - 3 * error < found.mean() < truth + 0.03 and error < 0.01
    assert truth + 0.03 < THREE.marginal - 0.05  # the control: what one that sees nothing has


LETTERS = "abc"


def triples(tokenizer, seed, number=16, length=50):
    """Documents x, x + y, y over three letters, one after the other in rows."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randint(3, (2, number, length // 4 + 1), generator=generator)
    ids = torch.tensor([tokenizer.encode(letter)[0] for letter in LETTERS])
    ends = torch.full_like(x, tokenizer.end)
    flat = torch.stack([ends, ids[x], ids[(x + y) % 3], ids[y]], -1).flatten(1)
    return TokenBatch(flat[:, : length + 1], seed=seed)


@pytest.mark.slow
def test_a_middle_that_both_sides_determine_costs_nothing():
    objective = FillInTheMiddle(rate=0.9)
    tokenizer = cloche.train_bpe([LETTERS * 9], 262, objective.special_tokens)
    assert len(tokenizer.encode(LETTERS)) == 3
    objective = objective.bound(tokenizer)
    net = trained(objective, lambda step: triples(tokenizer, step), 1000, tokenizer.vocab, layers=2)
    pre, suf, mid = objective.marks

    def middle(blank=False):
        """Nats on the middle and on the end after it, over all pairs."""
        nats = []
        for x in range(3):
            for y in range(3):
                a, m, b = (tokenizer.encode(LETTERS[i]) for i in (x, (x + y) % 3, y))
                ids = torch.tensor([[tokenizer.end, pre, *a, suf, *([] if blank else b), mid, *m, tokenizer.end]])
                with torch.no_grad():
                    shares = net(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None])[0, :, 0]
                nats.append(-shares[-2:])
        return torch.stack(nats).mean(0).tolist()

    assert max(middle()) < 0.02
    # The control: without the suffix the middle is one of three.
    assert middle(blank=True)[0] == pytest.approx(math.log(3), abs=0.1)
    # From left to right, the second letter is one of three and the third is known.
    batch = triples(tokenizer, 10**6)
    with torch.no_grad():
        hidden = net.hidden(batch[:, :-1])
        places = [
            (head_loss(net, hidden[:, i::4], batch[:, 1:][:, i::4]).nats / batch[:, 1:][:, i::4].numel()).item()
            for i in range(4)
        ]
    assert places == pytest.approx([math.log(3), math.log(3), 0.0, 0.0], abs=0.15)
