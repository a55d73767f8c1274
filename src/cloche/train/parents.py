"""A run that begins with the weights of another model: its recipe, and what run.json says of where they are from."""

from __future__ import annotations

import os
from pathlib import Path

from cloche.errors import RunDamaged, TokenizerMissing
from cloche.files import sha256_of
from cloche.missing import no_model
from cloche.model import Network, load_network, weight_files
from cloche.runs import Run
from cloche.train.recipe.recipe import Recipe


def begin_from(model: str | Path, recipe: Recipe) -> tuple[Recipe, dict[str, str]]:
    """A recipe with the model and tokenizer of a run's last checkpoint, or of a Hugging Face folder, and its lineage for
    run.json: {"run", "checkpoint", "sha256" (of the weights)}; the checkpoint of a folder is "".

    Raises ClocheError if there is no model, or none with a tokenizer.

    >>> from pathlib import Path
    >>> from cloche.data import prepare
    >>> from cloche.model import GLU, LM, Attention, Block, Stack, save_network
    >>> from cloche.text import Tokenizer
    >>> from cloche.train import Recipe, begin_from
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> _ = prepare(["text.txt"], "packed", vocab=270)
    >>> save_network(LM(vocab=270, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0), "parent")
    >>> Tokenizer.load("packed").save("parent")
    >>> recipe, parent = begin_from("parent", Recipe())
    >>> recipe.model.width, sorted(parent)
    (24, ['checkpoint', 'run', 'sha256'])
    """
    path = Path(os.path.abspath(Path(model).expanduser()))
    checkpoint = Run.open(path).checkpoint("last").name if (path / "run.json").is_file() else ""
    folder = _folder(path, checkpoint)
    if not (folder / "config.json").is_file():
        raise no_model(Path(model))
    homes = [home for home in (folder, path) if (home / "tokenizer.json").is_file()]
    if not homes:
        raise TokenizerMissing(f"{model} has no tokenizer.json, so no text can be prepared for it; put it there.")
    spec = load_network(folder).spec
    changes = {"model": spec.to_dict(), "tokenizer.path": str(homes[0]), "model.vocab": spec.vocab}
    parent = {"run": str(path), "checkpoint": checkpoint, "sha256": _sha256(folder)}
    return recipe.with_set(changes), parent


def put_in_place(net: Network, parent: dict[str, str]) -> None:
    """Loads the parent's weights into a network of its spec. Raises ClocheError if they have changed."""
    folder = _folder(Path(parent["run"]), parent["checkpoint"])
    if not (folder / "config.json").is_file() or _sha256(folder) != parent["sha256"]:
        raise RunDamaged(
            f"The weights that this run begins with, in {folder}, are not there as they were; put them back."
        )
    net.load_state_dict(load_network(folder).state_dict())


def _folder(path: Path, checkpoint: str) -> Path:
    return path / "checkpoints" / checkpoint if checkpoint else path


def _sha256(folder: Path) -> str:
    return " ".join(sha256_of(file) for file in weight_files(folder))
