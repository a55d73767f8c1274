"""Saving and loading an autoencoder in a dictionary folder."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired

import torch
from typing_extensions import TypedDict

from cloche.errors import ClocheError, DictionaryMismatch, shown
from cloche.part import part_from_dict, part_from_line
from cloche.sparse.saes.exchange import foreign_reader
from cloche.sparse.saes.kinds import Kind
from cloche.sparse.saes.module import SAE, Wiring
from cloche.sparse.saes.provenance import Provenance
from cloche.sparse.store import CARD, WEIGHTS, read_card, read_weights, require, write_folder
from cloche.sparse.untrusted import count, counts, flag, number, real, text


class DictionaryCard(TypedDict):
    """dictionaries/*/dictionary.json of a sparse autoencoder: its kind, and the route and checkpoint that it was trained on."""

    kind: str
    l0: float
    site: str | None
    checkpoint: str | None
    tokens: int
    wiring: dict[str, Any]
    width: int
    features: int
    scale: float
    format: NotRequired[int]
    torch: NotRequired[str]
    sha256: NotRequired[str]


def save_sae(sae: SAE, folder: str | Path) -> Path:
    """Writes `sae` to `folder`; a dictionary already there is replaced only once the new one is complete."""
    card: DictionaryCard = {
        "kind": sae.kind.to_line(),
        "l0": sae.l0,
        "site": sae.trained_on.site,
        "checkpoint": sae.trained_on.checkpoint,
        "tokens": sae.trained_on.tokens,
        "wiring": asdict(sae.wiring),
        "width": sae.width,
        "features": sae.features,
        "scale": float(sae.scale.mean()),
    }
    return write_folder(Path(folder), sae.state_dict(), card)


def load_sae(folder: str | Path) -> SAE:
    """Loads the autoencoder that cloche, SAELens or dictionary_learning saved in `folder`, recognised by its file
    names.

    Raises if a file is missing or damaged, or does not match its description.

    >>> import torch
    >>> from cloche.sparse import SAE, load_sae
    >>> sae = SAE(8, 32, l0=4)
    >>> load_sae(sae.save("dictionary"))
    SAE(TopK, 32 features of width 8, l0 4, scale 1)
    """
    folder = Path(folder)
    if not (folder / CARD).exists() and (read_foreign := foreign_reader(folder)):
        return read_foreign(folder)
    path = folder / CARD
    card = read_card(folder)
    wiring, kind = _wiring(card, path), _kind(card, path)
    features, l0 = count(card, "features", path), number(card, "l0", path)
    origin = Provenance(text(card, "site", path), text(card, "checkpoint", path), count(card, "tokens", path, least=0))
    kind.check(features, l0)
    stored = read_weights(folder, card)
    weights = {re.sub(r"^own\.", "extra.", name): tensor for name, tensor in stored.items()}  # as cloche 0.1 named them
    sides = {"encoder": (features, sum(wiring.reads)), "decoder": (features, sum(wiring.writes or wiring.reads))}
    stated = {name: tuple(weights[name].shape) == shape for name, shape in sides.items() if name in weights}
    if len(stated) < len(sides) or not all(stated.values()) or card["width"] != sides["decoder"][1]:
        raise _differ(folder, card)  # before anything is built: the stated sizes may be anything
    sae = SAE(wiring, features, l0, kind, trained_on=origin)
    sae.gain = torch.ones(features) if "gain" in weights else None
    expected = {name: tensor.shape for name, tensor in sae.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        raise _differ(folder, card)
    for name, tensor in weights.items():
        real(name, tensor, folder / WEIGHTS)
    for name in ("scale", "write_scale", "extra.window"):
        if name in weights and not float(weights[name].float().min()) >= 1e-12:
            raise DictionaryMismatch(
                f"{name} in {folder / WEIGHTS} is not above zero: use an earlier checkpoint of it."
            )
    sae.load_state_dict(weights)
    return sae


def _differ(folder: Path, card: dict[str, Any]) -> ClocheError:
    return DictionaryMismatch(
        f"The weights in {folder / WEIGHTS} do not have the shapes {CARD} states (width {shown(card['width'])}, "
        f"{shown(card['features'])} features): restore both files of one dictionary."
    )


def _kind(card: dict[str, Any], path: Path) -> Kind:
    """The kind in a card: one line or, as cloche 0.1 wrote it, a name and settings."""
    if card["format"] != 1:
        raise DictionaryMismatch(
            f"{path} has format {shown(card['format'])}, but this version of cloche reads 1: use the "
            "version that wrote it."
        )
    require(card, ("l0", "site", "checkpoint", "tokens", "wiring", "width", "features"), path)
    where, kind, settings = f"{path}: kind", card["kind"], card.get("settings")
    made: Kind
    if isinstance(settings, dict):
        made = part_from_dict({**settings, "part": kind}, where, Kind)
    else:
        made = part_from_line(kind, Kind, where)
    return made


def _wiring(card: dict[str, Any], path: Path) -> Wiring:
    require(card, ("wiring",), path)
    wired = card["wiring"]
    require(wired, ("reads", "writes", "skip"), path)
    writes = None if wired["writes"] is None else counts(wired, "writes", path)
    return Wiring(counts(wired, "reads", path), writes, flag(wired, "skip", path))
