"""The gain that a rectified norm starts from, against scipy's root finder."""

from __future__ import annotations

import math

import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

from cloche.model.norms import _before_rectifying


@pytest.mark.parametrize("rms", [0.02, 1.0, 7.0])
@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0, 30.0])
def test_the_starting_gain_is_the_root_to_float64(rms: float, shift: float) -> None:
    def second_moment(g: float) -> float:
        """Of relu(g z - shift) for a normal z, by quadrature."""
        low = shift / g

        def density(z: float) -> float:
            return (g * z - shift) ** 2 * math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

        return quad(density, low, low + 40, epsabs=0, epsrel=1e-12, limit=200)[0]

    wanted = brentq(lambda g: second_moment(g) - rms**2, rms, 2 * rms + 4 * shift, xtol=1e-15 * (rms + shift))
    assert _before_rectifying(rms, shift) == pytest.approx(wanted, rel=1e-12)
