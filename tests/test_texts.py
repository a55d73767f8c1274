"""Texts wherever ids are taken, by one way in; what comes back prints as a person reads it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cloche.errors import ClocheError
from cloche.glass import Glass
from cloche.interp import (
    activation_density,
    activations,
    dictionary_report,
    end_to_end,
    features_report,
    harvest,
    logit_lens,
    loss_recovered,
    sparse_probing,
)
from cloche.model import GLU, LM, Attention, Block, RoPE, Stack
from cloche.sparse import SAE, Provenance
from cloche.text import Tokenizer, train_bpe

TEXTS = ["the cat sat on the mat. " * 20, "a dog ran after the cat, and the cat ran. " * 20]
LINES = [
    "the cat sat on the mat.",
    "a dog ran after the cat.",
    "the cat ran, and a dog sat.",
    "on the mat the dog sat.",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(iter(TEXTS), vocab=280)


@pytest.fixture(scope="module")
def glass(tokenizer: Tokenizer) -> Glass:
    block = Block(mix=Attention(heads=2, position=RoPE()), map=GLU("silu", hidden=24))
    return Glass(LM(vocab=290, width=16, body=Stack(2, block)).build(seed=0), tokenizer, "small", "step-000001")


@pytest.fixture(scope="module")
def sae() -> SAE:
    torch.manual_seed(0)
    made = SAE(16, 32, 4, trained_on=Provenance("resid_post[1]", "step-000001"))
    with torch.no_grad():
        made.encoder.normal_()
        made.decoder.normal_()
    return made


def rows_of(glass: Glass, windows: Any) -> list[torch.Tensor]:
    return [ids for ids, _ in activations(glass, windows, "resid_post[1]")]


def test_every_form_of_a_text_is_read_alike(glass: Glass) -> None:
    ids = [glass.tokenizer.encode(line) for line in LINES]
    forms = (LINES, tuple(LINES), [LINES], [[line] for line in LINES], ids, [torch.tensor([row]) for row in ids])
    for form in forms:
        assert [row.tolist() for row in rows_of(glass, form)] == [[row] for row in ids]
    assert [row.tolist() for row in rows_of(glass, LINES[0])] == [[ids[0]]]
    glass.net.context = 5
    try:
        cut = rows_of(glass, [TEXTS[0]])
    finally:
        glass.net.context = None
    assert all(row.shape[1] <= 5 for row in cut)
    assert torch.cat(cut, 1).tolist() == [glass.tokenizer.encode(TEXTS[0])]


def test_instruments_take_texts_where_they_take_ids(glass: Glass, sae: SAE) -> None:
    ids = [torch.tensor([glass.tokenizer.encode(text)]) for text in TEXTS * 4]
    instruments: list[Callable[[Any], Any]] = [
        lambda w: activation_density(glass, w),
        lambda w: features_report(glass, sae, w, count=2),
        lambda w: dictionary_report(glass, sae, w),
        lambda w: sparse_probing(glass, w, "resid_post[1]", ks=(1,)),
    ]
    for instrument in instruments:
        one, two = instrument(TEXTS * 4), instrument(ids)
        assert one.id == two.id and one.summary == two.summary
    assert loss_recovered(glass, sae, TEXTS) == loss_recovered(glass, sae, ids[:2])
    assert torch.equal(*(torch.cat(list(harvest(glass, w, "z[0]"))) for w in (TEXTS, ids[:2])))
    assert len(list(end_to_end(glass, TEXTS, "resid_post[1]"))) == 2
    with pytest.raises(ClocheError, match="cannot read text; give token ids"):
        next(harvest(glass.net, TEXTS, "z[0]"))


def test_a_lens_of_several_prompts_is_a_finding_each(glass: Glass) -> None:
    apart = [logit_lens(glass, line, top=3) for line in LINES[:2]]
    assert [found.id for found in logit_lens(glass, LINES[:2], top=3)] == [found.id for found in apart]
    ids = glass.ids(LINES[0])[0]
    for single in (ids, ids[0], ids.tolist(), ids[0].tolist(), [LINES[0]][0]):
        assert logit_lens(glass, single, top=3).id == apart[0].id
    assert len(logit_lens(glass, ids.repeat(2, 1), top=3)) == 2


def test_activations_of_texts_are_stored(glass: Glass, tmp_path: Path) -> None:
    rows = glass.store(LINES, "resid_post[1]", tmp_path / "texts").rows
    ids = [glass.ids(line)[0] for line in LINES]
    assert rows == sum(row.numel() for row in ids) == glass.store(ids, "resid_post[1]", tmp_path / "ids").rows
    assert glass.store(LINES[0], "resid_post[1]", tmp_path / "one").rows == ids[0].numel()


def test_the_loss_of_a_text_is_the_models_own(glass: Glass) -> None:
    ids, pad = glass.ids(LINES)
    logs = [glass.run(line).logits[0].log_softmax(-1) for line in LINES]
    rows = [glass.ids(line)[0][0] for line in LINES]
    nats = sum(-float(log[:-1].gather(1, row[1:, None]).sum()) for log, row in zip(logs, rows, strict=True))
    size = sum(len(glass.tokenizer.decode_bytes(row[1:].tolist())) for row in rows)
    count = sum(len(row) - 1 for row in rows)
    for loss in (glass.loss(LINES), glass.loss(ids, pad=pad)):
        assert (loss.tokens, loss.bytes) == (count, size)
        assert loss.nats_per_token == pytest.approx(nats / count, rel=1e-5)
        assert loss.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert str(loss).startswith(
        f"{loss.nats_per_token:.4f} nats per token, {loss.bits_per_byte:.4f} bits per byte, over"
    )
    assert glass.loss(LINES[0], edits=glass.sites.resid_post[1].zero()).nats_per_token == pytest.approx(math.log(290))
    assert Glass(glass.net).loss(ids, pad=pad).bits_per_byte is None
    for nothing in ("t", [[3]]):
        with pytest.raises(ClocheError, match="nothing to predict"):
            glass.loss(nothing)


def test_the_next_tokens_are_a_small_table(glass: Glass) -> None:
    found = glass.next_tokens(LINES[0], top=4)
    shares, ids = glass.run(LINES[0]).logits[0, -1].softmax(-1).topk(4)
    assert list(found.ids) == ids.tolist() and found.probabilities == pytest.approx(shares.tolist())
    lines = repr(found).splitlines()
    assert len(lines) == 5 and lines[0].split() == ["token", "id", "probability"]
    assert lines[1].startswith(found.texts[0]) and lines[1].endswith(f"{found.probabilities[0]:.4f}")
    assert glass.next_tokens(LINES[:2], top=4)[0].ids == found.ids and len(glass.next_tokens(LINES[:2])) == 2
    for top in (0, 1.5, 291, True):
        with pytest.raises(ClocheError, match="top="):
            glass.next_tokens(LINES[0], top=top)


@pytest.mark.parametrize(
    "prompt", [[], [[]], ["a", 3], {"a": 1}, None, [[1, 2], [3]], b"the", [1.5], "\ud800", object()]
)
def test_what_is_no_prompt_is_one_sentence(prompt: Any, glass: Glass) -> None:
    acts = [glass.run, glass.loss, glass.next_tokens, glass.generate, lambda p: logit_lens(glass, p)]
    for act in acts[: 4 if prompt == [[1, 2], [3]] else 5]:  # a lens looks at rows one by one
        with pytest.raises(ClocheError) as caught:
            act(prompt)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_text_beyond_the_context_is_said_in_every_answer(glass: Glass) -> None:
    note = "more than the 6 that this model was trained on"
    glass.net.context = 6
    try:
        answers = [glass.run(TEXTS[0]), glass.loss(TEXTS[0]), glass.next_tokens(TEXTS[0]), logit_lens(glass, TEXTS[0])]
        answers.append(glass.generate([[3] * 5], new=4))
        assert note in glass.generate(LINES[0], new=4).notes[0]
        for answer in answers:
            assert len(answer.notes) == 1 and note in answer.notes[0]
            assert note in (str(answer) if hasattr(answer, "tokens") else repr(answer))
        assert "context 6" in repr(glass)
    finally:
        glass.net.context = None
    assert not glass.run(TEXTS[0]).notes


def test_what_prints_says_what_it_is(glass: Glass) -> None:
    S = glass.sites
    result = glass.run(LINES[0], save=["z[0]", "pattern[1]"])
    count = glass.ids(LINES[0])[0].shape[1]
    assert (
        repr(result)
        == f"<Result: logits [1, {count}, 290], z[0] [1, {count}, 2, 8], pattern[1] [1, 2, {count}, {count}]>"
    )
    assert repr(S).splitlines()[
        0
    ] == "<Sites of 2 layers>" and "in layers 0 to 1: resid_pre, attn_scale, attn_in, q_pre, k_pre, q" in repr(S)
    assert repr(S.z) == "<z in layers 0 to 1>"
    made = glass.generate([[3, 4], [5, 6]], new=3, save="z[0]")
    assert repr(made) == "<Generation: 2 rows of 2 prompt tokens and 3, 3 new ones; saved z[0]>"
    assert repr(glass.net) == "<Network: Blocks, 2 layers of width 16, 290 tokens, 13,712 parameters in float32 on cpu>"
    assert repr(glass).startswith("<Glass 'small': Network: Blocks, 2 layers") and "tokenizer of 280 tokens" in repr(
        glass
    )
    edits = {
        "add resid_post[1] at last by a tensor [16]": S.resid_post[1].add(torch.ones(16)).at("last"),
        "scale z[0].head(1) by 2": S.z[0].head(1).scale(2.0),
        "zero logits": S.logits.zero(),
        "replace z[0] by Result": S.z[0].replace(result),
        "apply z[0] by gelu": S.z[0].apply(torch.nn.functional.gelu),
    }
    assert {repr(edit) for edit in edits.values()} == {f"<Edit: {text}>" for text in edits}
