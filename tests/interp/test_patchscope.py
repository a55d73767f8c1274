"""patchscope: a model that repeats is read completely, the last layer's answer is the prompt's own, and noise says nothing."""

from __future__ import annotations

import hand_built
import pytest
import torch

import cloche
from cloche import GLU, LM, Attention, Block, RoPE, Stack
from cloche.errors import ClocheError
from cloche.interp import patchscope


@pytest.fixture(scope="module")
def glass() -> cloche.Glass:
    return cloche.Glass(LM(64, 32, Stack(3, Block(Attention(4, position=RoPE()), GLU()))).build(seed=0))


def test_a_model_that_repeats_what_it_reads_is_read_in_every_layer() -> None:
    found = patchscope(hand_built.glass(hand_built.echo()), [1, 7, 2], position=1, target=[3, 5])
    assert found.figures["recalled"] == 1 and found.arrays["probability"].min() > 0.5
    assert found.arrays["tokens"][:, 0].tolist() == [7, 7, 7]
    assert found.null is not None and found.null["recalled"] < 1


def test_the_last_state_at_the_last_token_says_what_the_prompt_says(glass: cloche.Glass) -> None:
    found = patchscope(glass, [5, 6, 7], target=[1, 2, 3, 4], top=8)
    wanted = glass.net.run([[5, 6, 7]]).logits[0, -1].softmax(-1)
    assert found.arrays["tokens"][-1].tolist() == wanted.topk(8).indices.tolist()
    assert found.arrays["probability"][:, -1] == pytest.approx(
        [float(glass.net.unembed(glass.net.final_norm(state)).softmax(-1)[7]) for state in _states(glass, [5, 6, 7])],
        rel=1e-4,
    )


def _states(glass: cloche.Glass, ids: list[int]) -> torch.Tensor:
    return glass.net.run([ids], save="resid_post.all")["resid_post.all"][:, 0, -1]


def test_the_same_prompt_and_place_changes_nothing(glass: cloche.Glass) -> None:
    found = patchscope(glass, [5, 6, 7], position=1, target=[5, 6, 7], place=1)
    own = glass.net.run([[5, 6, 7]]).logits[0, -1].softmax(-1)
    assert found.arrays["probability"].diagonal() == pytest.approx(float(own[6]), rel=1e-4)


def test_what_cannot_be_read_is_one_sentence(glass: cloche.Glass) -> None:
    for given in ({"position": 3}, {"place": -3}, {"top": 0}):
        with pytest.raises(ClocheError, match=r"is outside the prompt of|must be between 1 and"):
            patchscope(glass, [5, 6, 7], target=[1, 2], **given)
    with pytest.raises(ClocheError, match=r"no tokenizer\.json"):
        patchscope(glass, [5, 6, 7])
