"""Mixtures of experts: against transformers' loss, against all experts on all tokens, and under edits of the router."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from combinations import close, lively, random_ids

from cloche.errors import ClocheError
from cloche.model import GLU, LM, MLP, Attention, Block, Context, MoE, Network, Stack

EXPERTS, ACTIVE = 5, 2


def network(**changes: object) -> Network:
    moe = dataclasses.replace(MoE(EXPERTS, ACTIVE, GLU(hidden=7)), **changes)
    net = lively(LM(17, 12, Stack(2, Block(mix=Attention(heads=2), map=moe))))
    with torch.no_grad():
        for block in net.layers:
            block.map.router.weight.mul_(20)  # a choice that differs from token to token
    return net


IDS = random_ids(3, 11)


def losses(net: Network, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return net.hidden_and_losses(ids)[1]


@pytest.mark.parametrize("normalise", [True, False])
def test_few_experts_are_all_experts_with_the_others_at_zero(normalise: bool) -> None:
    net = network(normalise=normalise)
    result = net.run(IDS, save=["mlp_in.all", "router.all", "mlp_out.all"])
    for layer, block in enumerate(net.layers):
        x, logits = result["mlp_in.all"][layer], result["router.all"][layer]
        close(logits, x @ block.map.router.weight.T)
        wanted = torch.zeros_like(x)
        for b in range(3):
            for t in range(11):
                shares = logits[b, t].softmax(-1)
                chosen = shares.argsort(descending=True)[:ACTIVE].tolist()
                total = sum(shares[i] for i in chosen) if normalise else 1.0
                for i in chosen:
                    gate, up = (block.map.experts[i].inner.weight @ x[b, t]).chunk(2)
                    update = block.map.experts[i].outer.weight @ (torch.nn.functional.silu(gate) * up)
                    wanted[b, t] += shares[i] / total * update
        close(result["mlp_out.all"][layer], wanted)


def test_every_expert_is_sent_something() -> None:
    """The control of the tests above and below: routing is no constant."""
    chosen = network().run(IDS, save="router.all")["router.all"].topk(ACTIVE).indices
    assert {*chosen.flatten().tolist()} == set(range(EXPERTS))


def test_the_balance_loss_is_transformers_own() -> None:
    module = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    net = network()
    logits = net.run(IDS, save="router.all")["router.all"].flatten(1, 2)
    wanted = sum(module.load_balancing_loss_func((layer,), EXPERTS, ACTIVE) for layer in logits)
    assert losses(net, IDS)["balance"].item() == pytest.approx(float(wanted), rel=1e-5)
    with torch.no_grad():
        assert losses(net, IDS) == {}


def test_the_balance_loss_is_least_where_routing_is_even() -> None:
    net = network()
    with torch.no_grad():
        for block in net.layers:
            block.map.router.weight.zero_()
    even = losses(net, IDS)["balance"]
    assert even.item() == pytest.approx(2 * ACTIVE)  # two layers
    assert losses(network(), IDS)["balance"] > even
    losses(net, IDS)["balance"].backward()
    assert net.layers[0].map.router.weight.grad is not None


def test_editing_the_router_chooses_the_experts() -> None:
    net = network()
    x = net.run(IDS, save="mlp_in[0]")["mlp_in[0]"]
    forced = torch.full((EXPERTS,), -100.0)
    forced[3] = 0.0
    forced[1] = 0.0
    result = net.run(IDS, save="mlp_out[0]", edits=[net.sites.router[0].replace(forced)])
    context = Context.over(IDS)
    each = [net.layers[0].map.experts[i](x, context, 0)[0] for i in (1, 3)]
    close(result["mlp_out[0]"], sum(each) / 2)


def test_the_choice_is_made_in_fp32_under_autocast() -> None:
    net = network()
    with torch.autocast("cpu", torch.bfloat16):
        result = net.run(IDS, save=["mlp_in[0]", "router[0]"])
    assert result["router[0]"].dtype == torch.float32
    wanted = result["mlp_in[0]"].double() @ net.layers[0].map.router.weight.double().T
    close(result["router[0]"], wanted.float(), 1e-6)
    half = copy.deepcopy(net).to(torch.bfloat16)
    assert half.run(IDS, save="router[0]")["router[0]"].dtype == torch.bfloat16


def test_compiled_is_eager() -> None:
    net = network()
    for ids in (IDS, IDS.flip(0)):
        close(net.run(ids, compile="aot_eager").logits, net.run(ids).logits)


def test_gradients_reach_what_was_chosen() -> None:
    net = network()
    net(IDS).square().mean().backward()
    names = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert names == []


WRONG = {
    "more active than there are": (lambda: MoE(2, 3), "no more than all can be active"),
    "none active": (lambda: MoE(2, 0), "above zero"),
    "expert no map": (
        lambda: LM(5, 4, Stack(1, Block(Attention(2), MoE(2, 1, Attention(2))))).build(),  # type: ignore[arg-type]
        r"model\.body\.block\.map\.expert\] must be a Map",
    ),
    "sites inside an expert": (lambda: network().run(IDS, save="mlp_act[0]"), "no site 'mlp_act'"),
    "an expert that is not there": (
        lambda: network().run(IDS, edits=[network().sites.router[0].replace(torch.zeros(4))]),
        r"router\[0\]",
    ),
    "unnamed activation": (lambda: MoE(2, 1, MLP("swoosh")), "Unknown activation"),
}


@pytest.mark.parametrize("case", WRONG)
def test_misuse_is_one_sentence(case: str) -> None:
    make, sentence = WRONG[case]
    with pytest.raises(ClocheError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))
