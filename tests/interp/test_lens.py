"""The logit lens where the answer is known, where there is nothing to see, and on a real model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hand_built import ANSWER, TRIGGER, WRITER, answering, echo, glass

import cloche
from cloche.errors import ClocheError
from cloche.glass import Glass
from cloche.interp import logit_lens
from cloche.model import GLU, LM, Attention, Block, Full, LayerNorm, Learned, RMSNorm, RoPE, Stack

PROMPT = [2, TRIGGER, 7, TRIGGER]


def first_tokens(subject: Glass) -> torch.Tensor:
    return torch.from_numpy(logit_lens(subject, PROMPT, top=3).arrays["top_ids"])[..., 0]


def test_the_planted_answer_appears_at_its_layer_and_not_before() -> None:
    said = first_tokens(glass(answering()))
    assert said.shape == (4, 4)  # the embedding and three layers; four positions
    before, after = said[: 1 + WRITER], said[1 + WRITER :]
    assert (before == torch.tensor(PROMPT)).all()
    assert (after == torch.tensor([2, ANSWER, 7, ANSWER])).all()


def test_without_the_planted_unit_nothing_appears() -> None:
    assert (first_tokens(glass(echo())) == torch.tensor(PROMPT)).all()


def test_the_summary_names_the_layer() -> None:
    finding = logit_lens(glass(answering()), PROMPT, top=3)
    assert f"predicts '{ANSWER}'" in finding.summary and f"first from resid_post[{WRITER}] on" in finding.summary
    assert finding.checkpoint == "step-000001" and finding.instrument == "logit-lens"


@pytest.mark.parametrize("norm", [RMSNorm(), LayerNorm()])
@pytest.mark.parametrize("tied", [True, False])
def test_the_last_layer_is_the_model_itself(norm, tied: bool) -> None:
    learned = isinstance(norm, LayerNorm)
    block = Block(mix=Attention(heads=2, position=RoPE()), map=GLU("silu", hidden=24), norm=norm)
    net = LM(vocab=50, width=16, body=Stack(2, block), norm=norm, tied=tied, position=Learned(32) if learned else None)
    subject = glass(net.build(seed=1))
    ids = torch.randint(50, (20,), generator=torch.Generator().manual_seed(0))
    finding = logit_lens(subject, ids, top=50)
    logits = subject.net.run(ids).logits[0]
    best = {name: torch.from_numpy(finding.arrays[name][-1]) for name in ("top_ids", "top_probabilities")}
    shares = torch.zeros_like(logits).scatter(1, best["top_ids"], best["top_probabilities"])
    assert torch.equal(shares, logits.log_softmax(-1).exp())


def test_entropy_rank_and_layout_against_plain_arithmetic() -> None:
    block = Block(mix=Attention(heads=2, position=RoPE()), map=GLU("silu", hidden=24), norm=RMSNorm())
    subject = glass(LM(vocab=50, width=16, body=Stack(2, block)).build(seed=1))
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    finding = logit_lens(subject, ids, top=10)
    result = subject.net.run(ids, save=["resid_post[0]"])
    logits = subject.net.unembed(subject.net.final_norm(result["resid_post[0]"]))[0].detach().double()
    data = finding.data
    assert data["layers"] == ["embed", "resid_post[0]", "resid_post[1]"]
    assert data["tokens"] == [str(i) for i in ids]
    for p, cell in enumerate(data["top"][1]):
        shares = logits[p].softmax(0)
        assert data["entropy"][1][p] == pytest.approx(float(-(shares * shares.log()).sum()), rel=1e-5)
        assert len(cell) == 10 and [token for token, _ in cell] == [str(int(i)) for i in shares.topk(10).indices]
        if p + 1 < len(ids):
            ordered = logits[p].argsort(descending=True).tolist()
            assert data["rank"][1][p] == 1 + ordered.index(ids[p + 1])
    assert [row[-1] for row in data["rank"]] == [None, None, None]


def test_on_a_real_story_the_last_layer_says_what_greedy_writes(shared: Callable[[str], Path]) -> None:
    subject = cloche.load(shared("weights/stories260K/hf"))
    assert subject.tokenizer is not None
    text = "Once upon a time, there was a little"
    finding = logit_lens(subject, text)
    written = subject.generate([subject.tokenizer.encode(text)], new=1).new[0]
    assert int(finding.arrays["top_ids"][-1, -1, 0]) == written[0]
    assert finding.data["top"][-1][-1][0][0] == subject.tokenizer.decode_bytes(written).decode()
    assert "".join(finding.data["tokens"][1:]).strip() == text
    ranks = [sorted(r for r in row if r is not None) for row in finding.data["rank"]]
    assert ranks[-1][len(ranks[-1]) // 2] < ranks[0][len(ranks[0]) // 2]  # the layers foresee more than the embedding


@pytest.mark.parametrize(
    ("prompt", "top", "sentence"),
    [
        ("text", 3, "no tokenizer"),
        ([], 3, "has no tokens; give at least one"),
        ([99], 3, "outside"),
        (PROMPT, 0, "between 1 and"),
        (PROMPT, 13, "between 1 and the model's 12 tokens"),
    ],
)
def test_misuse_gets_one_sentence(prompt, top: int, sentence: str) -> None:
    with pytest.raises(ClocheError, match=sentence):
        logit_lens(glass(echo()), prompt, top=top)


def test_a_model_that_sees_later_tokens_has_no_table_of_next_ones() -> None:
    net = LM(20, 16, Stack(1, Block(Attention(2, mask=Full()), GLU()))).build(seed=0)
    with pytest.raises(ClocheError, match="Full of layer 0 lets a token see later ones"):
        logit_lens(Glass(net), PROMPT)
