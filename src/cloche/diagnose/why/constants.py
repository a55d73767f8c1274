"""The constants of the verdict: of each question its threshold and slope, of each cause its weight."""

from __future__ import annotations

from typing import NamedTuple


class Constant(NamedTuple):
    """A threshold, and the slope of the support about it in its logarithm."""

    threshold: float
    slope: float = 1.0


CONSTANTS = {
    "harm": Constant(1.0, 4.0),
    "hurt": Constant(0.25, 3.0),
    "pace": Constant(1.0, 2.0),
    "rate above default": Constant(4.0, 2.0),
    "slow": Constant(0.03, 3.0),
    "rate below default": Constant(0.1, 3.0),
    "behind": Constant(0.5, 4.0),
    "no warm-up": Constant(2.0, 4.0),
    "rush": Constant(1.0, 3.0),
    "not normalised": Constant(0.3, 4.0),
    "large": Constant(2.0, 6.0),
    "unlike": Constant(1.0, 4.0),
    "passing": Constant(0.4, 4.0),
    "setback": Constant(1.0, 4.0),
    "lasting": Constant(0.6, 4.0),
    "noise": Constant(0.4, 4.0),
    "bits": Constant(13.0, 12.0),
    "louder": Constant(2.5, 6.0),
    "nominal": Constant(2.0, 6.0),
    "sharper": Constant(3.0, 6.0),
    "peaked": Constant(0.5, 4.0),
    "decayed": Constant(2.0, 4.0),
    "shrunk": Constant(0.6, 4.0),
    "repeated": Constant(6.0, 4.0),
    "gap": Constant(0.6, 4.0),
    "still": Constant(0.1, 6.0),
    "whole": Constant(13.0, 12.0),
    "weight rate": Constant(0.85),
    "weight rate_low": Constant(0.9),
    "weight warmup": Constant(0.95),
    "weight norm": Constant(0.95),
    "weight initialisation": Constant(0.97),
    "weight batch": Constant(0.97),
    "weight poison": Constant(0.99),
    "weight precision": Constant(0.99),
    "weight branch": Constant(0.97),
    "weight attention": Constant(0.97),
    "weight decay": Constant(0.97),
    "weight overfitting": Constant(0.97),
    "weight frozen": Constant(0.99),
}
