"""The spread of values among which some are far from the others."""

from __future__ import annotations

import numpy as np

TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution


def robust_deviation(values: np.ndarray) -> float:
    """The standard deviation of a normal distribution with the median absolute deviation of these values.

    >>> import numpy as np
    >>> from cloche.diagnose.robust import robust_deviation
    >>> robust_deviation(np.array([1.0, 2.0, 3.0, 4.0, 1000.0]))
    1.4826
    """
    return TO_SIGMA * float(np.median(np.abs(values - np.median(values))))
