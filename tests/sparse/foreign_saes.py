"""What the tests of exchange share: random weights, folders laid out by hand, and dense arithmetic as the oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cloche.sparse import SAE, Provenance, Wiring
from cloche.sparse.saes import Kind

WIDTH, FEATURES, K = 12, 40, 5
NEAR = {"rtol": 0.0, "atol": 1e-5}  # of numbers whose largest is one
Codes = Callable[[Tensor], Tensor]


def near(found: Tensor, wanted: Tensor) -> None:
    assert float(wanted.abs().max()) > 0
    torch.testing.assert_close(found / wanted.abs().max(), wanted / wanted.abs().max(), **NEAR)


def signals(rng: torch.Generator, width: int = WIDTH) -> Tensor:
    return torch.randn(200, width, generator=rng) * 3 + 1


def weights(rng: torch.Generator, *names: str, writes: int = WIDTH) -> dict[str, Tensor]:
    """Random ones as SAELens lays them out; the decoder's rows have norms between 0.5 and 2."""
    rows = torch.nn.functional.normalize(torch.randn(FEATURES, writes, generator=rng), dim=1)
    found = {
        "W_enc": torch.randn(WIDTH, FEATURES, generator=rng) * 0.5,
        "W_dec": rows * (0.5 + 1.5 * torch.rand(FEATURES, 1, generator=rng)),
        "b_dec": torch.randn(writes, generator=rng),
        "W_skip": torch.randn(writes, WIDTH, generator=rng),
        "topk_threshold": torch.tensor(1.3, dtype=torch.float64),
        "threshold": torch.rand(FEATURES, generator=rng) * 3 - 0.5,  # some below zero
    }
    found |= {name: torch.randn(FEATURES, generator=rng) * 0.5 for name in ("b_enc", "b_gate", "b_mag", "r_mag")}
    return {name: found[name] for name in ("W_enc", "W_dec", "b_dec", *names)}


def topk(pre: Tensor, k: int = K) -> Tensor:
    best = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, best.indices, best.values.relu())


def lens_folder(folder: Path, tensors: dict[str, Tensor], cfg: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae_weights.safetensors")
    base = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "device": "cpu", "normalize_activations": "none"}
    metadata = {"sae_lens_version": "6.54.0", "hook_name": "blocks.3.hook_resid_post", "model_name": "gpt2-small"}
    base |= {"reshape_activations": "none", "metadata": metadata}
    (folder / "cfg.json").write_text(json.dumps(base | cfg))
    return folder


def check(sae: SAE, x: Tensor, codes: Tensor, decoder: Tensor, reconstruction: Tensor) -> None:
    """Ours are the values times the norms of the rows, of atoms of norm one."""
    norms = decoder.norm(dim=1)
    near(sae.encode(x).dense(), codes * norms)
    near(sae.forward(x).detach(), reconstruction)
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(FEATURES))
    if sae.skip is None:
        near(sae.decode(sae.encode(x)), reconstruction)


def answers(architecture: str, t: dict[str, Tensor], pre: Tensor) -> Tensor:
    """What each architecture makes of x @ W_enc, by its papers."""
    if architecture == "gated":
        return (pre + t["b_gate"] > 0) * (pre * t["r_mag"].exp() + t["b_mag"]).relu()
    if architecture == "topk":
        return topk(pre + t["b_enc"])
    pre = pre + t["b_enc"]
    return pre.relu() * (pre > t["threshold"]) if "threshold" in t else pre.relu()


def ours(kind: Kind, rng: torch.Generator, wiring: Wiring | int = WIDTH, threshold: float = 0.4) -> SAE:
    """An autoencoder with nothing at its start: scales, biases, thresholds, everything of its own."""
    sae = SAE(wiring, FEATURES, K, kind, seed=1, trained_on=Provenance("mlp_out[2]", "first/step-000500", 1_000))
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if "window" not in name and name != "decoder":
                parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.3)
    sae.scale.fill_(0.31)
    sae.threshold.fill_(threshold if kind.thresholded else 0.0)
    if sae.wiring.writes is not None:
        sae.read_centre.copy_(torch.randn(WIDTH, generator=rng))
        sae.write_scale.fill_(1.7)
    return sae
