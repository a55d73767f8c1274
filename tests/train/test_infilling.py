"""Fill-in-the-middle: no character is lost or moved, rows keep their length, and the special tokens are no text."""

import random
from itertools import pairwise

import pytest
import torch
from tiny_training import tiny_recipe

import cloche
from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, Full, Stack
from cloche.runs import Run, verify
from cloche.text import Tokenizer
from cloche.train import (
    L2,
    FillInTheMiddle,
    NextToken,
    Penalised,
    TokenBatch,
    Trainer,
    check_recipe,
    prepare_data,
    total_loss,
)

ROOM = 64
ALPHABET = "abcde  \n\täß日本語🎉𝔘\u0301\u200d<|fim_middle|>"


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return ["".join(rng.choice(ALPHABET) for _ in range(rng.randrange(0, 90))) for _ in range(300)]


@pytest.fixture(scope="module")
def tokenizer(texts):
    # Few characters have tokens of their own; the others are spelled in bytes, so that windows cut them.
    return cloche.train_bpe([text.replace("語", "").replace("𝔘", "") for text in texts], 290, FillInTheMiddle().tokens)


def rows_of(texts, tokenizer):
    ids = [i for text in texts for i in [*tokenizer.encode(text), tokenizer.end]]
    starts = range(0, len(ids) - ROOM - 1, ROOM)
    return torch.tensor([ids[start : start + ROOM + 1] for start in starts])


def bytes_of(tokenizer, ids):
    return tokenizer.decode_bytes([i for i in ids if i != tokenizer.end])


def documents(ids, end):
    """A row's documents, without their end tokens, and whether each ended."""
    found, now = [], []
    for i in ids:
        if i == end:
            found.append((now, True))
            now = []
        else:
            now.append(i)
    return [*found, (now, False)] if now else found


def restored(ids, objective):
    """The bytes of a document as they were, from its moved form; None for one that was not moved."""
    pre, suf, mid = objective.marks
    if pre not in ids:
        return None
    assert ids[0] == pre and ids.count(pre) == ids.count(suf) == ids.count(mid) == 1
    cut = objective.tokenizer.decode_bytes
    a, b = ids.index(suf), ids.index(mid)
    if a == 1:  # suffix first; prefix and middle are one text
        return cut(ids[b + 1 :]) + cut(ids[2:b])
    return cut(ids[1:a]) + cut(ids[b + 1 :]) + cut(ids[a + 1 : b])


@pytest.mark.parametrize("order", ["psm", "spm", "both"])
def test_prefix_middle_and_suffix_are_the_text(texts, tokenizer, order):
    objective, batch = FillInTheMiddle(rate=1.0, order=order).bound(tokenizer), rows_of(texts, tokenizer)
    e = objective.examples(TokenBatch(batch, seed=5))
    rows = torch.cat([e.inputs, e.targets[:, -1:]], 1)
    assert rows.shape == batch.shape and e.documents is None
    orders, padded = set(), 0
    for before, after, weights in zip(batch.tolist(), rows.tolist(), e.weights.tolist(), strict=True):
        left = max(i for i, weight in enumerate(weights) if weight) + 2
        padded += len(after) - left
        plain = documents(before, tokenizer.end)
        moved = documents(after[:left], tokenizer.end)
        for number, ((was, ended), (now, closed)) in enumerate(zip(plain, moved, strict=False)):
            text = restored(now, objective)
            if text is None:
                assert bytes_of(tokenizer, was).startswith(bytes_of(tokenizer, now))
                characters = bytes_of(tokenizer, was).decode("utf-8", "ignore")
                assert not characters or number == len(moved) - 1, "all text is moved"
                continue
            orders.add(now[1] == objective.marks[1])
            assert closed, "each middle ends"
            if number < len(moved) - 1:
                assert text == bytes_of(tokenizer, was) and ended
            else:  # the last may be cut, for room
                assert bytes_of(tokenizer, was).startswith(text)
        assert all(w == (i not in objective.marks) for i, w in zip(after[1:left], weights, strict=False))
    assert padded < 0.06 * rows.numel()
    assert orders == ({True} if order == "spm" else {True, False})  # an empty prefix looks like the other order


def test_the_rate_is_per_document_and_choices_are_the_seeds(texts, tokenizer):
    objective, batch = FillInTheMiddle(rate=0.3).bound(tokenizer), rows_of(texts, tokenizer)
    rows = [objective.examples(TokenBatch(batch, seed=seed)).inputs for seed in (1, 1, 2)]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    moved = sum(
        int((objective.examples(TokenBatch(batch, seed=s)).inputs == objective.marks[0]).sum()) for s in range(20)
    )
    there = sum(bool(ids) for row in batch.tolist() for ids, _ in documents(row, tokenizer.end))
    assert 0.85 * 0.3 < moved / 20 / there < 0.3 * 1.05  # those at a row's end may not fit


def test_a_rate_of_zero_is_next_token_to_the_bit(texts, tokenizer):
    net = LM(tokenizer.vocab, 32, Stack(1, Block(Attention(2), GLU()))).build(0)
    batch, found = TokenBatch(rows_of(texts, tokenizer)[:4]), []
    for objective in (FillInTheMiddle(rate=0.0).bound(tokenizer), NextToken()):
        net.zero_grad()
        total_loss(objective.terms(net, batch)).backward()
        found.append([objective.nats(net, batch)[0], *(p.grad.clone() for p in net.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_documents_keep_their_numbers_and_padding_its_place(tokenizer):
    end, (first, second) = tokenizer.end, (tokenizer.encode(text) for text in ("abc dea", "日 ab"))
    ids = [end, *first, end, *second, end]
    room = ROOM - len(ids)
    documents = [0] * (len(first) + 1) + [1] * (len(second) + 1) + [2] * room
    weights = [1.0] * (len(ids) - 1) + [0.0] * room
    batch = TokenBatch(torch.tensor([ids + [end] * room]), torch.tensor([documents]), torch.tensor([weights]))
    e = FillInTheMiddle(rate=1.0).bound(tokenizer).examples(batch)
    row = [*e.inputs[0].tolist(), int(e.targets[0, -1])]
    ends = [i for i, token in enumerate(row) if token == end][:3]
    assert ends[0] == 0
    for number, (a, b) in enumerate(pairwise(ends)):
        assert set(e.documents[0, a:b].tolist()) == {number}  # an end token as an input begins the next
    assert set(e.documents[0, ends[2] :].tolist()) == {2} and e.weights[0, ends[2] :].sum() == 0
    assert e.weights[0, : ends[2]].sum() == ends[2] - 6  # all but three special tokens in each


def test_a_model_trains_on_it_and_resumes_to_the_same_bytes(prepared, tmp_path):
    from test_resume import fingerprint

    line = "Penalised(objective=FillInTheMiddle(rate=0.9, order='both'), penalties=[L2(weight=1e-6)])"
    recipe = tiny_recipe(data__paths=[str(prepared.parent / "corpus")], objective=line, tokenizer__vocab=300)
    assert recipe.objective == Penalised(FillInTheMiddle(0.9, "both"), (L2(1e-6),))
    straight, broken = (Run.create(tmp_path / name, recipe.to_toml()) for name in ("straight", "broken"))
    list(Trainer.start(recipe, straight))
    trainer = Trainer.start(recipe, broken)
    for record in trainer:
        if record["step"] == 10:
            trainer.stop()
    list(Trainer.resume(broken))
    assert fingerprint(broken) == fingerprint(straight) and verify(broken.path).problems == []
    assert Tokenizer.load(straight.path).id_of("<|fim_middle|>") == trainer.tokenizer.vocab - 1
    sampled = [record["text"] for record in straight.read_log("samples")]
    assert sampled and not any("fim" in text for text in sampled)


def test_a_tokenizer_without_the_tokens_is_refused_before_packing(prepared, tmp_path, tokenizer):
    settings = {"data.paths": [str(prepared.parent / "corpus")], "tokenizer.path": str(prepared)}
    recipe = tiny_recipe().with_set({**settings, "objective": "FillInTheMiddle"})
    told = r"special tokens <\|fim_prefix\|>, <\|fim_suffix\|>, <\|fim_middle\|>, .* leave out tokenizer\.path"
    with pytest.raises(ClocheError, match=told):
        check_recipe(recipe)
    with pytest.raises(ClocheError, match=told):
        prepare_data(recipe, Run.create(tmp_path / "run", recipe.to_toml()))
    with pytest.raises(ClocheError, match=r"\.bound\(tokenizer\)"):
        FillInTheMiddle().examples(torch.zeros(1, 4).long())
    full = LM(300, 32, Stack(1, Block(Attention(2, mask=Full()), GLU()))).build(0)
    with pytest.raises(ClocheError, match=r"lets a token see later ones"):
        FillInTheMiddle().bound(tokenizer).check(full)
    with pytest.raises(ClocheError, match=r"must be one of 'psm', 'spm', 'both'"):
        tiny_recipe(objective="FillInTheMiddle(order='msp')")
