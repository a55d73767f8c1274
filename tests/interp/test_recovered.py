"""The loss recovered when a reconstruction is put back: all of it by a perfect dictionary, none by one that says the mean."""

import numpy as np
import pytest
import torch

from cloche.errors import ClocheError
from cloche.glass import Glass
from cloche.interp import loss_recovered
from cloche.model import GLU, LM, Attention, Block, RMSNorm, RoPE, Stack
from cloche.sparse import SAE, Provenance

WIDTH, SITE = 16, "resid_post[0]"
WINDOWS = [np.random.default_rng(0).integers(64, size=(4, 20))]


def subject() -> Glass:
    block = Block(mix=Attention(heads=2, position=RoPE()), map=GLU("silu", hidden=24), norm=RMSNorm())
    return Glass(LM(vocab=64, width=WIDTH, body=Stack(2, block)).build(seed=0), None, "here", "step-000001")


def signed_axes() -> SAE:
    """Every vector is a sum of at most WIDTH of plus and minus the axes, so nothing is lost."""
    sae = SAE(WIDTH, 2 * WIDTH, WIDTH, trained_on=Provenance(SITE))
    with torch.no_grad():
        sae.decoder.copy_(torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]))
        sae.encoder.copy_(sae.decoder)
    return sae


def test_a_perfect_dictionary_recovers_everything() -> None:
    got = loss_recovered(subject(), signed_axes(), WINDOWS)
    assert got.tokens == 4 * 18
    assert got.spliced == pytest.approx(got.clean, abs=1e-5) and got.kl == pytest.approx(0, abs=1e-5)
    if got.ablated > got.clean:
        assert got.share == pytest.approx(1, abs=1e-3)


def test_a_silent_dictionary_that_says_the_mean_is_mean_ablation() -> None:
    glass, sae = subject(), signed_axes()
    values = glass.net.run(WINDOWS[0], save=[SITE], logits=False)[SITE]
    with torch.no_grad():
        sae.encoder_bias.fill_(-1e6)
        sae.decoder_bias.copy_(values[:, 1:].flatten(0, 1).mean(0))
    got = loss_recovered(glass, sae, WINDOWS)
    assert got.spliced == pytest.approx(got.ablated, abs=1e-5) and got.kl > 1e-6


def test_against_the_definition() -> None:
    """The cross-entropy of the unedited model, by hand."""
    glass = subject()
    ids = torch.as_tensor(WINDOWS[0])
    log = glass.net.run(ids).logits[:, 1:-1].double().log_softmax(-1)
    expected = -log.gather(2, ids[:, 2:, None]).mean()
    assert loss_recovered(glass, signed_axes(), WINDOWS).clean == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("sae", "windows", "sentence"),
    [
        (SAE(5, 9, 1, trained_on=Provenance(SITE)), WINDOWS, "width 5"),
        (SAE(WIDTH, 32, 1), WINDOWS, "does not record the site"),
        (signed_axes(), [], "no text to predict"),
    ],
)
def test_misuse_gets_one_sentence(sae: SAE, windows, sentence: str) -> None:
    with pytest.raises(ClocheError, match=sentence):
        loss_recovered(subject(), sae, windows)
