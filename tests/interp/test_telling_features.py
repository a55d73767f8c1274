"""The features report on dictionaries whose features are known."""

import pytest
import torch
from hand_built import TOKENS, echo, glass

from cloche.errors import ClocheError
from cloche.interp import features_report
from cloche.interp.dictionaries.firings import Firings
from cloche.interp.dictionaries.telling import kurtosis, logit_effects, specificity, telling_order
from cloche.model import (
    GLU,
    LM,
    Attention,
    Block,
    LayerNorm,
    NoNorm,
    RectifiedNorm,
    RMSNorm,
    Stack,
    ZeroCenteredRMSNorm,
)
from cloche.model.norms import Norm
from cloche.sparse import SAE, Provenance


def one_feature_a_token(site: str | None = "resid_post[0]") -> SAE:
    """Feature i fires on token i, by hand: atoms are the embedding's own directions; two more features never fire."""
    sae = SAE(TOKENS, TOKENS + 2, 1, trained_on=Provenance(site, "step-000001"))
    with torch.no_grad():
        identity = torch.eye(TOKENS)
        sae.encoder.copy_(torch.cat([identity, -identity[:2]]))
        sae.decoder.copy_(torch.cat([identity, -identity[:2]]))
    return sae


def text(shares: torch.Tensor, count: int = 30, length: int = 65) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.multinomial(shares, 2 * length, True, generator=rng).reshape(2, length) for _ in range(count)]


def report_on(net=None, sae: SAE | None = None, **options):
    shares = torch.ones(TOKENS)
    shares[:4] = 0.3  # only these are rare enough to be candidates: 2.8% each
    windows = text(shares)
    finding = features_report(glass(net or echo()), sae or one_feature_a_token(), windows, name="by-hand", **options)
    return finding, torch.cat([window[:, 1:].flatten() for window in windows])


def test_each_feature_is_told_as_it_was_made() -> None:
    finding, tokens = report_on()
    data = finding.data
    assert (data["dictionary"], data["site"], data["tokens_seen"]) == ("by-hand", "resid_post[0]", len(tokens))
    assert data["fvu"] < 1e-9 and data["l0"] == 1 and data["dead_share"] == pytest.approx(2 / 14)
    assert sorted(feature["id"] for feature in data["features"]) == [0, 1, 2, 3]
    for feature in data["features"]:
        i = feature["id"]
        assert feature["density"] == pytest.approx(float((tokens == i).double().mean()))
        assert feature["max"] == pytest.approx(4, rel=1e-5)
        assert feature["quantiles"] == pytest.approx([4, 4, 4], rel=1e-5)
        assert feature["top_logits"][0][0] == str(i) and feature["top_logits"][0][1] > 1
        assert feature["examples"] and {example["quantile"] for example in feature["examples"]} >= {1.0}
        for example in feature["examples"]:
            lit = [act > 0 for act in example["acts"]]
            assert any(lit) and lit[1:] == [token == str(i) for token in example["tokens"]][1:]
    assert torch.allclose(
        torch.from_numpy(finding.arrays["density"])[:TOKENS], tokens.bincount(minlength=TOKENS) / len(tokens)
    )
    assert finding.arrays["maximum"][TOKENS:].tolist() == [0, 0]


def test_logits_are_those_the_unembedding_gives() -> None:
    net = echo()
    with torch.no_grad():
        net.unembed_weight().copy_(torch.eye(TOKENS).roll(1, 0))  # token i + 1 is read where token i was written
    finding, _ = report_on(net)
    for feature in finding.data["features"]:
        assert feature["top_logits"][0][0] == str((feature["id"] + 1) % TOKENS)
    directions = torch.randn(5, TOKENS, generator=torch.Generator().manual_seed(0))
    stream = 4 * torch.eye(TOKENS)
    small = 1e-3 * directions
    with torch.no_grad():
        scale = stream.square().mean(-1).rsqrt()[:, None]  # frozen, as the effect's definition has it
        change = net.unembed((stream[:1] + small) * scale[:1]) - net.unembed(stream[:1] * scale[:1])
    effects = logit_effects(net, small, stream)
    torch.testing.assert_close(effects, change - change.mean(1, keepdim=True), atol=1e-6, rtol=1e-4)


def test_neighbours_are_the_nearest_atoms() -> None:
    sae = one_feature_a_token()
    with torch.no_grad():
        sae.decoder[12] = torch.nn.functional.normalize(sae.decoder[2] + 0.5 * sae.decoder[11], dim=0)
    finding, _ = report_on(sae=sae)
    two = next(feature for feature in finding.data["features"] if feature["id"] == 2)
    assert two["neighbours"][0] == (12, pytest.approx(0.894, abs=1e-3))


def planted_firings(seed: int = 0) -> Firings:
    """Features 0 to 9 fire on one token each, 10 to 19 on tokens at random, all equally often and strongly."""
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(100, (40_000,), generator=rng)
    where = [(tokens == i).nonzero().squeeze(1)[:200] for i in range(10)]
    where += [torch.randperm(40_000, generator=rng)[:200].sort().values for _ in range(10)]
    values = torch.rand(20 * 200, generator=rng) + 0.5
    return Firings(tokens, torch.zeros_like(tokens), torch.cat(where), values, torch.arange(0, 4_001, 200), 20)


def test_specificity_finds_what_a_feature_is_about_and_nothing_in_chance() -> None:
    scores = specificity(planted_firings(), vocab=100)
    assert scores[:10].min() > 4  # ln 100 = 4.6 nats
    assert scores[10:].max() < 0.5


def test_the_telling_come_first_and_twins_count_once() -> None:
    firings = planted_firings()
    rng = torch.Generator().manual_seed(1)
    effects = torch.randn(20, 100, generator=rng)
    effects[torch.arange(10), torch.arange(10)] = 20  # the first ten also speak for one token each
    atoms = torch.nn.functional.normalize(torch.randn(20, 64, generator=rng), dim=1)
    assert set(telling_order(firings, effects, atoms, count=10)) == set(range(10))
    atoms[1:5] = atoms[0]
    order = telling_order(firings, effects, atoms, count=20)
    assert len(order) == 16 and len(set(order) & set(range(5))) == 1


def test_kurtosis_is_three_for_noise_and_large_for_a_spike() -> None:
    noise = torch.randn(4, 50_000, generator=torch.Generator().manual_seed(0))
    assert kurtosis(noise).tolist() == pytest.approx([3] * 4, abs=0.15)
    assert float(kurtosis(torch.eye(1_000)[:1])) > 900


@pytest.mark.parametrize(
    ("sae", "windows", "sentence"),
    [
        (one_feature_a_token(None), text(torch.ones(TOKENS)), "does not record the site"),
        (one_feature_a_token("resid_post[7]"), text(torch.ones(TOKENS)), r"resid_post\[7\]"),
        (SAE(5, 9, 1, trained_on=Provenance("resid_post[0]")), text(torch.ones(TOKENS)), "width 5"),
        (one_feature_a_token(), [], "no text"),
        (one_feature_a_token(), [torch.zeros(3, 1, dtype=torch.int64)], "no text to read"),
    ],
)
def test_misuse_gets_one_sentence(sae: SAE, windows, sentence: str) -> None:
    with pytest.raises(ClocheError, match=sentence):
        features_report(glass(echo()), sae, windows)


def test_a_dictionary_of_another_checkpoint_says_so() -> None:
    sae = one_feature_a_token()
    sae.trained_on = Provenance("resid_post[0]", "step-000777")
    assert "of step-000777" in report_on(sae=sae)[0].summary
    assert "step-000777" not in report_on()[0].summary


@pytest.mark.parametrize("norm", [RMSNorm(1e-9), ZeroCenteredRMSNorm(1e-9), LayerNorm(1e-9), NoNorm()])
def test_effects_are_what_a_small_step_does(norm: Norm) -> None:
    """A direction at right angles to the stream leaves the norm's scale as it is: the derivative is then the direct path."""
    block = Block(Attention(heads=2), GLU(hidden=8))
    net = LM(11, 8, Stack(1, block), norm=norm).build(0).double()
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.final_norm.parameters():
            parameter.add_(torch.randn(8, generator=rng, dtype=torch.float64))
    stream, direction = torch.randn(2, 8, generator=rng, dtype=torch.float64)
    stream, direction = stream - stream.mean(), direction - direction.mean()
    direction = direction - (direction @ stream) / (stream @ stream) * stream
    slopes = torch.autograd.functional.jacobian(lambda x: net.unembed(net.final_norm(x[None]))[0], stream) @ direction
    effects = logit_effects(net, direction[None], stream[None])[0]
    torch.testing.assert_close(effects, (slopes - slopes.mean()).detach(), rtol=1e-5, atol=1e-6)


def test_a_final_norm_that_rectifies_has_no_direct_effect() -> None:
    net = LM(11, 8, Stack(1, Block(Attention(heads=2), GLU(hidden=8))), norm=RectifiedNorm()).build(0)
    with pytest.raises(ClocheError, match="final norm is a RectifiedNorm"):
        logit_effects(net, torch.ones(1, 8), torch.ones(1, 8))
