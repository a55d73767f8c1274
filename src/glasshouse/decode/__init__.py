"""The generation engine."""

from glasshouse.decode.generate import Generation, generate, stream
from glasshouse.decode.layout import lay_by_columns
from glasshouse.decode.sampling import Sampling
from glasshouse.decode.session import Session

__all__ = ["Generation", "Sampling", "Session", "generate", "lay_by_columns", "stream"]
