"""Files -> documents: found, unpacked, decoded, recognised and read, whatever their size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.data.reading.read import Document, documents
    from cloche.data.reading.report import Report

__all__ = ["Document", "Report", "documents"]

__getattr__ = lazy(__name__)
