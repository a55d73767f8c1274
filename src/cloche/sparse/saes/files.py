"""An autoencoder on disk, in a dictionary's folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cloche.errors import ClocheError
from cloche.sparse.saes.exchange import foreign_reader
from cloche.sparse.saes.kinds import KINDS, kind_of, settings_of
from cloche.sparse.saes.module import SAE, Wiring
from cloche.sparse.saes.provenance import Provenance
from cloche.sparse.store import CARD, WEIGHTS, need, read_card, read_weights, write_folder


def save_sae(sae: SAE, folder: str | Path) -> Path:
    """Writes `sae` to `folder`, replacing a dictionary already there only once the new one is complete."""
    card = {
        "kind": sae.kind.name,
        "settings": settings_of(sae.kind),
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
    """The autoencoder saved in `folder` by cloche, SAELens or dictionary_learning: which one, its files' names tell.

    Raises where a file is missing, damaged, or disagrees with its description.
    """
    folder = Path(folder)
    if not (folder / CARD).exists() and (read_foreign := foreign_reader(folder)):
        return read_foreign(folder)
    card = _checked(read_card(folder), folder / CARD)
    weights = read_weights(folder, card)
    origin = Provenance(card["site"], card["checkpoint"], card["tokens"])
    wired = card["wiring"]
    wiring = Wiring(tuple(wired["reads"]), wired["writes"] and tuple(wired["writes"]), wired["skip"])
    sae = SAE(wiring, card["features"], card["l0"], kind_of(card["kind"], card["settings"]), trained_on=origin)
    sae.gain = torch.ones(sae.features) if "gain" in weights else None
    expected = {name: tensor.shape for name, tensor in sae.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected or card["width"] != sae.width:
        raise ClocheError(
            f"The weights in {folder / WEIGHTS} do not have the shapes {CARD} states (width {card['width']}, "
            f"{card['features']} features): restore both files of one dictionary."
        )
    sae.load_state_dict(weights)
    return sae


def _checked(card: dict[str, Any], path: Path) -> dict[str, Any]:
    """A card that describes an autoencoder this version reads."""
    if card["format"] != 1 or card["kind"] not in KINDS:
        raise ClocheError(
            f"{path} describes a {card['kind']} of format {card['format']}, but this cloche reads "
            f"{', '.join(KINDS)} of format 1: use the version that wrote it."
        )
    need(card, ("settings", "l0", "site", "checkpoint", "tokens", "wiring", "width", "features"), path)
    return card
