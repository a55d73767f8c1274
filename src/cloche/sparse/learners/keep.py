"""A learned dictionary on disk: `dictionary.safetensors` with the atoms, `dictionary.json` with their description."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cloche.files import refuse_existing
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.saes.exchange import foreign_reader
from cloche.sparse.saes.files import load_sae
from cloche.sparse.store import CARD, WEIGHTS, read_card, read_weights, require, write_folder
from cloche.sparse.untrusted import count, counts, flag, real, text

KIND = "atoms"
PICTURE = "atoms.png"


@dataclass(frozen=True)
class Card:
    """Description of a dictionary: patches of `sides` (none: rows), with their mean removed if `level`, and how it was
    learned.

    >>> import torch
    >>> from cloche.sparse import Dictionary
    >>> from cloche.sparse.learners import Card, load_dictionary, save_dictionary
    >>> folder = save_dictionary(Dictionary(torch.eye(4)), "atoms", Card(sides=(2, 2), method="KSVD", k=1))
    >>> load_dictionary(folder)[1]
    Card(sides=(2, 2), level=False, method='KSVD', k=1, signals=0)
    """

    sides: tuple[int, ...] = ()
    level: bool = False
    method: str = ""
    k: int = 0
    signals: int = 0


def save_dictionary(dictionary: Dictionary, folder: str | Path, card: Card = Card()) -> Path:
    """Writes `dictionary` atomically to `folder`, which must not exist.

    >>> import torch
    >>> from cloche.sparse import Dictionary
    >>> from cloche.sparse.learners import Card, load_dictionary, save_dictionary
    >>> folder = save_dictionary(Dictionary(torch.eye(4)), "atoms", Card(sides=(2, 2), method="KSVD", k=1))
    >>> sorted(path.name for path in folder.iterdir())
    ['dictionary.json', 'dictionary.safetensors']
    """
    folder = Path(folder)
    refuse_existing(folder, "choose another folder")
    tensors = {"atoms": dictionary.atoms.detach()}
    if dictionary.bias is not None:
        tensors["bias"] = dictionary.bias.detach()
    stated = {"kind": KIND, "atoms": dictionary.size, "width": dictionary.width, **asdict(card)}
    return write_folder(folder, tensors, stated)


def load_dictionary(folder: str | Path) -> tuple[Dictionary, Card]:
    """Loads the dictionary in `folder` and its card; for an autoencoder, the decoder in the activations' units.

    Raises if a file is missing or damaged, or does not match its description.

    >>> import torch
    >>> from cloche.sparse import Dictionary
    >>> from cloche.sparse.learners import Card, load_dictionary, save_dictionary
    >>> folder = save_dictionary(Dictionary(torch.eye(4)), "atoms", Card(sides=(2, 2), method="KSVD", k=1))
    >>> dictionary, card = load_dictionary(folder)
    >>> dictionary.atoms.shape, card.sides
    (torch.Size([4, 4]), (2, 2))
    """
    folder = Path(folder)
    foreign = not (folder / CARD).exists() and foreign_reader(folder)
    stated = {} if foreign else read_card(folder)
    if foreign or stated["kind"] != KIND:
        sae = load_sae(folder)
        return sae.dictionary, Card(method=str(sae.kind), k=round(sae.l0))
    require(stated, (field.name for field in fields(Card)), folder / CARD)
    tensors = read_weights(folder, stated)
    require(tensors, ["atoms"], folder / WEIGHTS)
    for name, tensor in tensors.items():
        real(name, tensor, folder / WEIGHTS)
    dictionary, path = Dictionary(tensors["atoms"], tensors.get("bias")), folder / CARD
    numbers = {key: count(stated, key, path, least=0) for key in ("k", "signals")}
    level, method = flag(stated, "level", path), text(stated, "method", path) or ""
    return dictionary, Card(counts(stated, "sides", path), level, method, **numbers)
