"""Edits against the same change made by hand in a second implementation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import reference
import torch
from combinations import NUMBERS, VOCAB, close, combination, lively, random_ids
from torch import Tensor

from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, Edit, Network, RMSNorm, RoPE, Site, Stack
from cloche.model.sites.vocabulary import AXES

T = 6
IDS = random_ids(2, T)


@pytest.fixture(scope="module")
def net() -> Network:
    attention = Attention(heads=4, kv_heads=2, head_size=4, position=RoPE(theta=30))
    return lively(LM(VOCAB, 10, Stack(2, Block(mix=attention, map=GLU(hidden=9), norm=RMSNorm(1e-4)))))


def vector(size: int, seed: int = 3) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def _project(x: Tensor, d: Tensor) -> Tensor:
    return x - torch.einsum("...d,d,e->...e", x, d, d) / d.dot(d)


# kind -> (edit of a site given a vector over its last axis, the same by hand)
KINDS: dict[str, tuple[Callable[[Site, Tensor], Edit], Callable[[Tensor, Tensor], Tensor]]] = {
    "add": (lambda s, d: s.add(d), lambda x, d: x + d),
    "scale": (lambda s, d: s.scale(-0.5), lambda x, d: -0.5 * x),
    "scale by a tensor": (lambda s, d: s.scale(d), lambda x, d: x * d),
    "replace": (lambda s, d: s.replace(d), lambda x, d: 0 * x.nan_to_num(neginf=0) + d),
    "zero": (lambda s, d: s.zero(), lambda x, d: torch.zeros_like(x)),
    "project out": (lambda s, d: s.project_out(d), _project),
    "apply": (lambda s, d: s.apply(torch.tanh), lambda x, d: x.tanh()),
    "apply in place": (lambda s, d: s.apply(lambda x: x.mul_(2)), lambda x, d: 2 * x),
}
NAMES = [name for name in AXES if name not in ("scores", "router", "head_out")]
LEFT = ("zero", "project out")  # which leave nothing of a scale to divide by


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_edit_at_every_site(net: Network, name: str, kind: str) -> None:
    if name.endswith("_scale") and kind in LEFT:
        pytest.skip("nothing is divided by zero")
    layer = None if name in ("embed", "final_scale", "final_norm", "logits") else 1
    chosen = Site(name, layer)
    make, by_hand = KINDS[kind]
    before = net.run(IDS, save=[chosen])[chosen]
    d = vector(before.shape[-1])
    truth = reference.forward(net, IDS, {(name, layer): lambda x: by_hand(x, d)})
    result = net.run(IDS, save=[chosen, net.sites.resid_post[0]], edits=[make(chosen, d)])
    close(result[chosen], truth[name, layer])
    close(result.logits, truth["logits", None])
    assert not torch.allclose(result[chosen], before, atol=1e-3)
    close(result["resid_post[0]"], truth["resid_post", 0])


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "apply in place"])
@pytest.mark.parametrize("name", ["q", "k", "v", "z", "pattern"])
def test_every_edit_of_one_head(net: Network, name: str, kind: str) -> None:
    make, by_hand = KINDS[kind]
    chosen, axis = getattr(net.sites, name)[0].head(1), AXES[name].index("head")
    d = vector(net.run(IDS, save=[chosen])[chosen].shape[-1])

    def change(x: Tensor) -> Tensor:
        out = x.clone()
        out.select(axis, 1).copy_(by_hand(x.select(axis, 1), d))
        return out

    truth = reference.forward(net, IDS, {(name, 0): change})
    result = net.run(IDS, save=[chosen], edits=[make(chosen, d)])
    close(result[chosen.whole], truth[name, 0])
    close(result.logits, truth["logits", None])


@pytest.mark.parametrize("kind", ["add", "zero", "scale", "apply"])
def test_edited_scores_stay_causal(net: Network, kind: str) -> None:
    """What the mask hides stays hidden, whatever is done to the scores."""
    make, by_hand = KINDS[kind]
    future = torch.arange(T)[:, None] < torch.arange(T)[None]
    change = {("scores", 1): lambda x: by_hand(x, vector(T)).masked_fill(future, -torch.inf)}
    truth = reference.forward(net, IDS, change)
    result = net.run(IDS, save="pattern[1]", edits=[make(net.sites.scores[1], vector(T))])
    close(result["pattern[1]"], truth["pattern", 1])
    close(result.logits, truth["logits", None])


POSITIONS: dict[str, tuple[object, list[int]]] = {
    "first": (0, [0]),
    "an index": (3, [3]),
    "negative": (-2, [4]),
    "last": ("last", [5]),
    "slice": (slice(1, 4), [1, 2, 3]),
    "open slice": (slice(4, None), [4, 5]),
    "slice from the end": (slice(-3, -1), [3, 4]),
    "slice to the end": (slice(None, -4), [0, 1]),
    "stepped slice": (slice(1, None, 2), [1, 3, 5]),
    "slice past the end": (slice(4, 100), [4, 5]),
    "everything": (slice(None), [0, 1, 2, 3, 4, 5]),
    "list": ([0, 2, -1], [0, 2, 5]),
    "tuple": ((1, 1), [1]),
}


@pytest.mark.parametrize("form", POSITIONS)
@pytest.mark.parametrize("name", ["resid_post", "z", "pattern", "mlp_act"])
def test_positions(net: Network, name: str, form: str) -> None:
    where, chosen = POSITIONS[form]
    site = getattr(net.sites, name)[0]
    d = vector(net.run(IDS, save=[site])[site].shape[-1])
    axis = AXES[name].index("query" if name == "pattern" else "position")

    def change(x: Tensor) -> Tensor:
        return x.index_copy(axis, torch.tensor(chosen), (x + d).index_select(axis, torch.tensor(chosen)))

    truth = reference.forward(net, IDS, {(name, 0): change})
    result = net.run(IDS, edits=[site.add(d).at(where)])  # type: ignore[arg-type]
    close(result.logits, truth["logits", None])


@pytest.mark.parametrize("form", POSITIONS)
@pytest.mark.parametrize("number", [NUMBERS[1], NUMBERS[4]])
def test_positions_under_left_padding(number: int, form: str) -> None:
    """Positions are counted from each row's own first token."""
    where, _ = POSITIONS[form]
    net, pad = lively(combination(number)), [2, 0, 1]
    ids = random_ids(3, T + 2)
    edits = [
        net.sites.resid_post[0].add(vector(net.spec.width)).at(where),  # type: ignore[arg-type]
        net.sites.z[1].head(1).scale(-1.0).at(where),  # type: ignore[arg-type]
        net.sites.pattern[2].head(0).scale(0.5).at(where),  # type: ignore[arg-type]
    ]
    result = net.run(ids, edits=edits, pad=pad)
    assert not result.logits.isnan().any()
    for row, skip in enumerate(pad):
        close(result.logits[row, skip:], net.run(ids[row : row + 1, skip:], edits=edits).logits[0])


def test_zeroing_a_head_is_zeroing_its_output_weights(net: Network) -> None:
    edited = net.run(IDS, edits=[net.sites.z[1].head(2).zero()]).logits
    weight = net.layers[1].mix.out.weight
    with torch.no_grad():
        kept = weight.clone()
        weight[:, 8:12] = 0
        ablated = net(IDS)
        weight.copy_(kept)
    close(edited, ablated)


def test_adding_is_a_forward_hook_that_adds(net: Network) -> None:
    d = vector(10)
    handle = net.layers[0].register_forward_hook(lambda module, inputs, output: (output[0] + 4 * d, output[1]))
    hooked = net(IDS)
    handle.remove()
    close(net.run(IDS, edits=[net.sites.resid_post[0].add(4 * d)]).logits, hooked)


@pytest.mark.parametrize("number", NUMBERS[::4])
def test_patching_the_whole_stream_brings_the_sources_logits(number: int) -> None:
    net = lively(combination(number))
    clean, corrupt = random_ids(2, 7, seed=1), random_ids(2, 7, seed=2)
    source = net.run(clean, save=[net.sites.resid_post.all, net.sites.z.all])
    for layer in range(3):
        patched = net.run(corrupt, edits=[net.sites.resid_post[layer].replace(source)])
        close(patched.logits, source.logits)
    assert not torch.allclose(net(corrupt), source.logits, atol=1e-2)
    one = net.run(corrupt, save="z[1]", edits=[net.sites.z[1].head(0).replace(source)])
    assert torch.equal(one["z[1].head(0)"], source["z[1].head(0)"])
    last = net.run(corrupt, save="resid_post[1]", edits=[net.sites.resid_post[1].replace(source).at("last")])
    close(last.logits[:, -1:], net.run(corrupt, edits=[net.sites.resid_post[1].replace(source).at(6)]).logits[:, -1:])
    assert torch.equal(last["resid_post[1]"][:, -1], source["resid_post[1]"][:, -1])


def test_patching_between_padded_runs() -> None:
    net, pad = lively(combination(2)), [0, 3]
    clean, corrupt = random_ids(2, 7, seed=1), random_ids(2, 7, seed=2)
    source = net.run(clean, save=[net.sites.resid_post.all], pad=pad)
    patched = net.run(corrupt, edits=[net.sites.resid_post[1].replace(source)], pad=pad)
    for row, skip in enumerate(pad):
        close(patched.logits[row, skip:], source.logits[row, skip:])


def test_one_source_row_for_many(net: Network) -> None:
    source = net.run(IDS[:1], save="resid_post[0]")
    patched = net.run(random_ids(3, T, seed=4), edits=[net.sites.resid_post[0].replace(source)])
    close(patched.logits, source.logits.expand(3, -1, -1))


def test_edits_are_applied_in_order(net: Network) -> None:
    site, d = net.sites.resid_mid[0], vector(10)
    saved = net.run(IDS, save=[site])[site]
    twice = net.run(IDS, save=[site], edits=[site.add(d), site.scale(2.0)])
    other = net.run(IDS, save=[site], edits=[site.scale(2.0), site.add(d)])
    close(twice[site], 2 * (saved + d))
    close(other[site], 2 * saved + d)
    close(net.run(IDS, edits=site.add(d)).logits, net.run(IDS, edits=[site.add(d)]).logits)


def test_an_edit_that_works_in_place_touches_only_its_place(net: Network) -> None:
    sites = net.sites
    plain = net.run(IDS, save=["resid_post[0]"])["resid_post[0]"]
    edit = sites.resid_pre[1].apply(lambda x: x.zero_()).at("last")
    result = net.run(IDS, save=[sites.resid_post[0], sites.resid_pre[1]], edits=[edit])
    assert torch.equal(result["resid_post[0]"], plain)
    assert torch.equal(result["resid_pre[1]"][:, :-1], plain[:, :-1]) and (result["resid_pre[1]"][:, -1] == 0).all()


def test_gradients_flow_to_a_steering_vector(net: Network) -> None:
    d = torch.zeros(10, requires_grad=True)
    edits = [net.sites.resid_post[0].add(d).at("last")]
    result = net.run(IDS, save="resid_post[1]", edits=edits, grad=True)
    result.logits[:, -1, 3].sum().backward()
    assert d.grad is not None
    for i in range(0, 10, 3):
        step = torch.zeros(10)
        step[i] = 1e-2
        up, down = (
            net.run(IDS, edits=[net.sites.resid_post[0].add(sign * step).at("last")]).logits[:, -1, 3].sum()
            for sign in (1, -1)
        )
        assert d.grad[i].item() == pytest.approx(((up - down) / 2e-2).item(), abs=2e-3, rel=1e-2)
    assert result["resid_post[1]"].requires_grad
    with pytest.raises(
        ClocheError, match=r"requires a gradient, and this pass keeps none; use run\(\.\.\., grad=True\)"
    ):
        net.run(IDS, edits=edits)
    with pytest.raises(ClocheError, match="requires a gradient"):
        net.sweep(IDS, edits, read=lambda logits: logits[:, -1])
    with torch.no_grad():  # where it is said that none is wanted
        assert not net.run(IDS, edits=edits).logits.requires_grad
    net.zero_grad()


def test_a_plan_holds_no_tensor(net: Network) -> None:
    one = net.run(IDS, save="z[0]", edits=[net.sites.resid_post[0].add(vector(10))]).plan
    two = net.run(IDS, save="z[0]", edits=[net.sites.resid_post[0].add(2 * vector(10, seed=9))]).plan
    other = net.run(IDS, save="z[0]", edits=[net.sites.resid_post[0].add(vector(10)).at("last")]).plan
    assert one == two and hash(one) == hash(two) and one.hash == two.hash
    assert one != other and one.hash != other.hash
    assert str(other) == "save z[0]; add resid_post[0] at last"
