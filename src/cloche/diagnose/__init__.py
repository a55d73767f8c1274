"""Why a run goes as it goes, or will."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.diagnose.doctor.examine import examine

__all__ = ["examine"]

__getattr__ = lazy(__name__)
