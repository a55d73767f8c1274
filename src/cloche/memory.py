"""How much memory this machine has, asked before anything large is built or read."""

from __future__ import annotations

import math
import os


def machine_memory() -> float:
    """Bytes of this machine's memory; infinite where the system does not say.

    >>> from cloche.memory import machine_memory
    >>> machine_memory() > 2**20
    True
    """
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf
