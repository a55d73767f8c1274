"""Files -> documents: found, unpacked, decoded, recognised and read, whatever their size."""

from cloche.data.reading.read import Document, documents
from cloche.data.reading.report import Report

__all__ = ["Document", "Report", "documents"]
