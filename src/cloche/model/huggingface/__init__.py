"""Hugging Face checkpoints in and out: one file of names a family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.model.huggingface.averaged import put_average
    from cloche.model.huggingface.files import describe, load_network, save_network
    from cloche.model.huggingface.shards import weight_files

__all__ = ["describe", "load_network", "put_average", "save_network", "weight_files"]

__getattr__ = lazy(__name__)
