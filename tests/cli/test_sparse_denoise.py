"""`cloche sparse denoise` on pictures, arrays and tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Call = Callable[..., tuple[int, str, str]]


def scene(height: int = 70, width: int = 90) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.where((y - 30) ** 2 + (x - 40) ** 2 < 500, 0.8, 0.2)


@pytest.mark.parametrize("dictionary", ["wavelet", "curvelet"])
def test_a_picture_comes_out_cleaner(call: Call, tmp_path: Path, dictionary: str) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    noisy = np.clip(255 * scene() + rng.normal(0, 20, (70, 90)), 0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / "in.png")
    code, out, err = call(
        "sparse", "denoise", tmp_path / "in.png", "--out", tmp_path / "o.png", "--dictionary", dictionary
    )
    assert (code, err) == (0, "")
    assert ("Padded" in out) == (dictionary == "wavelet")
    after = np.asarray(Image.open(tmp_path / "o.png"), dtype=float)
    assert np.std(after - 255 * scene()) < 0.6 * 20
    estimated = float(out.split("noise ")[1].split(" ")[0])
    assert estimated == pytest.approx(20, rel=0.2)


def test_a_table_keeps_its_other_columns(call: Call, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.sin(np.linspace(0, 6, 99)) + rng.normal(0, 0.2, 99)
    (tmp_path / "in.csv").write_text("t,y\n" + "".join(f"{i},{v}\n" for i, v in enumerate(y)))
    words = ("sparse", "denoise", tmp_path / "in.csv", "--out", tmp_path / "o.csv")
    code, _, err = call(*words)
    assert code == 1 and "--column" in err
    assert call(*words, "--column", "y", "--sigma", "0.2")[0] == 0
    table = np.genfromtxt(tmp_path / "o.csv", delimiter=",", names=True)
    np.testing.assert_array_equal(table["t"], np.arange(99))
    clean = np.sin(np.linspace(0, 6, 99))
    assert np.std(table["y"] - clean) < 0.7 * np.std(y - clean)
    assert call(*words, "--column", "y")[2].count("already") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dictionary", "ridgelet"), "unknown Transform 'ridgelet'"),
        (("--sigma", "much"), "is not a number"),
        (("--sigma", "-1"), "above zero"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(call: Call, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    np.save(tmp_path / "in.npy", scene())
    code, _, err = call("sparse", "denoise", tmp_path / "in.npy", "--out", tmp_path / "o.npy", *words)
    assert code == 1
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o.npy").exists()


def test_nan_is_refused(call: Call, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.full((32, 32), np.nan))
    code, _, err = call("sparse", "denoise", tmp_path / "in.npy", "--out", tmp_path / "o.npy")
    assert code == 1 and "NaN" in err
