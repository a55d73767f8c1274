"""What a family of Hugging Face checkpoints is, and how one is found by the `model_type` of a config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from cloche.errors import ModelUnsupported, shown
from cloche.model.huggingface.rename import Names, Rename, rules
from cloche.model.lm import LM
from cloche.part_text import load_entries, loaded


@dataclass(frozen=True)
class Family(ABC):
    """Reads the configs of one `model_type` as trees of parts, and writes them; its subclasses are found by that name.

    prefix: of its tensors' names, the head's apart. tensors: a table of them, see `rules`.
    """

    model_type: ClassVar[str] = ""
    prefix: ClassVar[str] = "model."
    tensors: ClassVar[Names] = {}

    @abstractmethod
    def read(self, config: dict[str, Any]) -> LM:
        """The tree of a config. Raises ClocheError naming a field that is not understood."""

    def write(self, spec: LM) -> dict[str, Any] | None:
        """The config that might describe a tree, which is held against the tree afterwards; None where none can."""
        return None

    def names(self, spec: LM) -> list[Rename]:
        """Where each of our tensors is found in a checkpoint of a tree; for what `tensors` cannot say."""
        return rules(spec, self.tensors)


def families() -> list[Family]:
    """Every known family: ours in the order in which they are tried on a tree, then those of others that are imported."""
    found = [cls for cls in loaded(Family) if cls.model_type]
    return [cls() for cls in sorted(found, key=lambda cls: (not cls.__module__.startswith("cloche."), cls.model_type))]


def find_family(model_type: object) -> Family:
    """The family of a config's `model_type`. Raises ModelUnsupported, listing those that are known.

    An installed package states its own among the entry points of `cloche.parts`, as alpaca = "my_parts:Alpaca"; they are loaded
    only for a name that is unknown otherwise.
    """
    found = _named(model_type)
    if not found and isinstance(model_type, str) and load_entries(model_type, "model_type"):
        found = _named(model_type)
    if not found:
        known = ", ".join(family.model_type for family in families())
        raise ModelUnsupported(
            f"model_type {shown(model_type)} is not one cloche reads; it reads {known} (add --import MODULE if it is your own)."
        )
    if len(modules := {type(family).__module__ for family in found}) > 1:
        raise ModelUnsupported(
            f"model_type {shown(model_type)} is read by families of {' and '.join(sorted(modules))}; import one of them."
        )
    return found[-1]  # a notebook cell run again defines its family again: the newest counts


def _named(model_type: object) -> list[Family]:
    return [family for family in families() if family.model_type == model_type]
