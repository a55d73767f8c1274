"""Files -> documents: found, unpacked, decoded, recognised and read, whatever their size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.data.reading.read import Document, documents
    from cloche.data.reading.reading_report import ReadingReport

__all__ = ["Document", "ReadingReport", "documents"]

__getattr__ = lazy(__name__)
