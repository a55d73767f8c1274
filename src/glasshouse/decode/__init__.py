"""The generation engine."""

from glasshouse.decode.generate import Generation, generate, stream
from glasshouse.decode.sampling import Sampling
from glasshouse.decode.session import Session

__all__ = ["Generation", "Sampling", "Session", "generate", "stream"]
