"""Analogies: a planted attribute is found, random vectors hold none, and the controls are what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import cloche
from cloche import GLU, LM, Attention, Block, Stack
from cloche.errors import ArgumentInvalid, ClocheError, FileMissing, PromptInvalid, RecordInvalid, SiteUnsuitable
from cloche.interp import Materials, analogies, find_instrument, read_options
from cloche.interp.probing.offsets import mean_cosine, three_cos_add
from cloche.interp.probing.wordpairs import read_pairs, relations
from cloche.model import Network

WORDS = Path(__file__).parents[3] / "shared/data/interp/questions-words.txt"
PAIRS = {"plural": [(i, 100 + i) for i in range(20)], "past": [(i, 200 + i) for i in range(20, 40)]}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(vocab: int = 300) -> Network:
    return LM(vocab, 16, Stack(2, Block(Attention(2), GLU()))).build(seed=0)


def plant(weight: torch.Tensor, noise: float = 0.0) -> None:
    """Second words are first words plus a direction of their relation."""
    with torch.no_grad():
        weight.copy_(drawn(*weight.shape))
        for i, pairs in enumerate(PAIRS.values()):
            for first, second in pairs:
                weight[second] = weight[first] + 2 * drawn(weight.shape[1], seed=7 + i) + noise * weight[second]


@pytest.mark.parametrize("site", ["unembed", "embed", "resid_post[1]"])
def test_a_planted_attribute_is_found(site: str) -> None:
    net = model()
    plant(net.unembed.weight if site == "unembed" else net.embed.weight)  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in net.layers:
            layer.mix.out.weight.zero_()
            layer.map.outer.weight.zero_()
    found = analogies(cloche.Glass(net), PAIRS, site)
    for key in ("cosine", "cosine_causal", "accuracy", "accuracy_left_out"):
        assert found.figures[key] == pytest.approx(1.0, abs=1e-4), key
        assert found.null[key] < 0.8, key
    assert found.figures["p"] == 0.01
    assert found.data["relations"][0]["cosine_frequent"] == pytest.approx(0.0, abs=0.25)
    assert found.arrays["cosines"].shape == (2,) and found.arrays["cosines_null"].shape == (99, 2)


def test_random_vectors_hold_no_analogies() -> None:
    net = model()
    with torch.no_grad():
        net.unembed.weight.copy_(drawn(300, 16, seed=3))  # type: ignore[operator]
    found = analogies(cloche.Glass(net), PAIRS)
    assert abs(found.figures["cosine"]) < 0.05 and found.figures["p"] > 0.05
    assert found.figures["accuracy"] < 0.1 and all(row["p_frequent"] > 0.02 for row in found.data["relations"])


def test_with_the_query_words_the_nearest_is_a_query_word() -> None:
    net = model()
    plant(net.unembed.weight)  # type: ignore[arg-type]
    with torch.no_grad():  # a small attribute: c + b - a is nearest to c
        for first, second in (pair for pairs in PAIRS.values() for pair in pairs):
            net.unembed.weight[second] -= 0.97 * (net.unembed.weight[second] - net.unembed.weight[first])  # type: ignore[operator, index]
            net.unembed.weight[second] += 0.1 * drawn(16, seed=second)  # type: ignore[operator, index]
    found = analogies(cloche.Glass(net), PAIRS)
    assert found.figures["accuracy"] > 0.9 > 0.7 > found.figures["accuracy_with_query"]
    assert found.data["relations"][0]["accuracy_without_offset"] > 0.9  # so the offset did not find it


def test_3cosadd_is_the_published_formula() -> None:
    vectors, pairs = drawn(40, 6), torch.tensor([[i, 20 + i] for i in range(6)])
    vectors[20:26] = vectors[:6] + drawn(6, seed=1) + 0.8 * drawn(6, 6, seed=2)
    queries = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    queries = queries[queries[:, 0] != queries[:, 1]]
    hits = [0, 0]
    for i, j in queries.tolist():
        a, b, c, d = *pairs[i].tolist(), *pairs[j].tolist()
        scores = torch.cosine_similarity(vectors, (vectors[c] + vectors[b] - vectors[a])[None])
        hits[1] += int(scores.argmax()) == d
        scores[[a, b, c]] = -1
        hits[0] += int(scores.argmax()) == d
    unit = torch.nn.functional.normalize(vectors, dim=1)
    assert three_cos_add(vectors, unit, pairs, queries) == pytest.approx([hit / 30 for hit in hits])
    assert 0 < hits[1] < hits[0] < 30
    offsets = vectors[20:26] - vectors[:6]
    cosines = torch.cosine_similarity(offsets[:, None], offsets[None], dim=2)
    assert float(mean_cosine(offsets)) == pytest.approx(float((cosines.sum() - 6) / 30), abs=1e-6)


def test_the_causal_inner_product_does_not_depend_on_the_basis() -> None:
    net = model()
    plant(net.unembed.weight, noise=0.3)  # type: ignore[arg-type]
    before = analogies(cloche.Glass(net), PAIRS)
    with torch.no_grad():
        net.unembed.weight.copy_(net.unembed.weight @ (drawn(16, 16, seed=5) + 3 * torch.eye(16)))  # type: ignore[operator]
    after = analogies(cloche.Glass(net), PAIRS)
    assert after.figures["cosine_causal"] == pytest.approx(before.figures["cosine_causal"], abs=1e-3)
    assert abs(after.figures["cosine"] - before.figures["cosine"]) > 0.01


def tokenizer() -> cloche.Tokenizer:
    text = "cat cats dog dogs hen hens cow cows pig pigs ant ants "
    return cloche.train_bpe([text * 50], vocab=340)


def test_only_words_of_one_token_count_and_the_summary_says_so(tmp_path: Path) -> None:
    file = tmp_path / "animals.txt"
    file.write_text(
        ": plural\ncat cats dog dogs\nhen hens cow cows\npig pigs hippopotamus hippopotamuses\ncat cats ant ants\n"
    )
    text = tokenizer()
    glass = cloche.Glass(model(text.vocab), text)
    found = relations(glass, file)
    assert found.given == {"plural": 7} and len(found.pairs["plural"]) == 6 and found.form == " {}"
    assert found.pairs["plural"][0] == (text.encode(" cat")[0], text.encode(" cats")[0])
    result = analogies(glass, file, "resid_post[0]", context="The", windows=["cat cats dogs " * 20])
    assert result.summary.startswith("6 of 7 pairs are of two single tokens, in 1 of 1 relations")
    assert result.data["candidates"] == 12  # at a site, the words of the pairs
    name, function = find_instrument("analogies")
    options = read_options(name, function, {"pairs": [str(file)], "site": ["embed"]}, Materials(glass, paths=True))
    assert analogies(glass, **options).data["site"] == "embed"


def test_the_file_of_analogies_is_read() -> None:
    if not WORDS.is_file():
        pytest.skip("needs ../shared/data/interp/questions-words.txt")
    found = read_pairs(WORDS)
    assert len(found) == 14 and len(found["family"]) == 23 and found["family"][0] == ("boy", "girl")


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    glass = cloche.Glass(model())
    file = tmp_path / "words.txt"
    file.write_text(": plural\ncat cats\ncat\n")
    cases: list[tuple[Any, dict[str, Any], type[ClocheError], str]] = [
        (PAIRS, {"site": "mlp_act[0]"}, SiteUnsuitable, "of the residual stream"),
        (PAIRS, {"site": "resid_post.all"}, SiteUnsuitable, "2 sites"),
        ({"plural": [(0, 1), (2, 3), (4, 4), (5, 5)]}, {}, PromptInvalid, "no relation has more than 2"),
        ({"plural": [(0, 300)] * 4}, {}, ArgumentInvalid, "token from 0 to 299"),
        ({"plural": [("cat", "cats")] * 4}, {}, PromptInvalid, "token ids"),
        ({"plural": ["cat"]}, {}, ArgumentInvalid, "pairs by relation"),
        (["cat"], {}, ArgumentInvalid, "pairs by relation"),
        ({}, {}, PromptInvalid, "no relation"),
        (file, {}, RecordInvalid, r"words.txt:3 has 1 words"),
        (tmp_path / "none.txt", {}, FileMissing, "none.txt"),
    ]
    for pairs, options, error, message in cases:
        with pytest.raises(error, match=message):
            analogies(glass, pairs, **options)
