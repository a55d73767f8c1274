"""Writing autoencoders and transcoders in the format of SAELens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from cloche.errors import DictionaryMismatch, DictionaryMissing
from cloche.files import refuse_existing, writing_folder
from cloche.sparse.saes.exchange.dense import Dense, from_sae
from cloche.sparse.saes.exchange.places import hook_of
from cloche.sparse.saes.exchange.saelens import CFG, WEIGHTS
from cloche.sparse.saes.module import SAE

_FORMAT = "6.54.0"  # version of SAELens with this format


def save_saelens(sae: SAE, folder: str | Path) -> Path:
    """Writes `sae` to a new `folder` for SAELens' `SAE.load_from_disk`, with equal codes (in the activations' units) and
    reconstructions. Scale and threshold are folded into the weights.

    A TopK becomes `topk`, a Gated `gated`, a ReLU without a threshold `standard` and the other kinds `jumprelu`; a
    transcoder `transcoder`, with `jumprelu_` and `skip_` as needed. What SAELens has no field for (l0, tokens, a site
    without a hook) is in the metadata under "cloche". Raises if SAELens has no such dictionary or `folder` exists.

    >>> from cloche.sparse import SAE, load_sae, save_saelens
    >>> folder = save_saelens(SAE(8, 32, l0=4), "for_saelens")
    >>> sorted(path.name for path in folder.iterdir())
    ['cfg.json', 'sae_weights.safetensors']
    >>> load_sae(folder)
    SAE(TopK, 32 features of width 8, l0 4, scale 1)
    """
    folder = Path(folder)
    refuse_existing(folder, "choose another folder")
    architecture = _architecture(sae)
    dense = from_sae(sae)
    if architecture == "standard" and "threshold" in dense.extra:
        architecture = "jumprelu"
    elif "threshold" not in dense.extra:
        architecture = architecture.replace("jumprelu_", "").replace("jumprelu", "standard")
    tensors = {
        name: tensor.detach().to(sae.decoder.dtype).cpu().contiguous() for name, tensor in _tensors(dense).items()
    }
    with writing_folder(folder) as fresh:
        save_file(tensors, fresh / WEIGHTS)
        (fresh / CFG).write_text(json.dumps(_cfg(sae, architecture), indent=1) + "\n", encoding="utf-8")
    return folder


def _architecture(sae: SAE) -> str:
    """Architecture in SAELens' terms: jumprelu if a threshold may decide."""
    wiring = sae.wiring
    if len(wiring.reads) > 1 or len(wiring.writes or (1,)) > 1:
        raise DictionaryMissing(
            f"SAELens has no dictionary that reads {len(wiring.reads)} sites and writes "
            f"{len(wiring.writes or wiring.reads)}, like this crosscoder: save it with sae.save(folder)."
        )
    named = sae.kind.saelens
    if named is None:
        raise DictionaryMismatch(f"SAELens has no counterpart of {sae.kind}: save it with sae.save(folder).")
    if wiring.writes is None:
        return named
    if named not in ("jumprelu", "standard"):
        raise DictionaryMismatch(
            f"SAELens has no transcoder of kind {sae.kind}: save it with sae.save(folder), or train one of another kind."
        )
    return "jumprelu_skip_transcoder" if wiring.skip else "jumprelu_transcoder"


def _tensors(dense: Dense) -> dict[str, Tensor]:
    tensors = {"W_enc": dense.encoder.T, "W_dec": dense.decoder, "b_dec": dense.decoder_bias}
    if "gate" in dense.extra:
        tensors |= {"b_gate": dense.extra["gate"], "b_mag": dense.bias, "r_mag": dense.extra["log_gain"]}
    else:
        tensors["b_enc"] = dense.bias
    if "threshold" in dense.extra:
        tensors["threshold"] = dense.extra["threshold"]
    if dense.skip is not None:
        tensors["W_skip"] = dense.skip
    return tensors


def _cfg(sae: SAE, architecture: str) -> dict[str, Any]:
    hook = hook_of(sae.trained_on.site)
    whole = hook is not None and hook[0].endswith("hook_z") and hook[1] is None
    stated: dict[str, Any] = {
        "architecture": architecture,
        "d_in": sae.encoder.shape[1],
        "d_sae": sae.features,
        "dtype": str(sae.decoder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.wiring.writes is None,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if whole else "none",
        "metadata": _metadata(sae, hook),
    }
    if sae.wiring.writes is not None:
        stated["d_out"] = sae.width
    if architecture == "topk":
        stated |= {"k": int(sae.l0), "rescale_acts_by_decoder_norm": False}
    return stated


def _metadata(sae: SAE, hook: tuple[str, int | None] | None) -> dict[str, Any]:
    origin = sae.trained_on
    stated: dict[str, Any] = {
        "sae_lens_version": _FORMAT,
        "sae_lens_training_version": None,
        "cloche": {
            "kind": sae.kind.to_line(),
            "nested": list(sae.kind.nested),
            "l0": sae.l0,
            "site": origin.site,
            "tokens": origin.tokens,
        },
    }
    if hook is not None:
        stated |= {"hook_name": hook[0], "hook_head_index": hook[1]}
    if origin.checkpoint is not None:
        stated["model_name"] = origin.checkpoint
    if (trained := sae.kind.saelens_training) is not None:
        details: dict[str, Any] = {"k": sae.l0}
        if sae.kind.nested:
            details["matryoshka_widths"] = [*sae.kind.nested, sae.features]
        stated |= {
            "training_architecture": f"matryoshka_{trained}" if sae.kind.nested else trained,
            "training_architecture_details": details,
        }
    return stated
