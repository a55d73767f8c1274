"""The onset of a curve over checkpoints."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 1_000
INTERVAL = (0.05, 0.95)
FEWEST_MOVES = 5  # moves from one checkpoint to the next that it takes to estimate their usual size
SPREADS = 2.0  # of the null, within which a gain does not count


class Onset(NamedTuple):
    """Index of the first checkpoint from which the headline stays above half of its gain, with its interval; None if the
    gain is within the null. `spread` is what the gain is compared with.

    >>> import numpy as np
    >>> from cloche.interp import Onset, find_onset
    >>> flat = find_onset(np.zeros((4, 2)), np.ones(1))
    >>> isinstance(flat, Onset), flat.at
    (True, None)
    """

    at: int | None
    low: int | None
    high: int | None
    gain: float
    spread: float


def find_onset(values: Array, nulls: Array, seed: int = 0, spreads: float = SPREADS) -> Onset:
    """The onset of values [checkpoint, prompt], compared with null values of any shape: see `trace`. There is none if the
    gain is within `spreads` spreads.

    >>> import numpy as np
    >>> from cloche.interp import find_onset
    >>> find_onset(np.array([[0.0, 0.1], [0.1, 0.0], [1.0, 0.9], [0.9, 1.0]]), np.zeros(1)).at
    2
    """
    rng = np.random.default_rng(seed)
    count = values.shape[1]
    resamples, mean = rng.integers(count, size=(RESAMPLES, count)), values.mean(1)
    gains = (values[-1] - values[0])[resamples].mean(1)
    gain = float(mean[-1] - mean[0])
    # A single prompt has no standard error; what it usually moves says as much.
    spread = max(float(nulls.std()) if nulls.size else _drift(mean), float(gains.std()) if count > 1 else _drift(mean))
    if not abs(gain) > spreads * spread:
        return Onset(None, None, None, gain, spread)
    if count < 2:
        return Onset(int(_above(mean[:, None])[0]), None, None, gain, spread)
    drawn = values[:, resamples].mean(2)  # [checkpoint, resample]
    low, high = np.quantile(_above(drawn), INTERVAL, method="nearest")
    return Onset(int(_above(mean[:, None])[0]), int(low), int(high), gain, spread)


def _drift(mean: Array) -> float:
    """Usual move of the mean from one checkpoint to the next, as a robust standard deviation that a single jump does not
    raise; 0 if there are too few checkpoints."""
    steps = np.abs(np.diff(mean))
    return float(1.4826 * np.median(steps)) if len(steps) >= FEWEST_MOVES else 0.0


def _above(means: Array) -> NDArray[np.int64]:
    """For each column of means [checkpoint, column], the first checkpoint from which it stays above half of its gain."""
    half = (means[0] + means[-1]) / 2
    below = (means - half) * np.sign(means[-1] - means[0]) <= 0
    return np.minimum(len(means) - below[::-1].argmax(0), len(means) - 1)  # a resample may gain nothing
