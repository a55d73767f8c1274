"""Duplicates: planted copies are found, nothing else is; the first is kept, and the validation side stays as it is."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cloche.data import (
    Document,
    Duplicates,
    ExactDuplicates,
    Mixture,
    NearDuplicates,
    PackedTokens,
    Source,
    documents,
    prepare_mixture,
    standard_library,
)
from cloche.data.duplicates import Removed, near
from cloche.data.duplicates.shingles import WordHashes, shingles
from cloche.errors import ClocheError
from cloche.part import part_from_line

VOCABULARY = np.array([f"w{i}" for i in range(5000)])


def texts(count: int, seed: int, least: int = 100, most: int = 500) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [rng.choice(VOCABULARY, size=rng.integers(least, most)).tolist() for _ in range(count)]


def edited(words: list[str], share: float, rng: np.random.Generator) -> list[str]:
    out = list(words)
    for place in rng.choice(len(out), size=max(1, int(share * len(out))), replace=False):
        out[place] = f"edited{rng.integers(10**9)}"
    return out


def jaccard(one: list[str], other: list[str]) -> float:
    a, b = ({tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (one, other))
    return len(a & b) / len(a | b)


def found(rule: Duplicates, *sides: tuple[str, str]) -> Removed:
    pieces = [(side, Document(str(i), text)) for i, (side, text) in enumerate(sides)]
    return rule.find(lambda: iter(pieces))


def training(rule: Duplicates, words: list[list[str]]) -> Removed:
    return found(rule, *(("train", " ".join(each)) for each in words))


def test_planted_near_copies_are_found_and_nothing_below_the_threshold_is():
    """The true similarity of each planted pair is counted, on sets of words that share no code with the search."""
    rng, originals = np.random.default_rng(1), texts(300, seed=0)
    copies = [edited(words, rng.uniform(0.002, 0.045), rng) for words in originals[:250]]
    truth = np.array([jaccard(one, other) for one, other in zip(originals, copies, strict=False)])
    removed = training(NearDuplicates(threshold=0.8), originals + copies)
    assert not removed.drop[:300].any()
    dropped, above = removed.drop[300:], truth >= 0.8
    assert above.sum() > 100 and (~above).sum() > 50
    assert dropped[above].mean() >= 0.95 and not dropped[~above].any()
    near_threshold = above & (truth < 0.85)
    assert near_threshold.sum() > 20 and dropped[near_threshold].mean() >= 0.95
    assert removed.figures["near"] == removed.figures["documents"] == dropped.sum() and removed.figures["exact"] == 0


@pytest.mark.parametrize("rule", [ExactDuplicates(), NearDuplicates(), NearDuplicates(threshold=0.5)])
def test_a_corpus_without_duplicates_loses_nothing(rule: Duplicates):
    removed = training(rule, texts(300, seed=3))
    assert not removed.drop.any() and removed.figures["documents"] == removed.figures["bytes"] == 0


@pytest.mark.parametrize("rule", [ExactDuplicates(), NearDuplicates()])
def test_the_first_is_kept_unless_validation_has_it_which_is_never_touched(rule: Duplicates):
    a, b, c = ("the cat sat on the mat today", "a dog", "one two three four five six seven")
    spaced = "the  cat sat\non the mat today "  # the same words
    order = [("train", a), ("validation", b), ("train", spaced), ("train", b), ("validation", b), ("train", c)]
    assert found(rule, *order, ("validation", c)).drop.tolist() == [False, False, True, True, False, True, False]


def test_exact_means_the_same_words_in_the_same_order():
    pairs = [("a b", "ab"), ("a b c", "a c b"), ("a b", "a b b"), ("A b", "a b")]
    for one, other in pairs:
        assert not found(ExactDuplicates(), ("train", one), ("train", other)).drop.any()


def test_of_a_chain_each_that_is_like_one_that_is_kept_goes():
    """b is like a, c like b but not like a: b goes, and c stays, since what it is like is not kept."""
    rng = np.random.default_rng(5)
    (a,) = texts(1, seed=6, least=400, most=401)
    b = edited(a, 0.015, rng)
    c = edited(b, 0.015, rng)
    assert jaccard(a, b) > 0.8 < jaccard(b, c) and jaccard(a, c) < 0.8
    assert training(NearDuplicates(threshold=0.8), [a, b, c]).drop.tolist() == [False, True, False]


@pytest.mark.parametrize("bytes_at_once", [500, near.BYTES])
def test_documents_in_pieces_are_what_they_are_in_one(bytes_at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(near, "BYTES", bytes_at_once)
    rng, originals = np.random.default_rng(0), texts(20, seed=8)
    words = originals + [edited(each, 0.01, rng) for each in originals[:10]] + originals[10:15]
    whole = [" ".join(each) for each in words] + ["few words", "few words", "", " "]

    def pieces(size: int) -> list[tuple[str, Document]]:
        cut = []
        for i, text in enumerate(whole):
            parts = [text[j : j + size] for j in range(0, len(text), size)] or [""]
            cut += [("train", Document(str(i), part, j == len(parts) - 1)) for j, part in enumerate(parts)]
        return cut

    for rule in (ExactDuplicates(), NearDuplicates()):
        straight = rule.find(lambda: iter(pieces(10**6)))
        for size in (7, 200):
            cut = pieces(size)
            again = rule.find(lambda cut=cut: iter(cut))
            assert again.drop.tolist() == straight.drop.tolist() and again.figures == straight.figures
            kept = [document.name for _, document in again.kept(cut) if document.last]
            assert kept == [str(i) for i in np.flatnonzero(~again.drop)]
    assert straight.drop[30:35].all() and straight.drop.tolist()[35:] == [False, True, False, True]


def test_hashes_of_words_are_those_of_the_same_words_anywhere():
    hashes = WordHashes()
    first, _ = hashes.of(b"cat dog  cat\ncats")
    second, starts = hashes.of(b"   dog cat")
    assert first[0] == first[2] == second[1] and first[1] == second[0] and len(set(first.tolist())) == 3
    assert starts.tolist() == [3, 7] and len(hashes.of(b"  ")[0]) == 0
    words = np.array([1, 2, 3, 1, 2, 3, 9], dtype=np.uint64)
    found, of = shingles(words, np.array([0, 3, 3, 6, 7]), size=2)
    assert (
        of.tolist() == [0, 0, 2, 2, 3] and found[:2].tolist() == found[2:4].tolist() and len(set(found.tolist())) == 3
    )


def test_signatures_agree_as_often_as_sets_do():
    """The chance that a bin agrees is the Jaccard similarity, also of texts with fewer shingles than bins."""
    rng = np.random.default_rng(0)
    for size in (60, 2000):
        agree = []
        for _ in range(60):
            common, one, other = (
                rng.integers(2**63, size=n, dtype=np.uint64) for n in (size // 2, size // 4, size // 4)
            )
            sets = [np.concatenate([common, each]) for each in (one, other)]
            minima = near._minima(np.concatenate(sets), np.repeat([0, 1], [len(each) for each in sets]), 2)
            a, b = near._dense(minima)
            agree.append((a == b).mean())
        assert np.mean(agree) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_bands_bring_together_99_of_100_pairs_at_the_threshold(threshold: float):
    bands, rows = NearDuplicates(threshold=threshold).bands
    assert bands * rows <= near.BINS and 1 - (1 - threshold**rows) ** bands >= 0.99


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    originals = texts(30, seed=2, least=60, most=90)
    rng = np.random.default_rng(0)
    records = [*originals, *originals[:5], *(edited(words, 0.001, rng) for words in originals[5:8])]
    lines = [json.dumps({"text": " ".join(words)}) for words in records]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "held.txt").write_text(" ".join(originals[9]))
    return tmp_path


def test_what_is_left_out_is_counted_and_neither_packed_nor_learned_from(corpus: Path):
    mixture = Mixture((Source((str(corpus / "a.jsonl"), str(corpus / "held.txt"))),))
    index = prepare_mixture(
        mixture, corpus / "run", vocab=300, validation=["held.txt"], duplicates=NearDuplicates(threshold=0.7)
    )
    figures = index["sources"]["duplicates"]
    assert figures["documents"] == 9 and figures["exact"] == 6 and figures["near"] == 3 and figures["bytes"] > 1000
    assert figures["rule"] == "NearDuplicates(threshold=0.7, words=5)"
    assert PackedTokens.open(corpus / "run", "train").documents == 29 and index["sources"]["documents"] == 39
    (corpus / "b.jsonl").write_text("\n".join((corpus / "a.jsonl").read_text().splitlines()[:30]))
    lines = (corpus / "b.jsonl").read_text().splitlines()
    (corpus / "b.jsonl").write_text("\n".join(lines[:9] + lines[10:]))
    other = Mixture((Source((str(corpus / "b.jsonl"), str(corpus / "held.txt"))),))
    prepare_mixture(other, corpus / "clean", vocab=300, validation=["held.txt"])
    for name in ("tokenizer.json", "data/train-00000.bin", "data/validation-00000.bin"):
        assert (corpus / "run" / name).read_bytes() == (corpus / "clean" / name).read_bytes()


def test_a_corpus_that_is_one_text_over_and_over_keeps_one(tmp_path: Path):
    for i in range(8):
        (tmp_path / f"{i}.txt").write_text("the same words in every file " * 20)
    mixture = Mixture((Source((str(tmp_path),)),))
    with pytest.raises(ClocheError, match="Every training document has its like on the validation side"):
        prepare_mixture(mixture, tmp_path / "run", vocab=300, validation=["3.txt"], duplicates=ExactDuplicates())


def test_a_rule_of_ones_own():
    @dataclass(frozen=True)
    class Long(Duplicates):
        most: int = 3

        def find(self, read):
            return Removed(np.array([len(document.text) > self.most for _, document in read()]))

    assert found(Long(), ("train", "abc"), ("train", "abcd")).drop.tolist() == [False, True]


@pytest.mark.parametrize(
    "line", ["NearDuplicates(threshold=0)", "NearDuplicates(threshold=nan)", "NearDuplicates(words=0)"]
)
def test_settings_out_of_range_get_a_sentence(line: str):
    with pytest.raises(ClocheError, match="must lie between"):
        part_from_line(line, Duplicates)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "3", "[1]", "true"])
def test_records_whose_text_is_no_text_get_a_sentence(value: str, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "words"}\n{"text": ' + value + "}\n")
    with pytest.raises(ClocheError, match=r"a\.jsonl:2 (holds a|is)|Field 'text' of .*a\.jsonl:2"):
        list(documents([tmp_path / "a.jsonl"]))
    (tmp_path / "a.jsonl").write_text('{"text": "words"}\n{"text": null}\n')
    assert [document.text for document in documents([tmp_path / "a.jsonl"])] == ["words"]


@pytest.mark.slow
def test_the_standard_library_has_few_and_those_are_true():
    """A real corpus: every file that is left out has its like among those kept, by sets of words."""
    read = [(document.name, document.text) for document in documents(standard_library())]
    words = [text.split() for _, text in read]
    removed = training(NearDuplicates(threshold=0.8), words)
    assert removed.drop.sum() < 0.05 * len(words)
    for i in np.flatnonzero(removed.drop):
        kept = [j for j in range(i) if not removed.drop[j] and len(words[j]) < 2 * len(words[i])]
        assert max(jaccard(words[i], words[j]) for j in kept) >= 0.8
