import random
from itertools import pairwise

from cloche.text.sample import BLOCK, even_sample


def lines(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [f"{i:06d} " + "x" * rng.randrange(5, 200) + "\n" for i in range(count)]


def test_a_short_stream_is_kept_whole():
    texts = ["".join(lines(300)), "", "end"]
    assert "".join(even_sample(texts, 10**6)) == "".join(texts)


def test_a_long_stream_is_covered_evenly_within_the_limit():
    text = "".join(lines(40_000))
    limit = 400_000
    kept = even_sample([text], limit)
    assert limit / 2 - BLOCK <= sum(map(len, kept)) <= limit
    firsts = [int(block[:6]) for block in kept]
    gaps = [b - a for a, b in pairwise(firsts)]
    assert firsts[0] == 0 and firsts[-1] > 36_000
    assert max(gaps) < 1.5 * min(gaps)
    assert all(block.endswith("\n") and len(block) <= BLOCK for block in kept)


def test_how_the_stream_is_cut_into_texts_hardly_matters_and_never_loses_text():
    text = "é" * 30_000  # no line end at all
    assert "".join(even_sample([text], 10**6)) == text
    assert even_sample([], 10) == [] and even_sample(["", ""], 10) == []
