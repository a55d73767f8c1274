"""Reading autoencoders and transcoders saved by SAELens 1 to 6: cfg.json and sae_weights.safetensors."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from cloche.errors import ClocheError, DictionaryMismatch, shown
from cloche.sparse.saes.exchange.dense import Dense, to_sae
from cloche.sparse.saes.exchange.keys import TRAINING, UNDERSTOOD
from cloche.sparse.saes.exchange.places import site_of
from cloche.sparse.saes.kinds import BatchTopK, Gated, JumpReLU, Kind, ReLU, TopK
from cloche.sparse.saes.module import SAE, Wiring
from cloche.sparse.saes.provenance import Provenance
from cloche.sparse.untrusted import checked, count, read_json, read_safetensors, real, text

CFG, WEIGHTS, SCALER, SPARSITY = "cfg.json", "sae_weights.safetensors", "activation_scaler.json", "sparsity.safetensors"
WHITENING = "activation_whitening.safetensors"
SKIPS = ("skip_transcoder", "jumprelu_skip_transcoder")
TRANSCODERS = ("transcoder", "jumprelu_transcoder", *SKIPS)
_BATCHED = ("batchtopk", "matryoshka_batchtopk")  # only in checkpoints; a finished one is saved as jumprelu
_KINDS: dict[str, type[Kind]] = {
    "standard": ReLU,
    "topk": TopK,
    "gated": Gated,
    "jumprelu": JumpReLU,
    **dict.fromkeys(_BATCHED, BatchTopK),
    **{name: JumpReLU if "jumprelu" in name else ReLU for name in TRANSCODERS},
}
_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}


def read_saelens(folder: Path) -> SAE:
    """Reads an autoencoder saved by SAELens in `folder`, in float32, with equal codes and reconstructions.

    The decoder's rows become unit atoms, so a value is SAELens' value times the norm of the row. If head outputs are
    reshaped (`hook_z`), a row concatenates all heads. `l0` is stated by the folder or counted in sparsity.safetensors;
    otherwise it is the number of features, with a warning. Raises on settings that are not understood, on files that are
    damaged or do not match, and if each activation is normalised by its own norm.
    """
    path = folder / CFG
    cfg = _current(read_json(path), path)
    dense = _dense(cfg, folder)
    if cfg["normalize_activations"] == "expected_average_only_in":
        dense = dense.scaled(_scaling_factor(cfg, folder))
    kind = _kind(cfg, path)
    origin = _origin(cfg["metadata"], path)
    return to_sae(dense, kind, _l0(cfg, folder, len(dense.bias)), origin)


def _current(cfg: dict[str, Any], path: Path) -> dict[str, Any]:
    """`cfg` as version 6 writes it, defaults filled in. Raises on settings that are not understood."""
    if not isinstance(cfg.get("metadata"), dict):
        cfg = {_OLD_NAMES.get(key, key): value for key, value in cfg.items()}
        cfg["metadata"] = cfg
    for key in sorted(set(cfg) - UNDERSTOOD - TRAINING):
        if cfg[key] is not None:
            mend = "take it out if it changes no numbers, or use the autoencoder with SAELens"
            raise _refusal(path, key, cfg[key], "cloche does not support", mend)
    given: dict[str, Any] = {
        "architecture": "standard",
        "apply_b_dec_to_input": True,
        "reshape_activations": "none",
    } | cfg
    activation = given.get("activation_fn") or "relu"
    if activation == "topk" and given["architecture"] in ("standard", "topk"):
        details = given.get("activation_fn_kwargs")
        kept = details.get("k", given.get("k")) if isinstance(details, dict) else given.get("k")
        given |= {"architecture": "topk", "k": kept}
    elif activation != "relu":
        raise _refusal(path, "activation_fn", activation, "no kind computes")
    if not isinstance(given["architecture"], str) or given["architecture"] not in _KINDS:
        raise DictionaryMismatch(
            f"{path} describes a SAELens autoencoder of architecture {shown(given['architecture'])}, which is not supported: "
            f"use one of {', '.join(_KINDS)}."
        )
    norm = given.get("normalize_activations") or "none"
    given["normalize_activations"] = "expected_average_only_in" if norm is True else norm
    _check_numerics(given, path)
    return given


def _check_numerics(cfg: dict[str, Any], path: Path) -> None:
    """Raises on settings whose effect cannot be expressed in the weights."""
    transcodes = cfg["architecture"] in TRANSCODERS
    known = ("none",) if transcodes else ("none", "expected_average_only_in")
    if cfg["normalize_activations"] not in known:
        why = "a transcoder cannot undo" if transcodes else "no fixed factor can replace"
        folded = "take what SAELens saved at the end of its training, where it is folded into the weights"
        mend = folded if cfg["normalize_activations"] == "covariance_whitening" else ""
        raise _refusal(path, "normalize_activations", cfg["normalize_activations"], why, mend)
    if cfg["reshape_activations"] not in ("none", "hook_z"):
        raise _refusal(path, "reshape_activations", cfg["reshape_activations"], "cloche does not support")
    if cfg.get("finetuning_scaling_factor"):
        raise _refusal(path, "finetuning_scaling_factor", True, "rescales values, which no kind supports")
    for key in ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm"):
        if not isinstance(cfg.get(key, True), bool):
            raise _refusal(path, key, cfg[key], "is neither true nor false")
    if transcodes and cfg["apply_b_dec_to_input"]:
        raise _refusal(
            path, "apply_b_dec_to_input", True, "no transcoder supports, because its bias belongs to another site"
        )


def _refusal(path: Path, key: str, value: Any, why: str, mend: str = "") -> ClocheError:
    mend = mend or "use the autoencoder with SAELens"
    return DictionaryMismatch(
        f"{path} states {key if len(key) <= 60 else shown(key)} = {shown(value)}, which {why}: {mend}."
    )


def _dense(cfg: dict[str, Any], folder: Path) -> Dense:
    """The weights; decoder norms are folded in if the selection depends on them."""
    path, architecture = folder / WEIGHTS, cfg["architecture"]
    reads, features = count(cfg, "d_in", folder / CFG), count(cfg, "d_sae", folder / CFG)
    transcodes = architecture in TRANSCODERS
    writes = count(cfg, "d_out", folder / CFG) if transcodes else reads
    own: dict[str, tuple[int, ...]] = {"b_enc": (features,)}
    if architecture == "gated":
        own = dict.fromkeys(("b_gate", "b_mag", "r_mag"), (features,))
    elif architecture in _BATCHED:
        own["topk_threshold"] = ()
    elif _KINDS[architecture] is JumpReLU:
        own["threshold"] = (features,)
    if architecture in SKIPS:
        own["W_skip"] = (writes, reads)
    shapes = {"W_enc": (reads, features), "W_dec": (features, writes), "b_dec": (writes,), **own}
    tensors = checked(_tidied(read_safetensors(path), path), shapes, path)
    threshold = tensors.get("threshold", tensors.get("topk_threshold"))
    given: dict[str, Tensor] = {} if threshold is None else {"threshold": threshold.expand(features)}
    if architecture == "gated":
        given = {"gate": tensors["b_gate"], "log_gain": tensors["r_mag"]}
    encoder, bias, decoder = tensors["W_enc"].T, tensors.get("b_enc", tensors.get("b_mag")), tensors["W_dec"]
    assert bias is not None
    default = architecture in _BATCHED  # SAELens' default
    if cfg.get("rescale_acts_by_decoder_norm", default) and architecture in ("topk", *_BATCHED):
        norms = decoder.norm(dim=1)
        encoder, bias, decoder = encoder * norms[:, None], bias * norms, decoder / norms.clamp_min(1e-30)[:, None]
    wiring = Wiring((reads,), (writes,) if transcodes else None, architecture in SKIPS)
    centred = cfg["apply_b_dec_to_input"]
    return Dense(encoder, bias, decoder, tensors["b_dec"], wiring, centred, given, tensors.get("W_skip"))


def _tidied(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Drops the constant factors that some versions wrote, and converts thresholds to the later format."""
    if "scaling_factor" in tensors and bool((real("scaling_factor", tensors["scaling_factor"], path) == 1).all()):
        del tensors["scaling_factor"]
    if "log_threshold" in tensors and "threshold" not in tensors:
        tensors["threshold"] = real("log_threshold", tensors.pop("log_threshold"), path).exp()
    return tensors


def _scaling_factor(cfg: dict[str, Any], folder: Path) -> float:
    """Factor of the activations, which SAELens saves beside a checkpoint and folds into a finished autoencoder."""
    path = folder / SCALER
    factor = read_json(path).get("scaling_factor") if path.is_file() else None
    if not isinstance(factor, float | int) or not 1e-9 <= factor <= 1e9 or (folder / WHITENING).exists():
        raise DictionaryMismatch(
            f"{folder / CFG} states normalize_activations = {shown(cfg['normalize_activations'])}, but no {SCALER} beside it "
            'says by which number: write {"scaling_factor": number} there, or take what SAELens saved when it was trained.'
        )
    return float(factor)


def _kind(cfg: dict[str, Any], path: Path) -> Kind:
    """Its kind, or the one it was trained as: SAELens saves a finished BatchTopK as a JumpReLU."""
    kind, details = _KINDS[cfg["architecture"]], _training(cfg)
    if kind is JumpReLU and cfg["metadata"].get("training_architecture") in _BATCHED:
        kind = BatchTopK
    widths = details.get("matryoshka_widths") if kind is BatchTopK else _ours(cfg["metadata"]).get("nested")
    if not isinstance(widths or [], list) or not all(type(width) is int for width in widths or ()):
        raise _refusal(path, "matryoshka_widths", widths, "is no list of numbers of features")
    return kind(nested=tuple(width for width in widths or () if width != cfg["d_sae"]))


def _ours(metadata: dict[str, Any]) -> dict[str, Any]:
    """Entries that `save_saelens` adds because SAELens has no field for them."""
    stated = metadata.get("cloche")
    return stated if isinstance(stated, dict) else {}


def _training(cfg: dict[str, Any]) -> dict[str, Any]:
    """Settings of training: top-level in a checkpoint, in the metadata of a finished autoencoder."""
    details = cfg["metadata"].get("training_architecture_details")
    return {**(details if isinstance(details, dict) else {}), **cfg}


def _l0(cfg: dict[str, Any], folder: Path, features: int) -> float:
    """Number of active features: stated or counted."""
    if cfg["architecture"] == "topk":
        return count(cfg, "k", folder / CFG)
    details = _training(cfg)
    for stated in (_ours(cfg["metadata"]).get("l0"), details.get("k"), details.get("target_l0")):
        if isinstance(stated, int | float) and stated is not True and 0 < stated <= features:
            return stated
    path = folder / SPARSITY
    if path.is_file():
        shares = checked(read_safetensors(path), {"sparsity": (features,)}, path)["sparsity"].double()
        counted = float((10**shares).sum())
        if 0 < counted <= features:
            return counted
    return unknown_l0(folder, features)


def unknown_l0(folder: Path, features: int) -> float:
    """The maximum, with a warning."""
    warnings.warn(
        f"{folder} does not say how many features are active, so l0 stands at all {features:,}: set sae.l0 before you "
        "calibrate or train it.",
        stacklevel=5,
    )
    return features


def _origin(metadata: dict[str, Any], path: Path) -> Provenance:
    options = metadata.get("model_from_pretrained_kwargs")
    head = metadata.get("hook_head_index")
    site = site_of(metadata.get("hook_name"), head, options)
    if metadata.get("hook_name_out"):  # for a transcoder, both or neither
        written = site_of(metadata["hook_name_out"], metadata.get("hook_head_index_out"), options)
        site = f"{site} -> {written}" if site and written else None
    stated, model = _ours(metadata), metadata.get("model_name")
    if "site" in stated:
        site = text(stated, "site", path)
    tokens = count(stated, "tokens", path, least=0) if "tokens" in stated else 0
    return Provenance(site, model if isinstance(model, str) else None, tokens)
