"""Where a dictionary reads and writes: routes as text, rows through one model and several, reconstructions put back."""

import numpy as np
import pytest
import torch

from cloche.errors import ClocheError
from cloche.glass import Glass
from cloche.interp import Place, Route, activations, features_report, harvest, loss_recovered
from cloche.model import GLU, LM, Attention, Block, Network, RMSNorm, RoPE, Stack
from cloche.sparse import SAE, Provenance, Training, Wiring, train_sae

WIDTH, VOCAB = 16, 64
IDS = torch.as_tensor(np.random.default_rng(0).integers(VOCAB, size=(4, 20)))
ACROSS = "resid_post[1] + other/resid_post[1]"


def network(seed: int = 0) -> Network:
    block = Block(mix=Attention(heads=2, position=RoPE()), map=GLU("silu", hidden=24), norm=RMSNorm())
    return LM(vocab=VOCAB, width=WIDTH, body=Stack(2, block)).build(seed=seed)


def subject() -> Glass:
    return Glass(network(), None, "here", "step-000001")


@pytest.mark.parametrize(
    ("text", "reads", "writes"),
    [
        ("resid_post[2]", ("resid_post[2]",), None),
        ("mlp_in[2]->mlp_out[2]", ("mlp_in[2]",), ("mlp_out[2]",)),
        (" resid_post[0] +  resid_post[1] ", ("resid_post[0]", "resid_post[1]"), None),
        ("z[1].head(0) -> a/b/embed + logits", ("z[1].head(0)",), ("a/b/embed", "logits")),
    ],
)
def test_a_route_is_a_line_of_text(text: str, reads: tuple[str, ...], writes: tuple[str, ...] | None) -> None:
    route = Route.parse(text)
    assert tuple(map(str, route.reads)) == reads
    assert (route.writes and tuple(map(str, route.writes))) == writes
    assert Route.parse(str(route)) == route


def test_a_model_is_named_before_the_last_stroke() -> None:
    assert Route.parse("a/b/embed").reads == (Place("embed", "a/b"),)


def test_rows_stand_side_by_side_as_each_model_says_them() -> None:
    net, other = network(), network(seed=5)
    route = "mlp_in[1] + other/mlp_act[0] -> z[1].head(1) + other/resid_post[1]"
    ((ids, rows),) = activations(net, [IDS], route, {"other": other})
    mine = net.run(IDS, save=["mlp_in[1]", "z[1].head(1)"])
    theirs = other.run(IDS, save=["mlp_act[0]", "resid_post[1]"])
    expected = [mine["mlp_in[1]"], theirs["mlp_act[0]"], mine["z[1].head(1)"], theirs["resid_post[1]"]]
    assert torch.equal(rows, torch.cat(expected, -1)) and torch.equal(ids, IDS)
    reader = Route.parse(route).through(net, {"other": other})
    assert reader.wiring() == Wiring((16, 24), (8, 16))
    assert [str(site) for _, site in reader.written()] == ["z[1].head(1)"]
    stream = torch.cat(list(harvest(net, [IDS], route, others={"other": other})))
    assert stream.shape == (4 * 19, 64) and torch.equal(
        stream.sum(1).sort().values, rows[:, 1:].flatten(0, 1).sum(1).sort().values
    )


@pytest.mark.parametrize("route", ["resid_post[0]", "mlp_out[1]", "z[1]", "z[1].head(1)", "resid_post[0] + mlp_out[1]"])
def test_what_was_read_can_be_put_back_and_nothing_changes(route: str) -> None:
    net = network()
    reader = Route.parse(route).through(net)
    edits = reader.put(reader.rows(IDS)[:, 1:].flatten(0, 1))
    torch.testing.assert_close(net.run(IDS, edits=edits).logits, net.run(IDS).logits, atol=1e-5, rtol=1e-5)
    nothing = reader.put(torch.zeros(4 * 19, sum(reader.wiring().reads)))
    changed = net.run(IDS, edits=nothing).logits
    assert (changed - net.run(IDS).logits)[:, 1:].abs().amax() > 1e-3
    assert torch.equal(changed[:, 0], net.run(IDS).logits[:, 0])  # the first position is left as it is


def test_a_transcoder_stands_in_for_its_layer() -> None:
    """A skip that has learned a linear MLP is that MLP; one that writes the mean is its ablation."""
    glass = subject()
    with torch.no_grad():  # silu(30) = 30, so gate * up is linear in up; a unit of up reads one coordinate
        mlp = glass.net.layers[1].map
        rows = next(activations(glass.net, [IDS], "mlp_in[1] -> mlp_out[1]"))[1][:, 1:].flatten(0, 1)
        solved = torch.linalg.lstsq(torch.cat([rows[:, :WIDTH], torch.ones(len(rows), 1)], 1), rows[:, WIDTH:]).solution
    sae = SAE(Wiring((WIDTH,), (WIDTH,), skip=True), 32, 1, trained_on=Provenance("mlp_in[1] -> mlp_out[1]"))
    with torch.no_grad():
        sae.encoder_bias.fill_(-1e6)  # no feature speaks
        sae.skip.copy_(solved[:-1].T)
        sae.decoder_bias.copy_(solved[-1])
    linear = loss_recovered(glass, sae, [IDS])
    by_hand = glass.net.run(
        IDS, edits=[glass.net.sites.mlp_out[1].replace(rows_put(glass.net, sae(rows[:, :WIDTH]).detach()))]
    ).logits
    log = by_hand[:, 1:-1].double().log_softmax(-1)
    assert linear.spliced == pytest.approx(float(-log.gather(2, IDS[:, 2:, None]).mean()), abs=1e-5)
    assert linear.kl < 0.5 * silent(glass).kl and mlp is not None


def rows_put(net: Network, made: torch.Tensor) -> torch.Tensor:
    value = net.run(IDS, save=["mlp_out[1]"])["mlp_out[1]"].clone()
    value[:, 1:] = made.view(4, 19, WIDTH)
    return value


def silent(glass: Glass):
    sae = SAE(Wiring((WIDTH,), (WIDTH,)), 32, 1, trained_on=Provenance("mlp_in[1] -> mlp_out[1]"))
    with torch.no_grad():
        sae.encoder_bias.fill_(-1e6)
    return loss_recovered(glass, sae, [IDS])


def test_a_crosscoder_of_two_models_tells_whose_a_feature_is() -> None:
    glass, other = subject(), {"other": network(seed=5)}
    rows = torch.cat(list(harvest(glass.net, [IDS], ACROSS, others=other)))
    sae, _ = train_sae(rows, 24, 3, Training(steps=50, batch=64, lr=1e-2), wiring=Wiring((WIDTH, WIDTH)))
    sae.trained_on = Provenance(ACROSS, "step-000001")
    assert loss_recovered(glass, sae, [IDS], other).tokens == 4 * 18
    many = torch.as_tensor(np.random.default_rng(1).integers(VOCAB, size=(16, 64)))
    finding = features_report(glass, sae, [many], "both", others=other)
    assert finding.data["places"] == ["resid_post[1]", "other/resid_post[1]"]
    for feature in finding.data["features"]:
        assert len(feature["shares"]) == 2 and sum(feature["shares"]) == pytest.approx(1)
        first, second = (block[feature["id"]].square().sum() for block in sae.blocks(sae.decoder.detach()))
        assert feature["shares"][0] == pytest.approx(float(first / (first + second)), abs=1e-5)


def test_features_of_no_place_in_the_stream_have_no_effect_on_logits() -> None:
    glass, ids = subject(), torch.as_tensor(np.random.default_rng(1).integers(VOCAB, size=(16, 64)))
    for site, speaks in (("mlp_act[1]", False), ("mlp_in[1]", False), ("mlp_out[1]", True)):
        rows = torch.cat(list(harvest(glass.net, [ids], site)))
        sae, _ = train_sae(rows, 48, 3, Training(steps=30, batch=256, lr=1e-2), trained_on=Provenance(site))
        finding = features_report(glass, sae, [ids])
        assert finding.data["features"] and all(bool(f["top_logits"]) == speaks for f in finding.data["features"])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Route.parse(""), "is not a route"),
        (lambda: Route.parse("embed -> "), "is not a route"),
        (lambda: Route.parse("embed -> logits -> embed"), "is not a route"),
        (lambda: Route.parse("later/embed").through(network()), "not given .given: none"),
        (lambda: Route.parse("pattern[0]").through(network()), "one vector per position"),
        (
            lambda: Route.parse("o/embed").through(network(), {"o": network()}).written(),
            "writes nothing into this model",
        ),
    ],
)
def test_misuse_gets_one_sentence(make, sentence: str) -> None:
    with pytest.raises(ClocheError, match=sentence):
        make()


def test_from_memory_from_shards_and_from_the_model_one_dictionary_is_learned(tmp_path) -> None:
    net, windows = network(), [IDS[:2], IDS[2:], IDS.flip(0)]
    training = Training(steps=20, batch=8, lr=1e-2)
    route = Route.parse("mlp_in[1] -> mlp_out[1]")
    shards = net.store(
        windows, save=["mlp_in[1]", "mlp_out[1]"], to=tmp_path / "acts", dtype="float32", shard_bytes=4_096
    )
    sources = {
        "memory": torch.cat([rows.flatten(0, 1) for _, rows in activations(net, windows, route)]).split(8),
        "shards": (torch.cat(pair, 1) for pair in shards.batches(["mlp_in[1]", "mlp_out[1]"], size=8)),
        "model": (rows.flatten(0, 1) for _, rows in activations(net, windows, route)),
    }
    wiring = route.through(net).wiring()
    learned = {name: train_sae(rows, 24, 3, training, wiring=wiring)[0].state_dict() for name, rows in sources.items()}
    for name in ("shards", "model"):
        for part, tensor in learned["memory"].items():
            assert torch.equal(tensor, learned[name][part]), f"{name} {part}"
