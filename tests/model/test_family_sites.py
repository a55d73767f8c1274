"""Every site of every family beside the place in transformers' own modules that it names, caught by their forward hooks."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from combinations import close, random_ids
from family_table import FAMILIES, theirs
from torch import Tensor

from cloche.model import Network, load_network

pytest.importorskip("transformers")
LENGTH = 14
NO_TENSOR = ("scores", "pattern", "attn_scale", "mlp_scale", "head_out")  # that one of their modules is given or gives

# Site -> where: "<" what a module is given, ">" what it gives; relative to the layer. A plain name is of the whole model.
LLAMA = {
    "resid_pre": "<",
    "resid_post": ">",
    "attn_in": ">input_layernorm",
    "v": ">self_attn.v_proj",
    "z": "<self_attn.o_proj",
    "attn_out": ">self_attn",
    "resid_mid": "<post_attention_layernorm",
    "mlp_in": ">post_attention_layernorm",
    "mlp_pre": ">mlp.gate_proj",
    "mlp_act": "<mlp.down_proj",
    "mlp_out": ">mlp",
}
AFTER = {"attn_out": ">post_attention_layernorm", "mlp_out": ">post_feedforward_layernorm"}
GEMMA = {"resid_mid": "<pre_feedforward_layernorm", "mlp_in": ">pre_feedforward_layernorm", **AFTER}
PLACES: dict[str, dict[str, str]] = {
    "GPT2": {
        "resid_pre": "<",
        "resid_post": ">",
        "attn_in": ">ln_1",
        "v": ">attn.c_attn",
        "z": "<attn.c_proj",
        "attn_out": ">attn",
        "resid_mid": "<ln_2",
        "mlp_in": ">ln_2",
        "mlp_pre": ">mlp.c_fc",
        "mlp_act": "<mlp.c_proj",
        "mlp_out": ">mlp",
    },
    "GPTNeoX": {
        "resid_pre": "<",
        "resid_post": ">",
        "attn_in": ">input_layernorm",
        "v": ">attention.query_key_value",
        "z": "<attention.dense",
        "attn_out": ">attention",
        "resid_mid": "<post_attention_layernorm",
        "mlp_in": ">post_attention_layernorm",
        "mlp_pre": ">mlp.dense_h_to_4h",
        "mlp_act": "<mlp.dense_4h_to_h",
        "mlp_out": ">mlp",
    },
    "Phi3": LLAMA | {"v": ">self_attn.qkv_proj", "mlp_pre": ">mlp.gate_up_proj"},
    "Olmo2": LLAMA | {"attn_in": "<", "resid_mid": "<mlp", "mlp_in": "<mlp", **AFTER},
    "Gemma2": LLAMA | GEMMA,
    "Gemma3Text": LLAMA | GEMMA,
    "Mixtral": LLAMA | {"router": ">mlp.gate"},
    "Qwen3Moe": LLAMA | {"router": ">mlp.gate"},
    "GptOss": LLAMA | {"router": ">mlp.router"},
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory) -> tuple[str, Any, Network]:
    folder = tmp_path_factory.mktemp("theirs")
    model = theirs(request.param)
    model.save_pretrained(folder)
    return FAMILIES[request.param][0], model, load_network(folder)


def caught(family: str, model: Any, ids: Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], Tensor]:
    """What passed each place in one pass of theirs, q and k after their rotation."""
    found: dict[tuple[str, int], Tensor] = {}
    base = model.base_model
    layers = base.h if family == "GPT2" else base.layers

    def first(value: Any) -> Tensor:
        return value if isinstance(value, Tensor) else first(value[0])

    def keep(key: tuple[str, int], given: bool) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, out: Any) -> None:
            found[key] = first(args or kwargs["hidden_states"]) if given else first(out)

        return hook

    handles = []
    for i, layer in enumerate(layers):
        for site, place in PLACES.get(family, LLAMA).items():
            side, path = place[0], place[1:]
            try:
                module = layer.get_submodule(path)
            except AttributeError:  # a layer of experts has no gate_proj, a dense one no router
                continue
            handles.append(module.register_forward_hook(keep((site, i), side == "<"), with_kwargs=True))
    code = sys.modules[type(base).__module__]
    if hasattr(code, "apply_rotary_pos_emb"):
        rotate, turned = code.apply_rotary_pos_emb, iter(range(len(layers)))

        def rotated(*args: Any, **kwargs: Any) -> Any:
            i = next(turned)
            found["q_pre", i], found["k_pre", i] = args[0].transpose(1, 2), args[1].transpose(1, 2)
            q, k = rotate(*args, **kwargs)
            found["q", i], found["k", i] = q.transpose(1, 2), k.transpose(1, 2)
            return q, k

        monkeypatch.setattr(code, "apply_rotary_pos_emb", rotated)
    with torch.no_grad():
        model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def as_ours(family: str, site: str, value: Tensor, shape: torch.Size) -> Tensor:
    """Their tensor in our shape: the part of a joint product that the site names."""
    if site == "v" and family == "GPTNeoX":
        value = value.unflatten(-1, (shape[2], 3, shape[3]))[..., 2, :]
    elif site == "v":
        value = value[..., -shape[2] * shape[3] :]
    elif site == "mlp_pre":
        value = value[..., : shape[-1]]
    return value.reshape(shape)


def test_every_site_is_where_it_says(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    family, model, net = pair
    ids = random_ids(2, LENGTH, net.spec.vocab)
    wanted = caught(family, model, ids, monkeypatch)
    sites = [site for site in net.sites if site.layer is not None and site.name not in NO_TENSOR]
    result = net.run(ids, save=sites)
    seen = set()
    for site in sites:
        if (site.name, site.layer) in wanted:
            ours = result[site]
            close(ours, as_ours(family, site.name, wanted[site.name, site.layer], ours.shape))
            seen.add((site.name, site.layer))
    missing = {(site.name, site.layer) for site in sites} - seen
    if family == "GPT2":  # whose queries and keys are rows of one product, and nothing turns them
        missing -= {(name, layer) for name in ("q_pre", "k_pre", "q", "k") for layer in range(3)}
    assert not missing


def test_many_cotangents_go_through_one_backward(pair) -> None:
    _, _, net = pair
    first, last = net.sites.resid_post[0], net.sites.resid_post[-1]
    result = net.run(random_ids(2, LENGTH, net.spec.vocab), save=[first, last], grad=True)
    start, end = result[first], result[last]
    cotangents = torch.randn(3, *end.shape, generator=torch.Generator().manual_seed(0))
    (together,) = torch.autograd.grad(end, start, cotangents, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(end, start, each, retain_graph=True)[0] for each in cotangents]
    close(together, torch.stack(one_by_one))
