"""A network with its tokenizer: where it is loaded from, what prompts it takes, what it writes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import cloche
from cloche.errors import ClocheError
from cloche.evals import perplexity, score_ids
from cloche.glass import Glass, load
from cloche.model import GLU, LM, Attention, Block, Causal, Full, Mask, RMSNorm, RoPE, Stack, save_network
from cloche.runs import Run
from cloche.text import Tokenizer, train_bpe

TEXTS = ["the cat sat on the mat. " * 20, "a dog ran after the cat, and the cat ran. " * 20]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(iter(TEXTS), vocab=300)


def network(vocab: int = 300, mask: Mask | None = None):
    block = Block(
        mix=Attention(heads=2, position=RoPE(), mask=mask or Causal()), map=GLU("silu", hidden=24), norm=RMSNorm()
    )
    return LM(vocab=vocab, width=16, body=Stack(2, block)).build(seed=0)


@pytest.fixture
def run(tmp_path: Path, tokenizer: Tokenizer) -> Run:
    run = Run.create(tmp_path / "runs" / "first", recipe="")
    tokenizer.save(run.path)
    for step in (1, 2):
        net = network()
        with torch.no_grad():
            net.embed.weight.mul_(step)
        with run.new_checkpoint(step) as folder:
            save_network(net, folder)
    return run


def test_a_run_a_checkpoint_and_a_folder_hold_the_same_model(run: Run) -> None:
    from_run, chosen = load(run.path), load(run, checkpoint=1)
    from_folder = cloche.load(run.path / "checkpoints" / "step-000002")
    assert (from_run.name, from_run.checkpoint) == ("first/step-000002", "step-000002")
    assert (from_folder.name, chosen.checkpoint) == (from_run.name, "step-000001")
    logits = [glass.run("the cat").logits for glass in (from_run, from_folder, chosen)]
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


def test_prompts_are_texts_or_ids_and_padding_changes_nothing(tokenizer: Tokenizer) -> None:
    glass = Glass(network(), tokenizer)
    ids = tokenizer.encode("the cat sat")
    assert [glass.tokenizer.show(i) for i in ids] == glass.tokens("the cat sat")
    alone = glass.run("the cat sat").logits
    assert torch.equal(alone, glass.run(ids).logits) and torch.equal(alone, glass.run(torch.tensor([ids])).logits)
    both = glass.run(["the cat sat", "a dog ran after the mat and the cat"]).logits
    torch.testing.assert_close(both[0, -len(ids) :], alone[0], atol=1e-5, rtol=1e-5)
    assert glass.ids("")[0].tolist() == [[tokenizer.end]]


def test_generate_gives_back_what_it_was_given(tokenizer: Tokenizer) -> None:
    glass = Glass(network(), tokenizer)
    text = glass.generate("the cat", new=6)
    made = glass.generate([tokenizer.encode("the cat")], new=6)
    assert isinstance(text, str) and text.encode() == tokenizer.decode_bytes(made.new[0])[: len(text.encode())]
    assert glass.generate(["the cat", "a dog ran after the"], new=6)[0] == text
    changed = glass.generate("the cat", new=6, edits=[glass.sites.resid_post[1].zero()])
    assert changed != text


def padded(tokenizer: Tokenizer) -> Glass:
    """A model whose vocabulary has 20 rows that no token uses, and which would draw nothing else."""
    net = network(vocab=tokenizer.vocab + 20)
    with torch.no_grad():
        net.unembed_weight()[tokenizer.vocab :] *= 50
    return Glass(net, tokenizer)


def test_rows_beyond_the_tokenizer_are_never_drawn_as_text(tokenizer: Tokenizer) -> None:
    glass = padded(tokenizer)
    for how in (
        {},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_k": 3},
        {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1},
    ):
        text = glass.generate("the cat", new=12, **how)
        assert isinstance(text, str) and text
        (note,) = text.notes
        mass = float(
            re.fullmatch(r"20 token ids .* gave them (.*)% of the probability on average and .*% at most\.", note)[1]
        )
        assert 50 < mass <= 100
        assert all(len(each.notes) == 1 for each in glass.generate(["the cat", "a dog ran"], new=12, **how))
    ids = torch.tensor([tokenizer.encode("the cat"), [tokenizer.vocab + 3] * len(tokenizer.encode("the cat"))])
    out = glass.generate(ids, new=12)  # ids in and ids out stay as they are
    assert any(i >= tokenizer.vocab for row in out.new for i in row) and out.notes == ()
    assert "".join(tokenizer.spell(glass.generate(ids[:1], new=8, exclude=glass.unused).new[0])) == glass.generate(
        "the cat", new=8
    )


def test_a_model_that_fits_its_tokenizer_has_nothing_to_note(tokenizer: Tokenizer) -> None:
    assert Glass(network(vocab=tokenizer.vocab), tokenizer).generate("the cat", new=4).notes == ()


def test_the_story_model_goes_on_with_its_story(shared: Callable[[str], Path]) -> None:
    glass = cloche.load(shared("weights/stories260K/hf"))
    assert glass.name == "stories260K/hf"
    story = glass.generate("Once upon a time", new=60)
    assert story.startswith(
        ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw"
    )


def test_a_folder_without_a_tokenizer_still_takes_ids(shared: Callable[[str], Path]) -> None:
    glass = cloche.load(shared("weights/sortgpt/hf"))
    assert glass.run([[2, 1, 0, 1, 2, 0]]).logits.shape == (1, 6, 3)
    with pytest.raises(ClocheError, match=r"no tokenizer\.json, so it cannot read text"):
        glass.run("CBA")


def test_what_cannot_be_loaded_is_said(tmp_path: Path, run: Run, tokenizer: Tokenizer) -> None:
    with pytest.raises(ClocheError, match="There is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ClocheError, match="no checkpoint 7; it has those of steps 1, 2"):
        load(run, checkpoint=7)
    with pytest.raises(ClocheError, match="is one checkpoint"):
        load(run.path / "checkpoints" / "step-000001", checkpoint=2)
    with pytest.raises(ClocheError, match="has 298 tokens and its model only 100"):
        Glass(network(vocab=100), tokenizer)
    with pytest.raises(ClocheError, match="A prompt is a text"):
        Glass(network(), tokenizer).run({"text": "the cat"})


def test_writing_stops_at_a_text(tokenizer: Tokenizer) -> None:
    glass = Glass(network(), tokenizer)
    prompts = ["the cat", "a dog ran after"]
    free = glass.generate(prompts, new=30, temperature=1.0, seed=3)
    middle = len(free[0]) // 2
    end = free[0][middle : middle + 3]  # across tokens as likely as not
    cut = glass.generate(prompts, new=30, temperature=1.0, seed=3, stop=[end])
    assert cut[0] == free[0][: free[0].index(end)] and len(cut[0]) < len(free[0])
    assert cut[1] == (free[1][: free[1].index(end)] if end in free[1] else free[1])
    assert cut == glass.generate(prompts, new=30, temperature=1.0, seed=3, stop=[end, "nothing that is ever written"])
    ids, pad = glass.ids(prompts)
    made = glass.generate(ids, new=30, temperature=1.0, seed=3, stop=end, pad=pad).new[0]
    assert end.encode() in tokenizer.decode_bytes(made) and end.encode() not in tokenizer.decode_bytes(made[:-1])


def test_stops_and_saves_that_cannot_be(tokenizer: Tokenizer) -> None:
    glass = Glass(network(), tokenizer)
    for options, sentence in (
        ({"stop": [""]}, "an empty text"),
        ({"stop": 3}, "takes token ids and texts; got 3"),
        ({"stop": [0.5]}, "stop="),
        ({"stop": ["a", 3000]}, "stop token 3000 is outside"),
        ({"save": "z[0]"}, "save= is returned in a Generation"),
        ({"logprobs": True}, "logprobs= is returned in a Generation"),
    ):
        with pytest.raises(ClocheError, match=sentence):
            glass.generate("the cat", new=2, **options)
    with pytest.raises(ClocheError, match=r"no tokenizer\.json"):
        Glass(network()).generate([[1, 2]], new=2, stop=["a"])


def test_sweeps_and_streams_of_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    glass = Glass(network(), tokenizer)
    edits = [z.head(h).zero() for z in glass.sites.z for h in range(2)]
    prompts = ["the cat sat", "a dog ran after the mat and the cat"]
    swept = glass.sweep(prompts, edits, lambda logits: logits[:, -1])
    for edit, row in zip(edits, swept, strict=True):
        torch.testing.assert_close(row, glass.run(prompts, edits=edit).logits[:, -1], atol=1e-5, rtol=1e-5)
    acts = glass.store([glass.ids(text)[0] for text in prompts], "resid_post[1]", tmp_path / "acts", dtype="float32")
    truth = glass.run(prompts[0], save="resid_post[1]")["resid_post[1]"][0]
    assert torch.equal(next(acts.batches("resid_post[1]", size=len(truth))), truth)


def test_what_predicts_the_next_token_refuses_a_model_that_sees_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    glass, text = Glass(network(mask=Full()), tokenizer), tmp_path / "text.txt"
    text.write_text(TEXTS[0])
    asked = [
        lambda: glass.loss("the cat"),
        lambda: glass.next_tokens("the cat"),
        lambda: perplexity(glass, text),
        lambda: score_ids(glass.net, [([1], [2])]),
    ]
    for ask in asked:
        with pytest.raises(ClocheError, match="Full of layer 0 lets a token see later ones"):
            ask()
