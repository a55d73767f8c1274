"""What is predicted from what: windows, prefixes, tokens further ahead, and rows of several documents."""

import pytest
import torch
import torch.nn.functional as F

from cloche.decode import generate
from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, Causal, Full, Learned, Prefix, RoPE, Stack, Unembed, Window
from cloche.train import LastToken, MultiToken, NextToken, PrefixLM, TokenBatch, Windowed, total_loss

VOCAB, LENGTH = 23, 12
IDS = torch.randint(VOCAB, (3, LENGTH + 1), generator=torch.Generator().manual_seed(0))


def network(mask=None, ahead=None, **spec):
    block = Block(Attention(2, position=RoPE(), mask=mask or Causal()), GLU(hidden=16))
    net = LM(VOCAB, 32, Stack(2, block), head=Unembed(ahead=ahead), **spec).build(0)
    with torch.no_grad():
        for module in net.unembed.ahead:  # they start at zero, where each head is the first
            module.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    return net


def gradients(net, objective, batch=IDS):
    net.zero_grad()
    loss = total_loss(objective.terms(net, batch))
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def same_bits(one, other):
    assert one[0] == other[0] and one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.parametrize("objective", [Windowed(LENGTH), MultiToken(1)])
def test_the_widest_window_and_one_token_ahead_are_next_token_to_the_bit(objective):
    net = network()
    same_bits(gradients(net, objective), gradients(net, NextToken()))
    ones = TokenBatch(IDS, weights=torch.ones(3, LENGTH))
    same_bits(gradients(net, NextToken(), ones), gradients(net, NextToken()))


@pytest.mark.parametrize(("objective", "window"), [(Windowed(4), 4), (LastToken(), 1)])
def test_a_window_is_the_mean_over_its_targets(objective, window):
    net = network()
    loss, grads = gradients(net, objective)
    net.zero_grad()
    direct = F.cross_entropy(net(IDS[:, :-1])[:, -window:].flatten(0, 1), IDS[:, -window:].flatten())
    direct.backward()
    assert loss == pytest.approx(direct.item(), rel=1e-6)
    torch.testing.assert_close(grads["unembed.weight"], net.unembed.weight.grad, rtol=1e-4, atol=1e-6)
    # The control: another denominator is off by this factor.
    assert loss * window / LENGTH != pytest.approx(direct.item(), rel=0.1)


def test_positions_of_weight_zero_never_reach_the_head(monkeypatch):
    from cloche.train.objectives import head_loss

    seen = []

    def spied(hidden, *rest):
        seen.append(len(hidden))
        return original(hidden, *rest)

    original = head_loss.HeadLoss.apply
    monkeypatch.setattr(head_loss.HeadLoss, "apply", spied)
    for objective in (NextToken(), Windowed(2), LastToken()):
        objective.terms(network(), IDS)
    assert seen == [3 * LENGTH, 3 * 2, 3]


def test_smoothing_and_z_loss_are_torchs():
    net = network()
    objective = NextToken(smoothing=0.1, z_loss=0.01, chunk=7)
    weights = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(2))
    terms = objective.terms(net, TokenBatch(IDS, weights=weights))
    _, grads = gradients(net, objective, TokenBatch(IDS, weights=weights))
    net.zero_grad()
    logits, a = net(IDS[:, :-1]).double().flatten(0, 1), weights.double().flatten() / weights.double().sum()
    smooth = F.cross_entropy(logits, IDS[:, 1:].flatten(), reduction="none", label_smoothing=0.1)
    z = logits.logsumexp(-1).square()
    (a * (smooth + 0.01 * z)).sum().backward()
    assert total_loss(terms).item() == pytest.approx((a * (smooth + 0.01 * z)).sum().item(), rel=1e-6)
    assert terms["z"].value.item() == pytest.approx((a * z).sum().item(), rel=1e-6)
    plain = F.cross_entropy(logits, IDS[:, 1:].flatten(), reduction="none")
    assert terms["loss"].value.item() == pytest.approx((a * plain).sum().item(), rel=1e-6)
    for name, p in net.named_parameters():
        torch.testing.assert_close(grads[name], p.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_further_heads_are_autograds():
    net = network(ahead=2)
    loss, grads = gradients(net, MultiToken(3, share=0.5, chunk=5))
    net.zero_grad()
    hidden = net.hidden(IDS[:, :-1])
    direct = F.cross_entropy(net.unembed(hidden).flatten(0, 1), IDS[:, 1:].flatten())
    for j in (1, 2):
        h = hidden[:, :-j]
        read = h + F.silu(h @ net.unembed.ahead[j - 1].weight.T)
        further = F.cross_entropy(net.unembed(read).flatten(0, 1), IDS[:, 1 + j :].flatten())
        direct = direct + 0.5 * (LENGTH - j) / LENGTH * further
    direct.backward()
    assert loss == pytest.approx(direct.item(), rel=1e-6)
    for name, p in net.named_parameters():
        torch.testing.assert_close(grads[name], p.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("position", [None, Learned(LENGTH)])
def test_documents_in_a_row_are_computed_as_if_alone(position):
    net = network(Causal() & Window(4), position=position)
    documents = torch.tensor([[0] * 5 + [1] * 3 + [2] * 4])
    row = IDS[:1, :-1]
    together = net.hidden_and_losses(row, documents)[0]
    alone = torch.cat([net.hidden(row[:, a:b]) for a, b in ((0, 5), (5, 8), (8, 12))], 1)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    # The control: without their numbers the second one sees the first.
    assert not torch.allclose(net.hidden(row), alone, atol=1e-2)


def test_a_document_ahead_is_no_target():
    documents = torch.tensor([[0] * 5 + [1] * 7])
    net, batch = network(ahead=1), TokenBatch(IDS[:1], documents)
    blind = MultiToken(2)._further(MultiToken(2).examples(batch), 1)
    assert blind.weights.tolist() == [[1.0] * 4 + [0.0] + [1.0] * 6]
    hidden = net.hidden_and_losses(IDS[:1, :-1], documents)[0][:, :-1]
    logits = net.unembed(hidden + F.silu(hidden @ net.unembed.ahead[0].weight.T))[0]
    losses = F.cross_entropy(logits, IDS[0, 2:], reduction="none")
    found = MultiToken(2).terms(net, batch)["ahead_2"].value.item()
    assert found == pytest.approx(losses[blind.weights[0] > 0].mean().item(), rel=1e-5)
    assert found != pytest.approx(losses.mean().item(), rel=1e-3)  # the control: all eleven positions


def test_a_prefix_is_seen_by_all_and_what_follows_is_causal():
    net, prefix = network(Prefix()), torch.tensor([[4]])
    row = IDS[:1, :-1]

    def moved(at):
        other = row.clone()
        other[0, at] = (other[0, at] + 1) % VOCAB
        difference = net.hidden_and_losses(row, prefix=prefix)[0] - net.hidden_and_losses(other, prefix=prefix)[0]
        return (difference.abs().amax(-1)[0] > 1e-6).tolist()

    assert moved(3) == [True] * LENGTH
    assert moved(7) == [False] * 7 + [True] * (LENGTH - 7)
    assert torch.equal(net.hidden(row), network(Causal()).hidden(row))  # without a prefix


def test_a_prefix_model_continues_a_prompt_that_it_sees_both_ways():
    net = network(Prefix())
    made = generate(net, IDS[:1, :5], new=3, temperature=0).ids
    ids = IDS[:1, :5]
    for _ in range(3):
        hidden = net.hidden_and_losses(ids, prefix=torch.tensor([[5]]))[0]
        ids = torch.cat([ids, net.unembed(hidden)[:, -1:].argmax(-1)], 1)
    assert torch.equal(made, ids)


def test_prefixes_are_drawn_from_the_batch_seed_and_never_take_every_target():
    objective = PrefixLM()
    drawn = [objective.examples(TokenBatch(IDS.repeat(50, 1), seed=seed)).prefix for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].min() == 0 and drawn[0].max() == LENGTH - 1
    weights = objective.examples(TokenBatch(IDS.repeat(50, 1))).weights
    assert weights.sum(1).min() == 2  # the last of the prefix and the one input after it
    loss = PrefixLM(least=0.5, most=0.5).terms(network(Prefix()), IDS)["loss"].value
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("objective", "net", "told"),
    [
        (NextToken(), {"mask": Full()}, "lets a token see later ones"),
        (Windowed(3), {"mask": Full()}, "Full of layer 0"),
        (PrefixLM(), {}, "mask = Prefix"),
        (MultiToken(3), {"ahead": 1}, "set model.head.ahead=2"),
    ],
)
def test_an_illegal_pair_fails_before_training(objective, net, told):
    with pytest.raises(ClocheError, match=told):
        objective.check(network(**net))


def test_a_window_longer_than_a_row_is_one_sentence():
    with pytest.raises(ClocheError, match=r"longer than the 12 targets of a row"):
        Windowed(13).terms(network(), IDS)
    net = network(ahead=20)
    net.context = 12
    for objective in (Windowed(13), MultiToken(13)):
        with pytest.raises(ClocheError, match=r"larger run\.length"):
            objective.check(net)
    with pytest.raises(ClocheError, match=r"turn off rows\.document_masks"):
        PrefixLM().examples(TokenBatch(IDS, torch.zeros(3, LENGTH)))
