"""Frames and banks of directions: tight, as redundant as they say, and each direction where it belongs."""

import numpy as np
import pytest
import torch

from cloche.errors import ClocheError
from cloche.sparse.transforms import (
    Bandlets,
    Contourlets,
    Curvelets,
    DirectionalFilterBank,
    SteerablePyramid,
    Transform,
)

FRAMES = [
    SteerablePyramid((64, 96), 3, 4),
    SteerablePyramid((65, 51), 3, 3),
    Curvelets((64, 96), 3),
    Curvelets((65, 51), 3, 6),
    DirectionalFilterBank((64, 96), 2),
    DirectionalFilterBank((64, 96), 4),
    Contourlets((64, 96), 3, 3),
]


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_the_frame_is_tight_and_reconstructs(frame: Transform) -> None:
    x = torch.randn(2, *frame.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    c = frame.analyse(x)
    assert float((frame.synthesise(c) - x).abs().max()) < 1e-10
    assert float(c.flat.norm()) == pytest.approx(float(x.norm()), rel=1e-10)


def test_as_redundant_as_they_say() -> None:
    assert DirectionalFilterBank((64, 96), 4).redundancy == 1
    assert Contourlets((64, 96), 3, 3).redundancy == pytest.approx(1 + 1 / 4 + 1 / 16 + 1 / 64)
    assert Curvelets((256, 256)).redundancy < 10


def test_the_bank_of_directions_is_a_basis() -> None:
    """Its synthesis matrix is orthogonal both ways, which a merely tight frame's is not."""
    bank = DirectionalFilterBank((16, 16), 3)
    atoms = bank.synthesise(torch.eye(bank.size, dtype=torch.float64)).flatten(1)
    torch.testing.assert_close(atoms @ atoms.T, torch.eye(256, dtype=torch.float64))


@pytest.mark.parametrize("frame", [SteerablePyramid((64, 64), 3, 4), Curvelets((64, 64), 3, 8)], ids=str)
def test_a_wave_answers_in_its_own_direction(frame: Transform) -> None:
    y, x = torch.meshgrid(*(torch.arange(64, dtype=torch.float64),) * 2, indexing="ij")
    for angle, share in [(0.0, 0), (np.pi / 4, 1 / 4), (np.pi / 2, 1 / 2)]:
        wave = torch.cos(2 * np.pi * np.round(np.array([12 * np.cos(angle), 12 * np.sin(angle)]))[0] / 64 * x
                         + 2 * np.pi * np.round(12 * np.sin(angle)) / 64 * y)  # fmt: skip
        energy = {name: float(band.norm()) for name, band in frame.analyse(wave).bands.items()}
        best = max(energy, key=lambda name: energy[name])
        kind, scale, direction = best.split("/")
        count = sum(name.startswith(f"{kind}/{scale}/") for name in energy)
        assert int(direction) == round(share * count)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Curvelets((64, 64), 6), "use 1 to 4 levels"),
        (lambda: SteerablePyramid((64, 64), 6), "use 1 to 4 levels"),
        (lambda: Contourlets((60, 64)), "pad the signal to"),
        (lambda: Contourlets((64, 64), name="bior4.4"), "orthogonal wavelet"),
        (lambda: DirectionalFilterBank((64, 64), 1), "use 2 or more"),
    ],
)
def test_what_cannot_be_made_is_said(make, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ClocheError, match=said):
        make()


def test_bandlets_find_the_geometry_of_stripes_and_none_in_noise() -> None:
    y, x = torch.meshgrid(*(torch.arange(64, dtype=torch.float64),) * 2, indexing="ij")
    plain = Bandlets((64, 64), 2)
    stripes = torch.sin(0.9 * (x + 2 * y))
    adapted = plain.adapted(stripes, 0.3)
    few = [float((t.synthesise(t.analyse(stripes).largest(300)) - stripes).norm()) for t in (plain, adapted)]
    assert few[1] < 0.9 * few[0]
    noise = torch.randn(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directed = [g for g in plain.adapted(noise, 4.0).geometry if g >= 0]
    assert len(directed) < 0.02 * len(plain.adapted(noise, 4.0).geometry)
