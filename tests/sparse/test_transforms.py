"""Fixed dictionaries: exact both ways, true adjoints, and the coefficients an independent library computes."""

import numpy as np
import pytest
import pywt
import torch

from cloche.errors import ClocheError
from cloche.sparse.transforms import Transform, Wavelets, denoise, fitted, lasso, noise_level
from cloche.sparse.transforms.frequency import FrequencyFrame, Window

EXACT = 1e-6
IMAGE, SIGNAL = (64, 96), (128,)
CASES = [(name, IMAGE) for name in Transform.renamed] + [("wavelet", SIGNAL), ("biorthogonal", SIGNAL)]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(name: str, shape: tuple[int, ...]) -> Transform:
    transform = fitted(name, shape, levels=2).transform
    return transform.adapted(normal(*transform.shape, seed=5), 1.5)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_reconstruction_is_exact(name: str, shape: tuple[int, ...]) -> None:
    transform = made(name, shape)
    x = normal(2, 3, *transform.shape)
    back = transform.synthesise(transform.analyse(x))
    assert back.shape == x.shape
    assert float((back - x).abs().max()) < EXACT
    single = transform.synthesise(transform.analyse(x.float()))
    assert single.dtype == torch.float32
    assert float((single - x).abs().max()) < 1e-4


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_adjoints_are_adjoint(name: str, shape: tuple[int, ...]) -> None:
    transform = made(name, shape)
    x, c = normal(*transform.shape, seed=1), normal(transform.size, seed=2)
    scale = float(x.norm() * c.norm())
    analysed, synthesised = transform.analyse(x).flat, transform.synthesise(c)
    assert abs(float(analysed @ c - (x * transform.analyse_adjoint(c)).sum())) < EXACT * scale
    assert abs(float((synthesised * x).sum() - c @ transform.synthesise_adjoint(x).flat)) < EXACT * scale


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_both_ways_are_differentiable(name: str, shape: tuple[int, ...]) -> None:
    """The gradient of <c, A x> is A^T c, computed by torch's own chain rule rather than by our adjoint."""
    transform = made(name, shape)
    x = normal(*transform.shape, seed=1).requires_grad_()
    c = normal(transform.size, seed=2).requires_grad_()
    (transform.analyse(x).flat * c.detach()).sum().backward()
    torch.testing.assert_close(x.grad, transform.analyse_adjoint(c.detach()))
    (transform.synthesise(c) * x.detach()).sum().backward()
    torch.testing.assert_close(c.grad, transform.synthesise_adjoint(x.detach()).flat)


@pytest.mark.parametrize("name", ["haar", "db3", "db10", "sym8", "coif2", "bior4.4", "rbio3.1"])
@pytest.mark.parametrize("shape", [(16,), (64,), (32, 64)])
def test_wavelets_are_those_of_pywavelets(name: str, shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    ours = Wavelets(shape, name, 3).analyse(x)
    if len(shape) == 1:
        theirs = np.concatenate(pywt.wavedec(x.numpy(), name, "periodization", 3))
    else:
        coarse, *details = pywt.wavedec2(x.numpy(), name, "periodization", 3)
        theirs = np.concatenate([coarse.ravel(), *(band.ravel() for level in details for band in level)])
        np.testing.assert_allclose(ours["horizontal/1"], details[-1][0], atol=1e-10)
    np.testing.assert_allclose(ours.flat, theirs, atol=1e-10)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_the_noise_of_each_band_is_as_foretold(name: str, shape: tuple[int, ...]) -> None:
    transform = made(name, shape)
    gains = transform.noise_gains()
    noise = transform.analyse(normal(60, *transform.shape, seed=3))
    for band, values in noise.bands.items():
        assert float(values.std()) == pytest.approx(gains[band], rel=0.12), band


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_an_atom_is_found_where_it_was_put(name: str, shape: tuple[int, ...]) -> None:
    """A planted atom is its own largest coefficient's band, and the lasso explains it with few others."""
    transform = made(name, shape)
    band = transform.layout[-1].name
    x = transform.atom(band, dtype=torch.float64)
    found = transform.synthesise_adjoint(x)
    strongest = max(found.bands, key=lambda key: float(found[key].abs().max()))
    assert strongest == band
    a = lasso(x, transform, 0.02 * float(found.flat.abs().max()), steps=100)
    assert float((transform.synthesise(a) - x).norm() / x.norm()) < 0.2
    assert int((a.flat != 0).sum()) < transform.size / 10


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_denoising_helps_where_there_is_something_and_leaves_nothing_of_noise(
    name: str, shape: tuple[int, ...]
) -> None:
    ramp = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape]
    clean = (sum(torch.meshgrid(*ramp, indexing="ij")) > 0.3).double() if len(shape) == 2 else (ramp[0] > 0.3).double()
    noise = 0.1 * normal(*shape, seed=4)
    after = denoise(clean + noise, name, sigma=0.1)
    assert float((after - clean).norm()) < 0.9 * float(noise.norm())
    assert float(denoise(noise, name, sigma=0.1).norm()) < 0.5 * float(noise.norm())


def test_the_noise_level_is_found_and_the_edges_are_kept() -> None:
    smooth = torch.linspace(0, 3, 201, dtype=torch.float64).sin()
    assert noise_level(smooth + 0.2 * normal(201)) == pytest.approx(0.2, rel=0.25)
    assert denoise(smooth + 0.2 * normal(201), "wavelet").shape == (201,)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Wavelets((64,), "db99"), "There is no wavelet 'db99'"),
        (lambda: Wavelets((64,), "dmey"), "do not reconstruct"),
        (lambda: Wavelets((65, 64)), "pad the signal to"),
        (lambda: Wavelets((64,)).analyse(torch.full((64,), torch.nan)), "NaN"),
        (lambda: Wavelets((64,)).analyse(torch.zeros(32)), "does not fit"),
        (lambda: Wavelets((64,)).analyse(torch.zeros(64, dtype=torch.int64)), "float32 or float64"),
        (lambda: Wavelets((64,)).synthesise(torch.zeros(32)), "do not fit bands"),
        (lambda: Wavelets((64,)).analyse(torch.zeros(64))["fine"], "There is no band 'fine'"),
        (lambda: Wavelets((64,)).analyse(torch.zeros(64)).largest(65), "65 terms"),
        (lambda: fitted("ridgelet", (64, 64)), "unknown Transform 'ridgelet'"),
        (lambda: fitted("wavelet", (8, 8)), "too small"),
        (lambda: denoise(torch.zeros(64), "wavelet"), "is not a positive noise level"),
    ],
)
def test_what_cannot_be_is_one_sentence(ask, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ClocheError, match=said):
        ask()


class Halves(FrequencyFrame):
    """Windows of somebody else's that leave half of the plane out."""

    shape = (8, 8)

    def _windows(self):
        values = np.ones(self.shape)
        values[:, 4:] = 0
        return [Window("left", 0, values, self.shape)]


def test_windows_with_a_hole_are_refused() -> None:
    with pytest.raises(ClocheError, match="leave frequencies that none of them covers"):
        _ = Halves().windows
