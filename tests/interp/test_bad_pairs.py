"""What no instrument on pairs of prompts can read: one sentence from each of them, whatever is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import cloche
from cloche import GLU, LM, Attention, Block, RoPE, Stack
from cloche.errors import ClocheError
from cloche.interp import (
    ablation,
    activation_patching,
    attribution_patching,
    direct_attribution,
    logit_attribution,
    path_patching,
    relevance_patching,
    token_attribution,
)
from cloche.tasks import PromptPair

PAIRED = (ablation, activation_patching, attribution_patching, direct_attribution, path_patching, relevance_patching)
SCALED = (activation_patching, attribution_patching, path_patching, relevance_patching, token_attribution)
GIVEN: dict[Any, dict[str, Any]] = {path_patching: {"receiver": "logits"}}


@pytest.fixture(scope="module")
def glass() -> cloche.Glass:
    net = LM(259, 32, Stack(2, Block(Attention(4, position=RoPE()), GLU()))).build(seed=1)
    return cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))


@pytest.fixture(scope="module")
def constant(glass: cloche.Glass) -> cloche.Glass:
    """A model that says the same after every prompt."""
    net = glass.net.spec.build(seed=1)
    with torch.no_grad():
        net.unembed.weight.zero_()
    return cloche.Glass(net, glass.tokenizer)


def one_sentence(sentence: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ClocheError, match=sentence) as error:
        call()
    assert str(error.value).count(". ") == 0 and str(error.value).endswith(".")


@pytest.mark.parametrize("instrument", [*PAIRED, token_attribution])
def test_prompts_that_do_not_line_up_are_refused(instrument: Any, glass: cloche.Glass) -> None:
    given = GIVEN.get(instrument, {})
    for pair, sentence in {
        PromptPair("a", "bb", "x", "y"): "the prompts have different numbers of tokens",
        PromptPair("a", "b", "x", "yz"): "the answers have different numbers of tokens",
    }.items():
        one_sentence(sentence, lambda pair=pair: instrument(glass, pair, **given))
    one_sentence("no tokenizer.json", lambda: instrument(cloche.Glass(glass.net), pair, **given))


@pytest.mark.parametrize("instrument", PAIRED)
def test_answers_of_several_tokens_are_read_at_the_first_that_differs(instrument: Any, glass: cloche.Glass) -> None:
    given = GIVEN.get(instrument, {})
    several = instrument(glass, PromptPair("ab", "cb", "xyz", "xyw"), **given)
    alone = instrument(glass, PromptPair("abxy", "cbxy", "z", "w"), **given)
    assert several.figures == alone.figures


@pytest.mark.parametrize("instrument", SCALED)
def test_a_metric_that_is_the_same_on_both_prompts_is_refused(instrument: Any, constant: cloche.Glass) -> None:
    pair, given = PromptPair("ab", "cb", "x", "y"), GIVEN.get(instrument, {})
    one_sentence("alike, so no effect can be scaled", lambda: instrument(constant, pair, **given))


def test_a_token_of_several_is_refused(glass: cloche.Glass) -> None:
    one_sentence("must be one token, and it is 2", lambda: logit_attribution(glass, "a", token="xy"))
