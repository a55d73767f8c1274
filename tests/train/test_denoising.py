"""Hidden tokens: which, how many, what they see, and the bound of masked diffusion against exact entropies."""

import itertools
import math

import numpy as np
import pytest
import torch
from markov import THREE, TURNS, Denoiser
from tiny_training import tiny_recipe

from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, Causal, Full, Prefix, RoPE, Stack
from cloche.runs import Run
from cloche.train import (
    MaskedDiffusion,
    NextToken,
    PrefixSpans,
    SpanCorruption,
    TokenBatch,
    Trainer,
    evaluate,
    total_loss,
)

VOCAB, LENGTH, MASK = 23, 12, 22
IDS = torch.randint(VOCAB - 1, (4, LENGTH + 1), generator=torch.Generator().manual_seed(0))


def network(mask=None, length=None):
    block = Block(Attention(2, position=RoPE(), mask=mask or Full()), GLU(hidden=16))
    return LM(VOCAB, 32, Stack(2, block)).build(0)


def as_targets(ids):
    """A batch whose targets are these rows."""
    return torch.cat([ids[:, :1], ids], 1)


# ---- masked diffusion


class Enumerated(MaskedDiffusion):
    """Masks that are given, at one time."""

    def examples(self, batch):
        return self.hide(TokenBatch.of(batch), self.hidden_tokens, 1 / self.share(torch.tensor(self.time)))


def exact(objective, time, chain=THREE, length=5):
    """The loss at one time, over every text and every mask with their probabilities."""
    texts, likely = chain.all(length)
    masks = torch.tensor(list(itertools.product([False, True], repeat=length)))
    hidden = masks.repeat(len(texts), 1)
    p, n = objective.share(torch.tensor(time, dtype=torch.float64)), hidden.sum(1)
    weights = (likely.repeat_interleave(len(masks)) * p**n * (1 - p) ** (length - n))[:, None].expand(-1, length)
    object.__setattr__(objective, "hidden_tokens", hidden)
    object.__setattr__(objective, "time", time)
    batch = TokenBatch(as_targets(texts.repeat_interleave(len(masks), 0)), weights=weights)
    return objective.terms(Denoiser(chain), batch)["loss"].value.item()


def integral(objective, of=lambda loss, time: loss, **how):
    """Over all times, by Gauss's rule: the loss is a polynomial of the share hidden."""
    nodes, shares = np.polynomial.legendre.leggauss(8)
    times = (nodes + 1) / 2
    return sum(share / 2 * of(exact(objective, t, **how), t) for t, share in zip(times, shares, strict=True))


def test_the_exact_denoisers_bound_is_the_entropy():
    truth = THREE.entropy(5) / 5
    assert integral(Enumerated(eps=1e-9, mask=3)) == pytest.approx(truth, abs=1e-6)
    # What eps costs: the shares below it are left out, where a token is predicted from all others.
    rest = exact(Enumerated(eps=1e-9, mask=3), 0.0)
    found = integral(Enumerated(eps=1e-3, mask=3))
    assert found == pytest.approx((truth - 1e-3 * rest) / (1 - 1e-3), abs=1e-6)
    # The control: the sum without 1/p, divided by the number of hidden tokens, misses.
    hidden_mean = 2 * integral(Enumerated(eps=1e-9, mask=3), of=lambda loss, time: loss * time)
    assert abs(hidden_mean - truth) > 0.01, (hidden_mean, truth)


def test_either_of_two_texts_costs_one_bit():
    assert integral(Enumerated(eps=1e-9, mask=2), chain=TURNS, length=4) == pytest.approx(math.log(2) / 4, abs=1e-6)
    rows = as_targets(TURNS.sample(8, 8, seed=0))
    for seed in range(3):
        nats, tokens = MaskedDiffusion(draws=1, mask=2).nats(Denoiser(TURNS), TokenBatch(rows, seed=seed))
        # Every number of hidden tokens comes once in eight rows, so that there is no chance left.
        assert tokens == 64 and nats.item() == pytest.approx(8 * math.log(2), abs=1e-9)


def test_batches_estimate_the_bound_without_bias():
    """Of training's masks and of validation's, within the error of the mean."""
    objective, net = MaskedDiffusion(eps=0.05, draws=2, mask=3), Denoiser(THREE)
    drawn = [TokenBatch(as_targets(THREE.sample(256, 5, seed=seed)), seed=seed) for seed in range(100)]
    trained = torch.stack([objective.terms(net, batch)["loss"].value for batch in drawn])
    validated = torch.stack([torch.divide(*objective.nats(net, batch)) for batch in drawn])
    for found, truth in (
        (trained, integral(Enumerated(eps=0.05, mask=3))),
        (validated, THREE.entropy(5) / 5),
    ):
        assert abs(found.mean() - truth) < 4 * found.std() / math.sqrt(len(found)) < 0.02
    assert objective.nats(net, drawn[1])[0] == validated[1] * 1280 != objective.nats(net, drawn[1].ids)[0]


def test_a_row_of_padding_costs_nothing():
    weights, net = torch.ones(4, LENGTH), network()
    weights[3] = 0
    objective = MaskedDiffusion(mask=MASK)
    nats, total = objective.nats(net, TokenBatch(IDS, weights=weights))
    assert nats.isfinite() and total == 3 * LENGTH
    assert objective.terms(net, TokenBatch(IDS, weights=weights))["loss"].value.isfinite()


def test_hidden_counts_are_even_and_time_is_spread_over_rows():
    seen = []

    class Counting(Denoiser):
        def hidden_and_losses(self, ids, *rest):
            seen.append((ids == self.states).sum(1))
            return super().hidden_and_losses(ids, *rest)

    rows = as_targets(THREE.sample(8, 16, seed=0))
    MaskedDiffusion(draws=4, mask=3).nats(Counting(THREE), rows)
    assert sorted(torch.cat(seen).tolist()) == sorted([*range(1, 17)] * 2)
    e = MaskedDiffusion(mask=3).examples(as_targets(THREE.sample(1000, 64, seed=0)))
    shares = (1 / e.weights.amax(1))[e.weights.amax(1) > 0].sort().values  # few rows have no token hidden
    even = torch.linspace(0, 1, len(shares))
    assert (shares - even).abs().max() < 0.05 and (shares.diff() - 1e-3).abs()[200:].max() < 1e-4


# ---- spans


def test_the_rate_is_exact_and_every_position_is_hidden_equally_often():
    batch = TokenBatch(torch.zeros(4000, 65, dtype=torch.long), seed=3)
    e = SpanCorruption(rate=0.15, mean_span=3, mask=9).examples(batch)
    hidden = e.inputs == 9
    assert torch.equal(hidden, e.weights > 0) and set(hidden.sum(1).tolist()) == {9, 10}  # 9.6 of 64
    assert hidden.sum(1).double().mean() == pytest.approx(9.6, abs=4 * 0.49 / 4000**0.5)
    often = hidden.double().mean(0)
    assert (often - 0.15).abs().max() < 4.5 * (0.15 * 0.85 / 4000) ** 0.5
    # The control: as T5 places them, a row begins with text and ends with a span.
    assert 0 < often[0] < 1 and 0 < often[-1] < 1


def test_lengths_of_spans_are_those_of_a_random_partition():
    """N tokens in k spans: a span has l with probability C(N - l - 1, k - 2) / C(N - 1, k - 1)."""
    objective, generator = SpanCorruption(rate=0.25, mean_span=3, mask=9), torch.Generator().manual_seed(0)
    counts = np.zeros(13)
    for _ in range(2000):
        row = objective._spans(48, generator)
        row = row.roll(-int((~row).nonzero()[0]))  # a ring from a token that is not hidden
        edges = torch.diff(row.int(), prepend=torch.tensor([0]), append=torch.tensor([0])).nonzero()[:, 0]
        lengths = edges[1::2] - edges[::2]
        assert len(lengths) == 4 and lengths.sum() == 12
        np.add.at(counts, lengths.numpy(), 1)
    law = np.array([0.0] + [math.comb(max(11 - l, 0), 2) / math.comb(11, 3) for l in range(1, 13)])
    expected = 8000 * law
    kept = expected > 5
    # Spans of one row depend on each other, which makes chi-square smaller, not larger.
    assert ((counts - expected)[kept] ** 2 / expected[kept]).sum() < 30 and counts[law == 0].sum() == 0
    assert np.average(np.arange(13), weights=counts) == 3.0


@pytest.mark.parametrize(
    ("rate", "mean_span", "length"), [(0.01, 3, 8), (1.0, 3, 8), (0.99, 1, 8), (0.5, 100, 7), (0.5, 1, 2)]
)
def test_extreme_settings_hide_as_many_as_they_say(rate, mean_span, length):
    e = SpanCorruption(rate=rate, mean_span=mean_span, mask=9).examples(torch.zeros(2000, length + 1).long())
    assert (e.inputs == 9).double().mean() == pytest.approx(rate, abs=0.012)


@pytest.mark.parametrize("rate", [0.02, 0.15, 0.5, 0.95, 1.0])
def test_a_prefix_and_its_spans_are_the_text(rate):
    batch = TokenBatch(torch.randint(90, (300, 41), generator=torch.Generator().manual_seed(0)), seed=2)
    e = PrefixSpans(rate=rate, mask=99).examples(batch)
    shares = []
    for row in range(300):
        ids, prefix = [*e.inputs[row].tolist(), int(e.targets[row, -1])], int(e.prefix[row])
        spans: list[list[int]] = []
        for i in ids[prefix : prefix + int(e.weights[row].sum()) + 1]:
            if i == 99:
                spans.append([])
            else:
                spans[-1].append(i)
        assert not spans or spans.pop() == [], "each span ends with a mask token"
        shares.append(sum(map(len, spans)) / (prefix - len(spans) + sum(map(len, spans))))
        found = [token for i in ids[:prefix] for token in (spans.pop(0) if i == 99 else [i])]
        assert not spans and found == batch.ids[row, : len(found)].tolist() and len(found) >= 24
        assert e.weights[row, :prefix].sum() == 0 or rate == 1.0
    assert sum(shares) / 300 == pytest.approx(rate, abs=0.02)


def test_spans_after_a_prefix_need_a_mask_with_one():
    net, objective = network(Prefix()), PrefixSpans(rate=0.4, mask=MASK)
    objective.check(net)
    total_loss(objective.terms(net, IDS)).backward()
    assert objective.nats(net, IDS)[0] == NextToken().nats(net, IDS)[0]
    for mask, told in ((Causal(), r"use mask = Prefix\(\)"), (Full(), "lets a token see later ones")):
        with pytest.raises(ClocheError, match=told):
            objective.check(network(mask))
    with pytest.raises(ClocheError, match=r"turn off rows\.document_masks"):
        objective.examples(TokenBatch(IDS, torch.zeros(4, LENGTH)))


# ---- both


BOTH = [SpanCorruption(rate=0.4, mask=MASK), MaskedDiffusion(mask=MASK)]


@pytest.mark.parametrize("objective", BOTH)
def test_only_hidden_tokens_reach_the_head_and_the_mask_is_no_target(objective, monkeypatch):
    from cloche.train.objectives import head_loss

    seen, original = [], head_loss.HeadLoss.apply
    monkeypatch.setattr(head_loss.HeadLoss, "apply", lambda *a: seen.append(a[2]) or original(*a))
    e = objective.examples(IDS)
    total_loss(objective.terms(network(), IDS)).backward()
    assert torch.equal(seen[0], IDS[:, 1:][e.inputs == MASK]) and 0 < len(seen[0]) < IDS[:, 1:].numel()
    assert (seen[0] != MASK).all()
    assert torch.equal(torch.where(e.inputs == MASK, e.targets, e.inputs), IDS[:, 1:])


@pytest.mark.parametrize("objective", BOTH)
def test_documents_are_alone_and_padding_is_seen_by_nothing(objective):
    documents, weights = torch.zeros(4, LENGTH).long(), torch.ones(4, LENGTH)
    documents[:, 5:] = 1
    weights[:, 10:] = 0
    net = network()

    def outputs(ids):
        # The same tokens are hidden, whatever they are.
        e = objective.examples(TokenBatch(ids, documents, weights, seed=1))
        assert not (e.inputs[:, 10:] == MASK).any()
        return objective.hidden(net, e)[0], objective.nats(net, TokenBatch(ids, documents, weights, seed=1))[0]

    other = IDS.clone()
    other[:, 11:] = (other[:, 11:] + 1) % (VOCAB - 1)  # padding, as targets
    (first, nats), (second, same) = outputs(IDS), outputs(other)
    assert torch.equal(first[:, :10], second[:, :10]) and nats == same
    other[:, 6:11] = (other[:, 6:11] + 1) % (VOCAB - 1)  # the second document
    assert torch.equal(first[:, :5], outputs(other)[0][:, :5])
    assert not torch.allclose(first[:, 5:10], outputs(other)[0][:, 5:10])  # the control


@pytest.mark.parametrize("mask", [Causal(), Prefix()])
@pytest.mark.parametrize("objective", BOTH)
def test_masks_without_the_other_side_are_refused(objective, mask):
    with pytest.raises(
        ClocheError, match=r"of layer 0 shows a token none after it: set model\.body\.block\.mix\.mask=Full"
    ):
        objective.check(network(mask))
    objective.check(network())
    with pytest.raises(ClocheError, match="no token of this model, whose ids end at 22"):
        type(objective)(mask=23).check(network())


def test_without_its_mask_token_an_objective_says_so():
    with pytest.raises(ClocheError, match=r"\.bound\(tokenizer\)"):
        MaskedDiffusion().terms(network(), IDS)
    assert MaskedDiffusion(mask=3).special_tokens == () and SpanCorruption().special_tokens == ("<|mask|>",)


def test_a_model_that_sees_both_sides_is_not_evaluated_on_next_tokens():
    with pytest.raises(ClocheError, match="NextToken predicts each token from those before it"):
        evaluate(network(), None, None)
    assert NextToken().nats(network(Causal()), IDS)[1] == 4 * LENGTH


@pytest.mark.parametrize("objective", ["SpanCorruption(rate=0.3)", "MaskedDiffusion(draws=2)"])
def test_they_train_and_resume_to_the_same_bytes_without_samples(prepared, tmp_path, objective):
    from test_resume import fingerprint

    changes = {"run.steps": 8, "log.every": 2, "model.body.block.mix.mask": "Full", "objective": objective}
    recipe = tiny_recipe(data__paths=[str(prepared.parent / "corpus")]).with_set(changes)
    straight, broken = (Run.create(tmp_path / name, recipe.to_toml()) for name in ("straight", "broken"))
    list(Trainer.start(recipe, straight))
    trainer = Trainer.start(recipe, broken)
    for record in trainer:
        if record["step"] == 4:
            trainer.stop()
    list(Trainer.resume(broken))
    assert fingerprint(broken) == fingerprint(straight)
    assert list(straight.read_log("samples")) == []
    assert trainer.objective.mask == trainer.tokenizer.vocab - 1
    bits = [record["val_bpb"] for record in straight.read_log("metrics") if "val_bpb" in record]
    assert bits[-1] < bits[0]


@pytest.mark.parametrize("objective", ["FillInTheMiddle", "SpanCorruption", "Penalised(objective=MaskedDiffusion)"])
def test_they_are_rehearsed_without_a_corpus(objective):
    from cloche.train.prediction.rehearsal import Rehearsal

    mask = "Causal" if objective == "FillInTheMiddle" else "Full"
    rehearsal = Rehearsal(tiny_recipe().with_set({"objective": objective, "model.body.block.mix.mask": mask}))
    assert rehearsal.step() > 0
    rehearsal.validate()
