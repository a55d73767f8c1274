"""`cloche sparse learn`, `encode` and `atoms` on pictures, series, tables and arrays; what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cloche.cli import main
from cloche.errors import ClocheError
from cloche.part import part_from_line
from cloche.sparse import Code, Dictionary, SyntheticFeatures
from cloche.sparse.learners import Learner, OnlineDictionaryLearning
from cloche.sparse.learners.keep import Card, load_dictionary, save_dictionary
from cloche.sparse.learners.patches import draw, tiling
from cloche.sparse.pictures import atoms_of, picture
from cloche.sparse.pursuit import OMP
from cloche.sparse.transforms import Wavelets

Call = Callable[..., tuple[int, str, str]]
PLANTED = SyntheticFeatures(width=16, features=18, active=2, zipf=0.0)


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Call:
    """`verb("learn", ...)` is the exit code, stdout and stderr of `cloche sparse learn ...`."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["sparse", *(str(word) for word in words)])
        return (end.value.code, *capsys.readouterr())  # type: ignore[return-value]

    return run


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    y, x = np.mgrid[:90, :110]
    values = 110 + 60 * np.sin(x / 5 + y / 9) + 50 * ((y - 40) ** 2 + (x - 50) ** 2 < 600)
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    np.save(tmp_path / "rows.npy", PLANTED.sample(3_000)[0].numpy())
    return tmp_path / "rows.npy"


@pytest.mark.parametrize("method", ["online", "ksvd", "itda"])
def test_a_picture_is_learned_coded_and_comes_back(verb: Call, tmp_path: Path, scene: Path, method: str) -> None:
    words = ("learn", scene, "--out", tmp_path / "d", "--atoms", 64, "--k", 4, "--count", 3_000, "--method", method)
    code, out, err = verb(*words)
    assert (code, err) == (0, "")
    assert "64 atoms from 3,000 pieces of 8 x 8" in out
    dictionary, card = load_dictionary(tmp_path / "d")
    assert (dictionary.size, card.sides, card.level, card.k) == (64, (8, 8), True, 4)
    assert Image.open(tmp_path / "d" / "atoms.png").size[0] > 64
    code, out, err = verb(
        "encode", tmp_path / "d", scene, "--out", tmp_path / "c.npz", "--decoded", tmp_path / "back.png"
    )
    assert (code, err) == (0, "")
    held = np.load(tmp_path / "c.npz")
    assert held["grid"].tolist() == [1, 12, 14] and held["shape"].tolist() == [90, 110]
    assert (held["values"] != 0).sum(1).max() <= 4
    pieces = dictionary.decode(
        Code(*(torch.from_numpy(held[name]) for name in ("indices", "values")), int(held["size"]))
    )
    before, after = (np.asarray(Image.open(path), dtype=float) for path in (scene, tmp_path / "back.png"))
    assert np.std(after - before) < 0.15 * np.std(before)
    corner = 255 * (pieces[0] + held["means"][0]).reshape(8, 8).numpy()
    assert np.abs(corner - after[:8, :8]).max() < 1


def test_rows_are_learned_and_coded_as_the_library_does(verb: Call, tmp_path: Path, rows: Path) -> None:
    code, out, _ = verb("learn", rows, "--out", tmp_path / "d", "--atoms", 18, "--k", 2, "--passes", 10)
    assert code == 0 and "18 atoms from 3,000 signals of width 16" in out
    dictionary, card = load_dictionary(tmp_path / "d")
    assert card == Card((), False, card.method, 2, 3_000)
    assert part_from_line(card.method, Learner) == OnlineDictionaryLearning(18, OMP(2), passes=10)
    cosine = (PLANTED.dictionary.atoms @ dictionary.atoms.T).abs().amax(1)
    assert (cosine > 0.99).double().mean() > 0.8
    for method, words in (("omp", ()), ("lasso", ("--penalty", 0.1)), ("iht", ("--k", 2)), ("mp", ("--k", 3))):
        target = tmp_path / f"{method}.npz"
        assert verb("encode", tmp_path / "d", rows, "--out", target, "--method", method, *words)[0] == 0
        held = np.load(target)
        assert held["indices"].shape == held["values"].shape and len(held["values"]) == 3_000
        assert not held["means"].any() and "grid" not in held
    assert verb("encode", tmp_path / "d", rows, "--out", tmp_path / "e.npz", "--decoded", tmp_path / "e.npy")[0] == 0
    x, back = np.load(rows), np.load(tmp_path / "e.npy")
    assert ((x - back) ** 2).sum() < 0.05 * (x**2).sum()


def test_series_and_tables(verb: Call, tmp_path: Path) -> None:
    t = np.arange(2_000)
    wave = np.sign(np.sin(t / 7)) + 0.5 * np.sin(t**1.3 / 50)
    (tmp_path / "s.csv").write_text("t,y\n" + "".join(f"{a},{b}\n" for a, b in zip(t, wave, strict=True)))
    words = ("--out", tmp_path / "d", "--atoms", 40, "--k", 2, "--piece", 16, "--count", 2_000)
    code, out, err = verb("learn", tmp_path / "s.csv", "--column", "y", *words)
    assert (code, err) == (0, "") and "pieces of 16" in out
    words = ("--out", tmp_path / "c.npz", "--decoded", tmp_path / "back.csv")
    assert verb("encode", tmp_path / "d", tmp_path / "s.csv", "--column", "y", *words)[0] == 0
    table = np.genfromtxt(tmp_path / "back.csv", delimiter=",", names=True)
    np.testing.assert_array_equal(table["t"], t)
    assert np.mean((table["y"] - wave) ** 2) < 0.1 * np.var(wave)
    np.savetxt(tmp_path / "rows.csv", PLANTED.sample(300)[0].numpy(), delimiter=",")
    code, out, _ = verb("learn", tmp_path / "rows.csv", "--out", tmp_path / "r", "--atoms", 20, "--k", 2)
    assert code == 0 and "300 signals of width 16" in out
    np.savez(tmp_path / "both.npz", a=np.eye(4), b=wave)
    code, _, err = verb("learn", tmp_path / "both.npz", "--out", tmp_path / "z")
    assert code == 1 and "contains the arrays a, b" in err


def test_atoms_of_fixed_and_learned_dictionaries_are_drawn(verb: Call, tmp_path: Path) -> None:
    assert verb("atoms", "curvelet", "--out", tmp_path / "c.png", "--side", 32)[0] == 0
    save_dictionary(PLANTED.dictionary, tmp_path / "d", Card(sides=(4, 4)))
    assert verb("atoms", tmp_path / "d", "--out", tmp_path / "d.png")[0] == 0
    assert Image.open(tmp_path / "d.png").mode == "L"
    code, _, err = verb("atoms", "ridgelet", "--out", tmp_path / "r.png")
    assert code == 1 and "no transform of that name" in err


def test_a_picture_shows_each_atom_by_its_own_largest_magnitude() -> None:
    sheet = picture(torch.tensor([[[0.0, 1.0], [-1.0, 0.5]], [[0.0, 8.0], [8.0, -8.0]]]), columns=2)
    side = 24
    assert sheet.shape == (side + 2, 2 * side + 3)
    assert [sheet[1, 1], sheet[1, side], sheet[side, 1], sheet[side, side]] == [128, 255, 0, 191]
    assert sheet[side, 2 * side + 1] == 0 and sheet[0, 0] == 255
    curve = picture(torch.linspace(-1, 1, 32)[None])
    assert curve[1:-1, 1:-1].argmin(0)[0] == 31 and curve[1:-1, 1:-1].argmin(0)[-1] == 0
    bands = atoms_of(Wavelets((32, 32), "db4", 2))
    assert bands.shape == (7, 32, 32)
    with pytest.raises(ClocheError, match="cannot be shaped"):
        atoms_of(PLANTED.dictionary, (3, 3))


@pytest.mark.parametrize(("shape", "sides"), [((2, 33), (8,)), ((1, 17, 30), (4, 8)), ((3, 8, 8), (8, 8))])
def test_pieces_join_to_what_they_were_cut_from(shape: tuple[int, ...], sides: tuple[int, ...]) -> None:
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    tiles = tiling(whole, sides)
    assert torch.equal(tiles.join(tiles.cut(whole)), whole)
    corner = whole[(0, *(slice(side) for side in sides))]
    assert torch.equal(tiles.cut(whole)[0], corner.flatten())
    drawn = draw(whole, sides, 20, seed=1)
    assert torch.isin(drawn, whole).all() and torch.equal(drawn, draw(whole, sides, 20, seed=1))


def test_a_dictionary_comes_back_as_it_was_and_damage_is_seen(tmp_path: Path) -> None:
    kept = Dictionary(PLANTED.dictionary.atoms, torch.ones(16))
    folder = save_dictionary(kept, tmp_path / "d", Card((4, 4), True, "ksvd", 3, 99))
    found, card = load_dictionary(folder)
    assert torch.equal(found.atoms, kept.atoms) and found.bias is not None and torch.equal(found.bias, torch.ones(16))
    assert card == Card((4, 4), True, "ksvd", 3, 99)
    with pytest.raises(ClocheError, match="already"):
        save_dictionary(kept, folder)
    stated = json.loads((folder / "dictionary.json").read_text())
    (folder / "dictionary.json").write_text(json.dumps(stated | {"sha256": "0"}))
    with pytest.raises(ClocheError, match="half-written or damaged"):
        load_dictionary(folder)
    (folder / "dictionary.json").write_text("{")
    with pytest.raises(ClocheError, match="not readable as JSON"):
        load_dictionary(folder)
    with pytest.raises(ClocheError, match=r"has no dictionary\.json"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "svd"), "unknown Learner 'svd'"),
        (("--method", "itda", "--passes", 3), "leave out --passes"),
        (("--k", 999), "k = 999 atoms"),
        (("--k", 0), "k = 0 atoms"),
        (("--atoms", 5_000), "5,000 atoms cannot be learned from 3,000 signals"),
        (("--atoms", 0), "atoms is 0"),
        (("--count", 0), "--count is 0"),
        (("--piece", 0), "--piece is 0"),
        (("--passes", 0), "passes is 0"),
    ],
)
def test_what_cannot_be_learned_is_one_sentence(
    verb: Call, tmp_path: Path, rows: Path, words: tuple[object, ...], said: str
) -> None:
    code, _, err = verb("learn", rows, "--out", tmp_path / "d", *words)
    assert code == 1 and said in err and err.count("\n") == 1
    assert not (tmp_path / "d").exists()


def test_files_that_cannot_be_learned_from(verb: Call, tmp_path: Path, rows: Path, scene: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((30, 4), np.nan))
    np.save(tmp_path / "flat.npy", np.ones((30, 4)))
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    (tmp_path / "ragged.csv").write_text("1,2\n3\n")
    (tmp_path / "x.txt").write_text("1")
    for names, said in (
        (["nan.npy"], "contains NaN at [0, 0]"),
        (["flat.npy"], "with 1 distinct directions"),
        (["words.npy"], "it contains text"),
        (["ragged.csv"], "Line 2 of"),
        (["x.txt"], "has an unsupported file type"),
        (["none.npy"], "There is no file"),
        (["rows.npy", "scene.png"], "different kinds"),
    ):
        code, _, err = verb("learn", *(tmp_path / n for n in names), "--out", tmp_path / "d", "--atoms", 4, "--k", 2)
        assert code == 1 and said in err and err.count("\n") == 1, (names, err)
    code, _, err = verb("learn", scene, "--out", tmp_path / "d", "--piece", 200)
    assert code == 1 and "Pieces of 200 x 200" in err


def test_what_cannot_be_encoded_is_one_sentence(verb: Call, tmp_path: Path, rows: Path, scene: Path) -> None:
    save_dictionary(PLANTED.dictionary, tmp_path / "d", Card(k=2))
    save_dictionary(PLANTED.dictionary, tmp_path / "nameless", Card())
    np.save(tmp_path / "wide.npy", np.ones((3, 17)))
    (tmp_path / "there.npz").write_bytes(b"")
    out = tmp_path / "c.npz"
    for words, said in (
        (("d", "rows.npy", "--out", out, "--method", "best"), "unknown Pursuit 'best'"),
        (("d", "rows.npy", "--out", out, "--method", "lasso"), "Lasso needs --penalty; give it"),
        (("d", "rows.npy", "--out", out, "--penalty", 1), "OMP has no setting for --penalty, only k, residual"),
        (
            ("d", "rows.npy", "--out", out, "--k", 25),
            "k = 25 atoms per signal cannot be selected from a dictionary of 18",
        ),
        (("nameless", "rows.npy", "--out", out), "needs a stopping rule"),
        (("nameless", "rows.npy", "--out", out, "--method", "iht"), "IHT needs --k; give it"),
        (("d", "wide.npy", "--out", out), "do not fit a dictionary"),
        (("d", "scene.png", "--out", out), "the dictionary is one of rows"),
        (("d", "rows.npy", "--out", tmp_path / "c.txt"), "is not an .npz file"),
        (("d", "rows.npy", "--out", tmp_path / "there.npz"), "exists already"),
        (("none", "rows.npy", "--out", out), "has no dictionary.json"),
        (("d", "rows.npy", "--out", out, "--decoded", tmp_path / "b.png"), "cannot store rows"),
    ):
        code, _, err = verb("encode", tmp_path / words[0], tmp_path / words[1], *words[2:])
        assert code == 1 and said in err and err.count("\n") == 1, (words, err)
    assert not (tmp_path / "b.png").exists()
