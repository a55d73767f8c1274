"""Batches: every token once an epoch, any step again, the cursor exact; validation windows count every byte."""

import json
import subprocess
import sys

import numpy as np
import pytest

from cloche.data import Batches, PackedTokens
from cloche.errors import ClocheError


def packed(count: int, shard: int = 100) -> PackedTokens:
    """Tokens 0 .. count-1 over shards: each token says where it stands."""
    row = np.arange(count, dtype="<u4")
    shards = [row[i : i + shard] for i in range(0, count, shard)]
    return PackedTokens(shards, {"bytes": 2 * count, "documents": 1}, end=count)


@pytest.mark.parametrize(
    ("count", "length", "batch"), [(1000, 10, 4), (1003, 10, 7), (997, 13, 5), (41, 10, 4), (65, 64, 1)]
)
def test_every_token_is_a_target_at_most_once_an_epoch_and_few_are_left_out(count: int, length: int, batch: int):
    batches = Batches(packed(count), length, batch, seed=3)
    rows = np.concatenate([batches.next() for _ in range(3 * batches.windows_per_epoch)])
    assert rows.shape[1] == length + 1
    assert np.array_equal((rows[:, 0, None] + np.arange(length + 1)) % count, rows)  # windows follow the ring of tokens
    per_epoch = count // length
    for epoch in range(len(rows) // per_epoch):
        targets = rows[epoch * per_epoch : (epoch + 1) * per_epoch, 1:].ravel()
        assert len(set(targets.tolist())) == len(targets) == per_epoch * length > count - length


def test_what_one_epoch_leaves_out_others_show():
    batches = Batches(packed(109), 10, 5, seed=0)
    seen = {int(token) for _ in range(20) for token in batches.next()[:, 1:].ravel()}
    assert seen == set(range(109))


def test_epochs_and_seeds_differ():
    batches = Batches(packed(10_000), 10, 10, seed=0)
    first, second = ([batches.at(step + epoch * 100)[0, 0] for step in range(100)] for epoch in (0, 1))
    other = [Batches(packed(10_000), 10, 10, seed=1).at(step)[0, 0] for step in range(100)]
    assert first != second and first != other and sorted(first) != list(first)


def test_any_step_again_without_moving_the_cursor():
    batches = Batches(packed(5000), 16, 8, seed=7)
    straight = [batches.next() for _ in range(100)]
    assert all(np.array_equal(batches.at(step), straight[step]) for step in (99, 0, 57))
    assert batches.state()["step"] == 100 and batches.epoch == 800 / 312


def test_the_cursor_is_json_and_exact_in_another_process():
    batches = Batches(packed(5000), 16, 8, seed=7)
    for _ in range(77):
        batches.next()
    state = json.dumps(batches.state())
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_batches import packed; from cloche.data import Batches\n"
        "b = Batches(packed(5000), 16, 8, seed=7); b.restore(json.loads(sys.argv[2]))\n"
        "print(json.dumps([b.next().tolist(), b.next().tolist()]))"
    )
    command = [sys.executable, "-c", code, str(__file__).rpartition("/")[0], state]
    there = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert there == [batches.next().tolist(), batches.next().tolist()]


@pytest.mark.parametrize("other", [{"length": 8}, {"batch": 4}, {"seed": 8}, {"tokens": 4999}])
def test_a_cursor_of_other_batches_is_refused(other: dict):
    settings = {"tokens": 5000, "length": 16, "batch": 8, "seed": 7}
    state = Batches(packed(5000), 16, 8, seed=7).state()
    (key,) = other
    settings |= other
    batches = Batches(packed(settings.pop("tokens")), **settings)
    with pytest.raises(ClocheError, match=f"saved with {key}"):
        batches.restore(state)


def test_a_corpus_smaller_than_one_batch_gets_a_sentence():
    Batches(packed(641), 64, 10)
    with pytest.raises(ClocheError, match=r"smaller than one batch: 640 tokens, but 10 windows of 64 tokens take 641"):
        Batches(packed(640), 64, 10)
    with pytest.raises(ClocheError, match="at least 1"):
        Batches(packed(640), 0, 10)


def test_windows_cross_shards():
    tokens = packed(1000, shard=7)
    assert len(tokens) == 1000
    for start, length in ((0, 1000), (3, 20), (6, 1), (7, 7), (999, 1), (1000, 0)):
        window = tokens.window(start, length)
        assert window.dtype == np.int64 and np.array_equal(window, np.arange(start, start + length))
    for start, length in ((-1, 3), (999, 2), (0, 1001)):
        with pytest.raises(IndexError):
            tokens.window(start, length)


@pytest.mark.parametrize(("count", "length", "batch"), [(1000, 10, 16), (1009, 10, 16), (7, 10, 2), (10, 10, 1)])
def test_validation_predicts_every_token_exactly_once(count: int, length: int, batch: int):
    byte_lengths = np.append(np.arange(count) % 5, 0)
    tokens, targets, total = packed(count), [], 0
    for x, size in tokens.validation_windows(length, byte_lengths, batch=batch):
        assert x.dtype == np.int64 and len(x) <= batch and x.shape[1] <= length + 1
        first = x[:, 0]
        assert all(before in (start - 1, tokens.end) for before, start in zip(first, x[:, 1], strict=True))
        targets += x[:, 1:].ravel().tolist()
        total += size
    assert targets == list(range(count)) and total == byte_lengths.sum()


def test_limited_validation_is_spread_and_never_overlaps():
    byte_lengths = np.append(np.arange(1009) % 5, 0)
    found = list(packed(1009).validation_windows(10, byte_lengths, limit=257, batch=4))
    targets = [token for x, _ in found for token in x[:, 1:].ravel().tolist()]
    assert len(targets) == 250 and targets == sorted(set(targets))
    assert targets[0] == 0 and targets[-1] > 950
    assert sum(size for _, size in found) == byte_lengths[targets].sum()
    assert sum(x.size for x, _ in packed(1009).validation_windows(10, byte_lengths, limit=10**9)) == 100 * 11


def test_tokens_and_batches_say_what_they_are():
    batches = Batches(packed(1003), 10, 7, seed=3)
    batches.next()
    assert repr(packed(1003)) == "PackedTokens(1,003 tokens, 2,006 bytes, 1 documents)"
    assert repr(batches) == "Batches(7 windows of 10 tokens, 100 windows per epoch, seed 3, step 1)"
