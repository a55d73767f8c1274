"""Reading autoencoders saved by dictionary_learning: ae.pt and config.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from cloche.errors import DictionaryMismatch, shown
from cloche.sparse.saes.exchange.dense import Dense, to_sae
from cloche.sparse.saes.exchange.saelens import unknown_l0
from cloche.sparse.saes.kinds import BatchTopK, Gated, JumpReLU, Kind, ReLU, TopK
from cloche.sparse.saes.module import SAE, Wiring
from cloche.sparse.saes.provenance import Provenance
from cloche.sparse.untrusted import checked, count, number, read_json, read_torch

CONFIG, WEIGHTS = "config.json", "ae.pt"
_RESIDUAL = re.compile(r"resid_post_layer_(\d+)")
_KINDS: dict[str, type[Kind]] = {
    "AutoEncoder": ReLU,
    "AutoEncoderNew": ReLU,
    "GatedAutoEncoder": Gated,
    "AutoEncoderTopK": TopK,
    "BatchTopKSAE": BatchTopK,
    "MatryoshkaBatchTopKSAE": BatchTopK,
    "JumpReluAutoEncoder": JumpReLU,
}
# Role of each tensor, by its name: E encoder, D decoder, b biases of the features, c of the decoder; t if transposed.
_LINEAR = {"encoder.weight": "E", "encoder.bias": "b", "decoder.weight": "Dt"}
_PLAIN = {"W_enc": "Et", "b_enc": "b", "W_dec": "D", "b_dec": "c"}
_COUNTED = {"k": "number", "threshold": "number"}
_TENSORS = {
    "AutoEncoder": _LINEAR | {"bias": "c"},
    "AutoEncoderNew": _LINEAR | {"decoder.bias": "c"},
    "AutoEncoderTopK": _LINEAR | {"b_dec": "c"} | _COUNTED,
    "BatchTopKSAE": _LINEAR | {"b_dec": "c"} | _COUNTED,
    "MatryoshkaBatchTopKSAE": _PLAIN | _COUNTED | {"group_sizes": "groups"},
    "JumpReluAutoEncoder": _PLAIN | {"threshold": "t"},
    "GatedAutoEncoder": {
        "encoder.weight": "E",
        "decoder.weight": "Dt",
        "decoder_bias": "c",
        "mag_bias": "b",
        "gate_bias": "gate",
        "r_mag": "gain",
    },
}
_OPTIONAL = {
    "AutoEncoderTopK": ("k", "threshold")
}  # what early versions kept elsewhere (k in config.json) or not at all
_UNCENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")  # the others subtract the decoder's bias from their input


def read_dictionary_learning(folder: Path) -> SAE:
    """Reads an autoencoder saved by dictionary_learning in `folder`, in float32, with equal codes and reconstructions.

    Atoms have unit norm and values are in the activations' units: those of dictionary_learning times the norms of its
    decoder's columns, as in its `AutoEncoder.from_pretrained`. As in its `encode`, a TopK keeps the k largest and a
    BatchTopK uses its threshold. A normalisation of activations in training is already folded into the saved weights. Only
    tensors are read from ae.pt.
    """
    path = folder / CONFIG
    trainer = read_json(path).get("trainer")
    name = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or not isinstance(name, str) or name not in _KINDS:
        raise DictionaryMismatch(
            f"{path} does not describe a supported autoencoder of dictionary_learning (trainer.dict_class is {shown(name)}): "
            f"use one of {', '.join(_KINDS)}."
        )
    tensors = _tensors(name, folder / WEIGHTS)
    dense = _dense(name, tensors)
    features = len(dense.bias)
    kind = _KINDS[name](nested=_nested(tensors, features, folder / WEIGHTS))
    return to_sae(dense, kind, _l0(trainer, tensors, folder, features), _origin(trainer))


def _tensors(name: str, path: Path) -> dict[str, Tensor]:
    """The tensors, with shapes checked against the encoder's."""
    found, roles = read_torch(path), _TENSORS[name]
    encoder = next(found[key] for key in ("encoder.weight", "W_enc") if key in found) if found.keys() & roles else None
    if encoder is None or encoder.ndim != 2:
        raise DictionaryMismatch(f"{path} has no {name}: restore both files of one dictionary.")
    features, width = encoder.shape if roles.get("encoder.weight") else encoder.T.shape
    shapes: dict[str, tuple[int, ...]] = {
        "E": (features, width),
        "Et": (width, features),
        "D": (features, width),
        "Dt": (width, features),
        "c": (width,),
        "number": (),
        "groups": tuple(found["group_sizes"].shape) if "group_sizes" in found else (),
    }
    wanted = {key: shapes.get(role, (features,)) for key, role in roles.items()}
    return checked(found, wanted, path, optional=_OPTIONAL.get(name, ()), whole=("k", "group_sizes"))


def _dense(name: str, tensors: dict[str, Tensor]) -> Dense:
    by_role = {
        role.removesuffix("t") or role: tensors[key].T if len(role) > 1 and role.endswith("t") else tensors[key]
        for key, role in _TENSORS[name].items()
        if key in tensors
    }
    extra: dict[str, Tensor] = {}
    features, width = by_role["E"].shape
    if "gate" in by_role:
        extra = {"gate": by_role["gate"], "log_gain": by_role["gain"]}
    elif _KINDS[name] in (BatchTopK, JumpReLU):
        extra = {"threshold": tensors["threshold"].expand(features)}
    centred = name not in _UNCENTRED
    return Dense(by_role["E"], by_role["b"], by_role["D"], by_role["c"], Wiring((width,)), centred, extra)


def _nested(tensors: dict[str, Tensor], features: int, path: Path) -> tuple[int, ...]:
    """Numbers of leading features that reconstruct on their own, from the groups of a Matryoshka."""
    if "group_sizes" not in tensors:
        return ()
    sizes = tensors["group_sizes"]
    if sizes.ndim != 1 or not bool((sizes == sizes.round()).all()) or not bool((sizes >= 1).all()):
        raise DictionaryMismatch(f"group_sizes in {path} are not numbers of features: restore the file.")
    ends = [int(end) for end in tensors["group_sizes"].cumsum(0)]
    if not ends or ends[-1] != features:
        raise DictionaryMismatch(
            f"group_sizes in {path} adds up to {ends[-1] if ends else 0:,}, but there are {features:,} features: restore the "
            "file."
        )
    return tuple(ends[:-1])


def _l0(trainer: dict[str, Any], tensors: dict[str, Tensor], folder: Path, features: int) -> float:
    """Average number of active features, as stated."""
    if "k" in tensors:
        kept = count({"k": float(tensors["k"])}, "k", folder / WEIGHTS)
        if trainer.get("k", kept) != kept:
            raise DictionaryMismatch(
                f"{folder / CONFIG} states k = {shown(trainer['k'])}, but {WEIGHTS} was saved with k = {kept}: restore "
                "both files of one dictionary."
            )
        return kept
    if _KINDS[trainer["dict_class"]] is TopK:
        return count(trainer, "k", folder / CONFIG)
    if trainer.get("target_l0") is not None:
        return number(trainer, "target_l0", folder / CONFIG)
    return unknown_l0(folder, features)


def _origin(trainer: dict[str, Any]) -> Provenance:
    model, match = trainer.get("lm_name"), _RESIDUAL.fullmatch(str(trainer.get("submodule_name"))[:200])
    return Provenance(f"resid_post[{match[1]}]" if match else None, model if isinstance(model, str) else None)
