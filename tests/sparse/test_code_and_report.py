"""Codes, dictionaries and the report, against dense arithmetic."""

import pytest
import torch

from cloche.errors import ClocheError
from cloche.sparse import SAE, Code, Dictionary, SyntheticFeatures, isotropic_noise, report


class Exact:
    """An encoder that knows the answer, whatever it is shown."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def encode(self, x: torch.Tensor) -> Code:
        return self.code


def test_decode_equals_the_dense_product() -> None:
    planted = SyntheticFeatures(width=12, features=30, active=3)
    x, code = planted.sample(50)
    assert len(code) == 50 and code.k == 3 and code.dense().shape == (50, 30)
    torch.testing.assert_close(code.dense() @ planted.dictionary.atoms, x, atol=1e-5, rtol=1e-5)
    shifted = Dictionary(planted.dictionary.atoms, torch.full((12,), 2.0))
    torch.testing.assert_close(shifted.decode(code), x + 2)
    assert torch.equal(code.counts(), (code.dense() != 0).sum(0))


def test_unused_slots_count_for_nothing() -> None:
    code = Code(torch.tensor([[0, 2], [1, 1]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]]), 4)
    assert code.active.tolist() == [1, 1]
    assert code.counts().tolist() == [1, 1, 0, 0]
    assert code.dense().tolist() == [[1, 0, 0, 0], [0, 3, 0, 0]]


def test_report_of_a_perfect_and_of_an_empty_code() -> None:
    planted = SyntheticFeatures(width=12, features=30, active=3)
    x, code = planted.sample(1_000)
    perfect = report(Exact(code), planted.dictionary, x, truth=planted.dictionary.atoms)
    assert perfect.fvu < 1e-10 and perfect.l0 == 3 and perfect.cosine == pytest.approx(1)
    assert perfect.counts.tolist() == code.counts().tolist()
    histogram = perfect.density_histogram(10)
    assert len(histogram["edges"]) == 11 and sum(histogram["counts"]) == 30 * (1 - perfect.dead_share)
    nothing = Code(code.indices, torch.zeros_like(code.values), 30)
    empty = report(Exact(nothing), Dictionary(planted.dictionary.atoms, x.mean(0)), x)
    assert empty.fvu == pytest.approx(1, rel=1e-4) and empty.l0 == 0 and empty.dead_share == 1


def test_report_over_pieces_equals_the_whole_even_far_from_the_origin() -> None:
    x = isotropic_noise(9_000, 16) + 500
    sae = SAE(16, 64, 4)
    whole = report(sae, sae.dictionary, x)
    pieces = report(sae, sae.dictionary, x.split(1_234))
    assert pieces.fvu == pytest.approx(whole.fvu, rel=1e-9) and pieces.l0 == whole.l0
    error = (x - sae.decode(sae.encode(x))).double().square().sum()
    assert whole.fvu == pytest.approx(float(error / (x - x.double().mean(0)).square().sum()), rel=1e-6)


def test_encode_gives_raw_units_and_no_negative_values() -> None:
    sae = SAE(8, 16, 4)
    with torch.no_grad():
        sae.scale.fill_(0.01)
    x = isotropic_noise(100, 8) * 100
    code = sae.encode(x)
    assert code.values.min() >= 0 and code.values.max() > 10
    with torch.no_grad():
        torch.testing.assert_close(sae(x), sae.decode(code), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SAE(8, 16, 17), "choose an l0 above 0 and at most 16"),
        (lambda: SAE(8, 16, 0), "choose an l0 above 0 and at most 16"),
        (lambda: SAE(8, 16, 4).encode(torch.zeros(3, 9)), "do not fit this dictionary of width 8"),
        (lambda: SAE(8, 16, 4).encode(torch.full((3, 8), torch.nan)), "3 of 3 activations are NaN"),
        (lambda: Dictionary(torch.zeros(4)), r"must be \[atoms, width\]"),
        (lambda: Dictionary(torch.full((4, 2), torch.inf)), "atoms contain NaN"),
        (lambda: Code(torch.zeros(2, 3), torch.zeros(2, 4), 9), "the same shape"),
        (
            lambda: Dictionary(torch.ones(4, 2)).decode(Code(torch.zeros(1, 1).long(), torch.ones(1, 1), 5)),
            "over 5 atoms",
        ),
        (lambda: report(SAE(8, 16, 4), SAE(8, 16, 4).dictionary, []), "no activations"),
        (lambda: report(SAE(8, 16, 4), SAE(8, 16, 4).dictionary, torch.ones(5, 8)), "identical"),
        (lambda: report(SAE(8, 16, 4), SAE(8, 16, 4).dictionary, torch.ones(5, 7)), r"must be \[n, 8\]"),
    ],
)
def test_misuse_gets_one_sentence(make, sentence: str) -> None:
    with pytest.raises(ClocheError, match=sentence):
        make()
