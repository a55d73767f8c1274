"""Documents that are in a corpus more than once: exactly, or nearly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.data.duplicates.exact import ExactDuplicates
    from cloche.data.duplicates.near import NearDuplicates
    from cloche.data.duplicates.removal import Duplicates, Removed

__all__ = ["Duplicates", "ExactDuplicates", "NearDuplicates", "Removed"]

__getattr__ = lazy(__name__)
