"""One table for autoencoders, learned atoms and fixed families: the blame falls where it was planted."""

import pytest
import torch

from cloche.errors import ClocheError
from cloche.sparse import SAE, Dictionary, SyntheticFeatures, Training, gap_table, train_sae
from cloche.sparse.learners import KSVD
from cloche.sparse.pursuit import OMP, NonNegativeOMP
from cloche.sparse.transforms import Wavelets

PLANTED = SyntheticFeatures(width=32, features=64, active=3, zipf=0.5)


def careless() -> SAE:
    """The true atoms behind an encoder that knows nothing of them."""
    sae = SAE(32, 64, 3, seed=0)
    with torch.no_grad():
        sae.decoder.copy_(PLANTED.dictionary.atoms)
    return sae


def test_every_row_is_blamed_for_what_is_its_own() -> None:
    held, code = PLANTED.sample(1_000, seed=9)
    x = PLANTED.sample(20_000)[0]
    waves = OMP(k=3).over(Wavelets((32,), "db2", 3).dictionary())
    learned = {
        "careless": careless(),
        "SAE": train_sae(x, 64, 3, Training(steps=200, batch=512, lr=1e-2), seed=1)[0],
        "K-SVD": KSVD(64, OMP(k=3)).fit(x[:3_000])[1],
        "wavelets": waves,
        "truth": OMP(k=3).over(PLANTED.dictionary),
    }
    table = gap_table(learned, held, PLANTED.dictionary, code)
    rows = {row.name: row for row in table.rows}
    assert list(rows) == list(learned)
    assert rows["careless"].gap.of_encoder > 0.3 > 0.02 > abs(rows["careless"].gap.of_dictionary or 0)
    assert rows["careless"].same is not None and rows["careless"].same.f1 > 0.9 > 0.3 > rows["careless"].own.f1
    assert rows["wavelets"].gap.of_dictionary > 0.3 and rows["wavelets"].gap.of_encoder == pytest.approx(0, abs=1e-6)
    assert rows["wavelets"].own.cosine < 0.5 < 0.9 < rows["SAE"].own.cosine
    assert isinstance(rows["SAE"].gap.pursuit.pursuit, NonNegativeOMP)
    assert isinstance(rows["K-SVD"].gap.pursuit.pursuit, OMP) and rows["K-SVD"].gap.own.fvu < 0.2
    assert rows["truth"].gap.own.fvu == pytest.approx(rows["truth"].gap.best.fvu) and rows["truth"].own.f1 > 0.95
    assert table.truth is not None and table.truth[1].cosine == pytest.approx(1)
    text = str(table).splitlines()
    assert len(text) == 8 and text[-1].startswith("the true atoms") and "F1" in text[0]
    assert len({len(line) for line in text}) == 1


def test_an_atom_used_negatively_counts_as_its_opposite() -> None:
    held, code = PLANTED.sample(1_000, seed=9)
    upside_down = Dictionary(PLANTED.dictionary.atoms * torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)[:, None])
    table = gap_table({"turned": OMP(k=3).over(upside_down)}, held, PLANTED.dictionary, code)
    own = table.rows[0].own
    assert own is not None and table.truth is not None
    assert own.cosine == pytest.approx(1, abs=1e-5) and own.f1 == pytest.approx(table.truth[1].f1, abs=1e-3)
    assert own.shrinkage == pytest.approx(1, abs=0.05)


def test_without_the_truth_nothing_is_graded() -> None:
    held = PLANTED.sample(500, seed=9)[0]
    table = gap_table({"careless": careless()}, held)
    assert table.truth is None and table.rows[0].own is None and table.rows[0].gap.of_dictionary is None
    assert "F1" not in str(table)


def test_the_atoms_of_a_fixed_family_are_a_dictionary() -> None:
    family = Wavelets((8, 8), "db2", 2)
    dictionary = family.dictionary(torch.float64)
    assert isinstance(dictionary, Dictionary) and (dictionary.size, dictionary.width) == (64, 64)
    torch.testing.assert_close(dictionary.gram, torch.eye(64, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(dictionary.atoms[0].view(8, 8), family.atom("coarse", (0, 0), torch.float64))


def test_misuse_gets_one_sentence() -> None:
    held, code = PLANTED.sample(100)
    with pytest.raises(ClocheError, match="at least one"):
        gap_table({}, held)
    with pytest.raises(ClocheError, match="give both or neither"):
        gap_table({"careless": careless()}, held, code=code)
