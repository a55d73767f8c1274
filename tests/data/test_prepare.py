"""From files to packed shards: exact counts, both sides, the same bytes again, and what an interruption leaves."""

import hashlib
import json

import numpy as np
import pytest

from cloche.data import PackedTokens, pack, prepare
from cloche.data.pack import write_index
from cloche.errors import ClocheError
from cloche.text import Tokenizer, train_bpe

TEXTS = {f"{i:02d}.md": f"# Chapter {i}\n\nSome <|endoftext|> text é 中 {i * 7919}.\r\n" * (20 + i) for i in range(40)}


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_bytes(text.encode())
    return folder


def unpacked(folder, split: str) -> list[str]:
    """The documents of a split, decoded from its shards."""
    tokens, tok = PackedTokens.open(folder, split), Tokenizer.load(folder)
    ids = tokens.window(0, len(tokens))
    assert ids[-1] == tok.end
    return [tok.decode(part[part != tok.end]) for part in np.split(ids, np.flatnonzero(ids == tok.end) + 1)[:-1]]


def test_the_text_comes_back_and_every_number_is_exact(corpus, tmp_path):
    index = prepare([corpus], tmp_path / "run", vocab=400, validation=0.1)
    assert json.loads((tmp_path / "run/data/data.json").read_text()) == index
    tok = Tokenizer.load(tmp_path / "run")
    assert (index["vocab"], index["dtype"], index["end"]) == (tok.vocab, "uint16", tok.end)
    held_out = unpacked(tmp_path / "run", "validation")
    sides = {"train": [text for text in TEXTS.values() if text not in held_out], "validation": held_out}
    assert 0.1 <= index["splits"]["validation"]["bytes"] / sum(len(text.encode()) for text in TEXTS.values()) < 0.2
    for split, summary in index["splits"].items():
        texts = [text for text in TEXTS.values() if text in sides[split]]
        assert texts and unpacked(tmp_path / "run", split) == texts
        assert summary["documents"] == len(texts)
        assert summary["bytes"] == sum(len(text.encode()) for text in texts)
        tokens = PackedTokens.open(tmp_path / "run/data", split)
        assert len(tokens) == summary["tokens"] and tokens.bytes == summary["bytes"]
        assert tok.byte_lengths[tokens.window(0, len(tokens))].sum() == summary["bytes"]
        assert sum(size for _, size in tokens.validation_windows(33, tok.byte_lengths)) == summary["bytes"]
        for shard in summary["shards"]:
            data = (tmp_path / "run/data" / shard["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == shard["sha256"] and len(data) == 2 * shard["tokens"]
    assert index["sources"]["files"] == 40 and index["sources"]["formats"] == {"text": 40}
    assert index["sources"]["split"].startswith(next(name for name in TEXTS if TEXTS[name] in held_out) + ", ")


def test_the_tokenizer_never_sees_the_validation_side(corpus, tmp_path):
    prepare([corpus], tmp_path / "run", vocab=400, validation=["3*.md"])
    training = [text for name, text in TEXTS.items() if not name.startswith("3")]
    train_bpe(training, 400).save(tmp_path / "alone")
    assert (tmp_path / "run/tokenizer.json").read_bytes() == (tmp_path / "alone/tokenizer.json").read_bytes()


def test_twice_gives_the_same_bytes(corpus, tmp_path):
    for run in ("one", "two"):
        prepare([corpus], tmp_path / run, vocab=400)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 5
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_small_shards_and_pieces_change_nothing(corpus, tmp_path, monkeypatch):
    prepare([corpus], tmp_path / "one", vocab=400)
    monkeypatch.setattr(pack, "SHARD_TOKENS", 1000)
    monkeypatch.setattr(pack, "BATCH_TEXTS", 3)
    index = prepare([corpus], tmp_path / "two", vocab=Tokenizer.load(tmp_path / "one"))
    assert len(index["splits"]["train"]["shards"]) > 5
    assert {shard["tokens"] for shard in index["splits"]["train"]["shards"][:-1]} == {1000}
    for split in ("train", "validation"):
        one, two = (PackedTokens.open(tmp_path / run, split) for run in ("one", "two"))
        assert np.array_equal(one.window(0, len(one)), two.window(0, len(two)))


def test_a_large_vocabulary_takes_four_bytes(corpus, tmp_path):
    tok = train_bpe(["abc"], 300)
    wide = json.loads(tok._text)
    wide["model"]["vocab"]["far away"] = 70_000
    index = prepare([corpus], tmp_path / "run", vocab=Tokenizer.from_dict(wide, {"eos_token": "<|endoftext|>"}))
    assert index["dtype"] == "uint32" and index["vocab"] == 70_001
    assert unpacked(tmp_path / "run", "train")[0] == TEXTS["00.md"]


def test_a_lone_file_validates_on_its_end(tmp_path):
    text = "".join(f"line {i}\n" for i in range(5000))
    (tmp_path / "a.txt").write_text(text)
    prepare([tmp_path / "a.txt"], tmp_path / "run", vocab=300)
    (train,), (validation,) = (unpacked(tmp_path / "run", split) for split in ("train", "validation"))
    assert train + validation == text and 0.05 <= len(validation) / len(text) < 0.051
    assert validation.startswith("line ")


def test_progress_is_told_in_bytes_of_files(corpus, tmp_path):
    told: list[tuple[str, int, int]] = []
    prepare([corpus], tmp_path / "run", vocab=400, on_progress=lambda *now: told.append(now))
    total = sum(len(text.encode()) for text in TEXTS.values())
    assert {stage for stage, _, _ in told} == {"tokenizer", "packing"} and {t for _, _, t in told} == {total}
    for stage in ("tokenizer", "packing"):
        done = [d for s, d, _ in told if s == stage]
        assert done == sorted(done) and done[-1] == total


def test_an_interrupted_packing_is_recognised_and_done_anew(corpus, tmp_path):
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "packing" and done > total // 2:
            raise KeyboardInterrupt

    prepare([corpus], tmp_path / "whole", vocab=400)
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], tmp_path / "run", vocab=400, on_progress=interrupt)
    assert list((tmp_path / "run").iterdir()) == []
    with pytest.raises(ClocheError, match=r"no data\.json, so no corpus was packed there to the end"):
        PackedTokens.open(tmp_path / "run", "train")
    prepare([corpus], tmp_path / "run", vocab=400)
    files = {path.name: path.read_bytes() for path in (tmp_path / "run/data").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "whole/data").iterdir()}


@pytest.mark.parametrize("name", ["data/train-00000.bin", "data/measurements.bin", "tokenizer.json", "data"])
def test_a_folder_with_files_of_its_own_is_left_alone(corpus, tmp_path, name):
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    with pytest.raises(ClocheError, match="name another folder"):
        prepare([corpus], tmp_path / "run", vocab=400)
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [file]
    assert file.read_bytes() == b"mine"


def test_a_finished_packing_is_not_overwritten(corpus, tmp_path):
    prepare([corpus], tmp_path / "run", vocab=400)
    with pytest.raises(ClocheError, match="already holds a packed corpus"):
        prepare([corpus], tmp_path / "run", vocab=400)


def test_a_damaged_shard_or_index_gets_a_sentence(corpus, tmp_path):
    index = prepare([corpus], tmp_path / "run", vocab=400)
    shard = tmp_path / "run/data/train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ClocheError, match=r"train-00000\.bin has \d+ bytes"):
        PackedTokens.open(tmp_path / "run", "train")
    shard.unlink()
    with pytest.raises(ClocheError, match=r"train-00000\.bin cannot be read"):
        PackedTokens.open(tmp_path / "run", "train")
    with pytest.raises(ClocheError, match="no split 'test'; it has train, validation"):
        PackedTokens.open(tmp_path / "run", "test")
    write_index(tmp_path / "run/data", index)
    (tmp_path / "run/data/data.json").write_text("{")
    with pytest.raises(ClocheError, match="cannot be read"):
        PackedTokens.open(tmp_path / "run", "train")


def test_a_tokenizer_without_an_end_token_is_refused(corpus, tmp_path):
    no_end = json.loads(train_bpe(["abc"], 300)._text)
    no_end["added_tokens"] = []
    no_end["model"]["vocab"]["other"] = no_end["model"]["vocab"].pop("<|endoftext|>")
    with pytest.raises(ClocheError, match="no end-of-document token"):
        prepare([corpus], tmp_path / "run", vocab=Tokenizer.from_dict(no_end, {}))


def test_progress_of_records_begins_with_measuring(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "some words of it"}\n' * 300)
    (tmp_path / "b.md").write_text("some more\n" * 100)
    told: list[tuple[str, int, int]] = []
    index = prepare([tmp_path], tmp_path / "run", vocab=300, on_progress=lambda *now: told.append(now))
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["measuring", "tokenizer", "packing"]
    assert index["sources"]["formats"] == {"JSON lines": 1, "text": 1}
    assert all(done <= total == index["sources"]["size"] for _, done, total in told)


def test_a_corpus_of_one_byte_gets_a_sentence(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ClocheError, match="no text is left to the train side"):
        prepare([tmp_path], tmp_path / "run", vocab=train_bpe(["abc"], 300))


def test_a_full_disk_gets_a_sentence(corpus, tmp_path, monkeypatch):
    def full(writer, ids, document):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack._Writer, "add", full)
    with pytest.raises(ClocheError, match=r"cannot write .*No space left.*free some space"):
        prepare([corpus], tmp_path / "run", vocab=400)


def test_an_out_that_is_a_file_gets_a_sentence(corpus, tmp_path):
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(ClocheError, match="is a file"):
        prepare([corpus], tmp_path / "run", vocab=400)


def test_the_books_split_by_hand(shared, tmp_path):
    """Whole books held out by patterns; every byte accounted for."""
    shelf = ("Aesop__Aesop_s_Fables", "H.G._Wells__The_Time_Machine", "Lewis_Carroll__Through_the_Looking-Glass")
    books = [shared(f"text/books/{name}.md") for name in shelf]
    index = prepare(books, tmp_path / "run", vocab=1000, validation=["Aesop*", "*Time_Machine.md"])
    sizes = [book.stat().st_size for book in books]
    assert [index["splits"][split]["bytes"] for split in ("train", "validation")] == [sizes[2], sizes[0] + sizes[1]]
    assert [index["splits"][split]["documents"] for split in ("train", "validation")] == [1, 2]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab", "x"),
        ("vocab", []),
        ("dtype", "x"),
        ("dtype", -1),
        ("end", []),
        ("splits", None),
        ("splits", {"train": 3}),
        ("splits", {"train": {"shards": [{"file": 1, "tokens": "x"}]}}),
    ],
)
def test_an_index_with_values_of_other_types_is_refused(key, value, tmp_path):
    (tmp_path / "notes.txt").write_text("the cat sat on the mat. " * 400)
    prepare([tmp_path / "notes.txt"], tmp_path / "corpus", vocab=270, validation=0.1)
    index = next((tmp_path / "corpus").rglob("data.json"))
    index.write_text(json.dumps({**json.loads(index.read_text()), key: value}))
    with pytest.raises(ClocheError, match="does not list packed text"):
        PackedTokens.open(tmp_path / "corpus", "train")
