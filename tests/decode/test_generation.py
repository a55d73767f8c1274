"""Generation against the plain forward pass: greedy, under edits, in padded batches, to a stop."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from cloche.decode import Session, generate, stream
from cloche.model import (
    GLU,
    LM,
    MLP,
    Attention,
    Block,
    Causal,
    Edit,
    LayerNorm,
    Learned,
    Network,
    RMSNorm,
    RoPE,
    Stack,
    Window,
)
from cloche.model.sites.edits import Span

VOCAB, WIDTH, PROMPT, NEW = 19, 12, 5, 7
GROUPED = Block(mix=Attention(heads=4, kv_heads=2, head_size=4, position=RoPE(theta=40)), map=GLU(hidden=10))
SLIDING = Block(
    mix=Attention(heads=3, head_size=5, mask=Causal() & Window(3), qk_norm=RMSNorm()), map=MLP(hidden=10, bias=True)
)
SPECS = {
    "grouped, rotary": LM(VOCAB, WIDTH, Stack(3, GROUPED)),
    "sliding, learned": LM(VOCAB, WIDTH, Stack(3, SLIDING), norm=LayerNorm(), tied=True, position=Learned(16)),
    "in turn": LM(VOCAB, WIDTH, Stack(3, (GROUPED, SLIDING))),
}


@pytest.fixture(scope="module", params=SPECS)
def net(request) -> Network:
    built = SPECS[request.param].build(seed=1)
    with torch.no_grad():  # louder, so that the likeliest token is not always the last one again
        for _, p in built.groups()["matrix"]:
            p.mul_(2.0)
    return built


def random_ids(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> None:
    """To 1e-5 of the largest number, since a stream this loud holds numbers far from one; hidden scores are equal."""
    largest = b[b.isfinite()].abs().max().clamp(min=1).item()
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * largest)


def absolute(edits: list[Edit], prompt: int) -> list[Edit]:
    """The same edits with "last", "new" and places from the prompt's end written as places from its start."""

    def place(where: Any) -> Any:
        if where == "last":
            return prompt - 1
        if where == "new":
            return slice(prompt, None)
        if isinstance(where, Span):
            bounds = [b + prompt if b is not None and b < 0 else b for b in (where.start, where.stop)]
            return slice(*bounds, where.step)
        if isinstance(where, tuple):
            return [place(w) for w in where]
        return where + prompt if where < 0 else where

    return [edit if edit.where is None else edit.at(place(edit.where)) for edit in edits]


def uncached(net: Network, row: Tensor, edits: list[Edit], new: int) -> tuple[list[int], Tensor]:
    """One prompt continued by running the whole text again for each token: the tokens, and the logits they came from."""
    ids, chosen, prompt = row[None], [], len(row)
    for _ in range(new):
        firing = [e for e in absolute(edits, prompt) if _fires(e, ids.shape[1])]
        chosen.append(net.run(ids, edits=firing).logits[0, -1])
        ids = torch.cat([ids, chosen[-1].argmax()[None, None]], 1)
    return ids[0, prompt:].tolist(), torch.stack(chosen)


def _fires(edit: Edit, length: int) -> bool:
    where = edit.where
    if isinstance(where, Span):
        return bool(range(length)[slice(where.start, where.stop, where.step)])
    return where is None or all(w < length for w in (where if isinstance(where, tuple) else (where,)))


def cached(net: Network, ids: Tensor, edits: list[Edit], new: int, pad: Any = None, cuts: tuple = ()) -> Tensor:
    """Logits [new, batch, vocab] of a greedy session whose prompt is fed in pieces that end at `cuts`."""
    session = Session(net, ids, None if pad is None else torch.tensor(pad), new, edits)
    bounds = [0, *cuts, ids.shape[1]]
    for start, end in itertools.pairwise(bounds):
        logits = session.feed(ids[:, start:end])
    out = [logits]
    for _ in range(new - 1):
        out.append(session.feed(out[-1].argmax(-1, keepdim=True)))
    return torch.stack(out)


def test_greedy_equals_the_uncached_pass(net: Network) -> None:
    ids = random_ids(3, PROMPT)
    out = generate(net, ids, new=NEW)
    for row in range(3):
        tokens, logits = uncached(net, ids[row], [], NEW)
        assert out.new[row] == tokens and out.ids[row].tolist() == ids[row].tolist() + tokens
        close(cached(net, ids, [], NEW)[:, row], logits)
    assert len({token for row in out.new for token in row}) > 3


def test_padded_rows_equal_each_row_alone(net: Network) -> None:
    ids, pad = random_ids(3, PROMPT + 2), [0, 4, 1]
    out = generate(net, ids, new=NEW, pad=pad)
    for row, skip in enumerate(pad):
        tokens, logits = uncached(net, ids[row, skip:], [], NEW)
        assert out.new[row] == tokens
        close(cached(net, ids, [], NEW, pad)[:, row], logits)
    assert torch.equal(out.ids[:, : PROMPT + 2], ids)


@pytest.mark.parametrize("cuts", [(1,), (2, 3), (1, 2, 3, 4)])
def test_a_prompt_in_pieces(net: Network, cuts: tuple[int, ...]) -> None:
    ids, edits = random_ids(2, PROMPT), every_edit(net, spanning=True)
    close(cached(net, ids, edits, 4, cuts=cuts), cached(net, ids, edits, 4))
    close(cached(net, ids, edits, 4, pad=[2, 0], cuts=cuts), cached(net, ids, edits, 4, pad=[2, 0]))


def every_edit(net: Network, spanning: bool = False) -> list[Edit]:
    """One of each kind, at every form of position; with `spanning`, also values given for each prompt position."""
    s, generator = net.sites, torch.Generator().manual_seed(2)
    d = torch.randn(WIDTH, generator=generator)
    edits = [
        s.resid_post[0].add(d).at("new"),
        s.resid_post[1].add(-d).at("last"),
        s.z[1].head(1).zero().at(slice(1, None)),
        s.mlp_out[0].project_out(d),
        s.k[0].head(0).scale(0.5).at([0, -2]),
        s.v[2].scale(1.5).at(-1),
        s.attn_out[2].apply(torch.tanh).at(slice(0, None, 2)),
        s.pattern[2].head(0).scale(0.3).at(slice(2, None)),
        s.scores[0].head(1).scale(0.5).at("new"),
        s.resid_mid[1].replace(d).at(PROMPT + 1),
        s.logits.add(torch.linspace(0, 0.5, VOCAB)).at(slice(-1, None)),
        s.final_norm.scale(1.1).at("last"),
        s.embed.add(0.1 * d).at(slice(None, 2)),
        s.resid_pre[2].clamp(d, 1.5).at("new"),
        s.mlp_in[1].mean(d).at(slice(-1, None)),
    ]
    if spanning:
        inside = slice(0, PROMPT - 2)  # so short that in no padded row it reaches a new token
        edits += [
            s.resid_pre[1].add(torch.randn(2, PROMPT, WIDTH, generator=generator)).at(inside),
            s.pattern[1].head(0).replace(torch.rand(PROMPT, PROMPT, generator=generator).tril()).at(inside),
            s.q[0].head(0).scale(torch.randn(PROMPT, 1, generator=generator)).at(inside),
        ]
    return edits


def test_every_edit_alone_equals_the_uncached_pass(net: Network) -> None:
    ids = random_ids(1, PROMPT)
    for edit in every_edit(net):
        tokens, logits = uncached(net, ids[0], [edit], 4)
        close(cached(net, ids, [edit], 4)[:, 0], logits)
        assert generate(net, ids, new=4, edits=[edit]).new == [tokens]


def test_edits_together_in_padded_batches(net: Network) -> None:
    ids, pad = random_ids(3, PROMPT + 2), [2, 0, 1]
    edits = every_edit(net)
    logits = cached(net, ids, edits, NEW, pad)
    out = generate(net, ids, new=NEW, edits=edits, pad=pad)
    for row, skip in enumerate(pad):
        tokens, truth = uncached(net, ids[row, skip:], edits, NEW)
        close(logits[:, row], truth)
        assert out.new[row] == tokens
    assert out.new != generate(net, ids, new=NEW, pad=pad).new


def test_patching_a_prompt_while_generating(net: Network) -> None:
    """The whole stream of another prompt, put in the place of this one's, brings its continuation."""
    ids, other = random_ids(2, PROMPT, seed=1), random_ids(2, PROMPT, seed=2)
    source = net.run(other, save=["resid_pre[0]"])
    patched = generate(net, ids, new=NEW, edits=[net.sites.resid_pre[0].replace(source).at(slice(0, PROMPT))])
    assert patched.new == generate(net, other, new=NEW).new != generate(net, ids, new=NEW).new


def test_steering_the_new_tokens_only(net: Network) -> None:
    """Adding to the logits at "new" leaves the first token, made by the prompt, as it was."""
    push = torch.zeros(VOCAB)
    push[7] = 100.0
    plain = generate(net, random_ids(2, PROMPT), new=4)
    pushed = generate(net, random_ids(2, PROMPT), new=4, edits=net.sites.logits.add(push).at("new"))
    assert [row[0] for row in pushed.new] == [row[0] for row in plain.new]
    assert [row[1:] for row in pushed.new] == [[7] * 3] * 2


def test_stop_tokens_and_finished_rows(net: Network) -> None:
    ids = random_ids(4, PROMPT)
    free = generate(net, ids, new=NEW)
    stop = free.new[1][2]
    out = generate(net, ids, new=NEW, stop=[stop])
    for row in range(4):
        made = free.new[row]
        ended = made[: made.index(stop) + 1] if stop in made else made
        assert out.new[row] == ended
        kept = out.ids[row, PROMPT:].tolist()
        assert kept[: len(ended)] == ended and set(kept[len(ended) :]) <= {stop}
    assert out.ids.shape[1] == PROMPT + max(map(len, out.new))
    assert any(len(row) < NEW for row in out.new)
    alone = generate(net, ids[1:2], new=NEW, stop=[stop])
    assert alone.new == [out.new[1]] and alone.ids.shape[1] == PROMPT + len(out.new[1])
    everything = generate(net, ids, new=NEW, stop=range(VOCAB))
    assert [len(row) for row in everything.new] == [1] * 4 and everything.ids.shape == (4, PROMPT + 1)


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.8, "seed": 3}, {"temperature": 1.3, "top_k": 5, "top_p": 0.8}]
)
def test_stream_is_generate(net: Network, sampling: dict[str, Any]) -> None:
    ids = random_ids(3, PROMPT)
    streamed = torch.stack(list(stream(net, ids, new=NEW, pad=[0, 1, 2], **sampling)), 1)
    out = generate(net, ids, new=NEW, pad=[0, 1, 2], **sampling)
    assert streamed.tolist() == out.new and torch.equal(out.ids[:, PROMPT:], streamed)


def test_stream_gives_each_token_as_it_is_made(net: Network) -> None:
    calls: list[int] = []
    handle = net.body.register_forward_hook(lambda *_: calls.append(1))
    tokens = stream(net, random_ids(1, PROMPT), new=3)
    assert calls == []
    for count, token in enumerate(tokens, start=1):
        assert len(calls) == count and token.shape == (1,)
    handle.remove()
    assert len(calls) == 3


def test_generation_leaves_no_trace(net: Network) -> None:
    before = {name: p.clone() for name, p in net.named_parameters()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    generate(net, random_ids(1, PROMPT), new=3, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in net.named_parameters())


def test_one_prompt_as_a_plain_list(net: Network) -> None:
    ids = random_ids(1, PROMPT)
    assert generate(net, ids[0].tolist(), new=3).new == generate(net, ids, new=3).new
    assert generate(net, ids.numpy().astype("uint16"), new=3).new == generate(net, ids, new=3).new


def test_noise_is_the_same_cached_and_not(net: Network) -> None:
    ids, edit = random_ids(1, PROMPT), net.sites.resid_post[0].noise(1.0, seed=4)
    tokens, logits = uncached(net, ids[0], [edit], 6)
    close(cached(net, ids, [edit], 6)[:, 0], logits)
    close(cached(net, ids, [edit], 6, cuts=(2,))[:, 0], logits)
    assert generate(net, ids, new=6, edits=[edit]).new == [tokens]
    new_only = edit.at("new")
    close(cached(net, ids, [new_only], 6)[:, 0], uncached(net, ids[0], [new_only], 6)[1])


SAVED = ["resid_post.all", "z[1]", "k[2].head(0)", "pattern[0]", "scores[2].head(1)", "embed", "final_norm", "logits"]


@pytest.mark.parametrize("pad", [None, [2, 0, 1]])
def test_saved_sites_are_those_of_one_whole_pass(net: Network, pad: Any) -> None:
    """Prompt and new tokens, the last one too; under edits, in padded batches."""
    ids, edits = random_ids(3, PROMPT + 2), every_edit(net)
    lengths = [PROMPT + 2 - skip for skip in (pad or [0, 0, 0])]
    out = generate(net, ids, new=NEW, edits=edits, pad=pad, save=SAVED)
    assert out.new == generate(net, ids, new=NEW, edits=edits, pad=pad).new
    for row, length in enumerate(lengths):
        skip = PROMPT + 2 - length
        truth = net.run(out.ids[row : row + 1, skip:], save=SAVED, edits=absolute(edits, length))
        for name in SAVED:
            found, wanted = out.saved[name], truth[name]
            if name.endswith(".all"):
                close(found[:, row, skip:], wanted[:, 0])
            elif name.startswith(("pattern", "scores")):
                close(found[row, ..., skip:, skip:], wanted[0])
            else:
                close(found[row, skip:], wanted[0])


def test_saving_while_rows_end_early(net: Network) -> None:
    """A row that has ended goes on in its stop token, in its ids and in what is saved alike."""
    ids = random_ids(4, PROMPT)
    stop = generate(net, ids, new=NEW).new[1][2]
    out = generate(net, ids, new=NEW, stop=[stop], save="resid_post[2]")
    assert any(len(row) < out.ids.shape[1] - PROMPT for row in out.new)
    close(out.saved["resid_post[2]"], net.run(out.ids, save="resid_post[2]")["resid_post[2]"])


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.2, "top_k": 6, "seed": 2}])
def test_log_probabilities_are_the_models_own(net: Network, sampling: dict[str, Any]) -> None:
    ids, pad = random_ids(3, PROMPT), [0, 2, 1]
    stop = [generate(net, ids, new=NEW, pad=pad, **sampling).new[1][2]]
    out = generate(net, ids, new=NEW, pad=pad, stop=stop, logprobs=True, **sampling)
    assert out.logprobs is not None and [len(row) for row in out.logprobs] == [len(row) for row in out.new]
    whole = net.run(out.ids, pad=pad).logits.log_softmax(-1)
    for row, made in enumerate(out.new):
        truth = [whole[row, PROMPT + i - 1, token].item() for i, token in enumerate(made)]
        assert out.logprobs[row] == pytest.approx(truth, abs=1e-4)
    assert generate(net, ids, new=2).logprobs is None


def test_stopping_by_a_function_of_the_rows_own_tokens(net: Network) -> None:
    ids = random_ids(3, PROMPT)
    free = generate(net, ids, new=NEW).new
    out = generate(net, ids, new=NEW, stop=lambda made: len(made) == 4 or made[-2:] == free[0][1:3])
    assert out.new[0] == free[0][:3] and all(len(row) <= 4 for row in out.new)
