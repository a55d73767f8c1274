"""The generation engine."""

from cloche.decode.generation import Generation, generate, stream
from cloche.decode.layout import lay_by_columns
from cloche.decode.sampling import Sampling
from cloche.decode.session import Session

__all__ = ["Generation", "Sampling", "Session", "generate", "lay_by_columns", "stream"]
