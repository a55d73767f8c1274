"""The trained tokenizer: what it loses (nothing), what it repeats (everything), what it refuses."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from nasty import NASTY, random_text
from tokenizers import Regex, pre_tokenizers

from cloche.errors import ClocheError
from cloche.text import END, Tokenizer, bpe, train_bpe
from cloche.text.splitting import SPLIT_PATTERN


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_nasty_text_round_trips_with_exact_bytes(small: Tokenizer, text: str):
    ids = small.encode(text)
    assert small.decode(ids) == text
    assert small.decode_bytes(ids) == text.encode()
    assert small.byte_lengths[ids].sum() == len(text.encode())
    assert small.end not in ids


def test_random_text_round_trips_with_exact_bytes(small: Tokenizer):
    texts = [random_text(seed) for seed in range(400)]
    for text, ids in zip(texts, small.encode_batch(texts), strict=True):
        assert small.decode(ids) == text
        assert small.decode_bytes(ids) == text.encode()
        assert small.byte_lengths[ids].sum() == len(text.encode())


def test_layout_of_the_vocabulary(small: Tokenizer):
    assert small.vocab == 1024
    assert small.end == 0 and small.byte_lengths[0] == 0
    assert [small.decode_bytes([1 + byte]) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert (small.byte_lengths[1:] > 0).all()
    assert len({small.decode_bytes([i]) for i in range(257, 1024)}) == 767


def test_byte_tokens_are_not_special_and_do_not_swallow_text(small: Tokenizer, tmp_path):
    small.save(tmp_path)
    written = json.loads((tmp_path / "tokenizer.json").read_text())
    assert [added["content"] for added in written["added_tokens"]] == [END]
    newline = 1 + ord("\n")
    assert newline not in small.encode("<0x0A>")


def test_a_rare_character_falls_back_to_its_bytes(small: Tokenizer):
    assert [small.decode_bytes([i]) for i in small.encode("\U0001f409")] == [b"\xf0", b"\x9f", b"\x90", b"\x89"]


def test_training_on_text_full_of_special_spellings_is_harmless():
    tok = train_bpe(["<0x0A> <|endoftext|> <0x0A>\n"] * 500, vocab=400)
    text = "<0x0A> <|endoftext|>\n"
    ids = tok.encode(text)
    assert tok.end not in ids and tok.decode(ids) == text and tok.decode_bytes(ids) == text.encode()


def test_merges_equal_a_direct_reading_of_the_algorithm():
    """Byte-pair encoding by its definition (Sennrich et al. 2016) on words small enough for a slow loop."""
    text = "the cat and the hat sat on that mat; then the rat that ate the bat sat there. " * 3
    tok = train_bpe([text], vocab=257 + 40)
    words = Counter(w for w, _ in pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated").pre_tokenize_str(text))
    pieces = {word: list(word) for word in words}
    learned = [tok.decode([i]) for i in range(257, tok.vocab)]
    alphabet = sorted(set(text))
    assert learned[: len(alphabet)] == alphabet
    for token in learned[len(alphabet) :]:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in zip(pieces[word], pieces[word][1:], strict=False):
                pairs[pair] += times
        best = max(pairs.values())
        (pair,) = [pair for pair in pairs if "".join(pair) == token and pairs[pair] == best][:1]
        for word in words:
            pieces[word] = merge(pieces[word], pair)


def merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def test_the_same_text_gives_the_same_file_in_another_process(small: Tokenizer, tmp_path, library_text):
    corpus = tmp_path / "texts.json"
    corpus.write_text(json.dumps(library_text))
    code = (
        "import json, sys; from cloche.text import train_bpe\n"
        f"train_bpe(json.load(open({str(corpus)!r})), vocab=1024).save({str(tmp_path)!r})"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "true"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    small.save(tmp_path / "here")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert digest(tmp_path / name) == digest(tmp_path / "here" / name)


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_code_is_split_at_indentation_and_digits_by_three(small: Tokenizer):
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated")
    words = [word for word, _ in split.pre_tokenize_str("if x:\n        y = self.z_w + 12345\n\nend")]
    assert words == ["if", " x", ":\n        ", "y", " =", " self", ".z", "_w", " +", " 123", "45", "\n\n", "end"]
    assert len(small.encode("\n        ")) == 1


def test_compression_beats_gpt4s_pattern_on_code(library_text):
    """The claim in splitting.py, on a smaller sample: same trainer, only the pattern differs."""
    gpt4 = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    )
    held_out = library_text[::5]
    counts = {}
    for name, pattern in (("ours", SPLIT_PATTERN), ("gpt4", gpt4)):
        tokens, merges = bpe._learn_merges([t for i, t in enumerate(library_text) if i % 5], 1024, ALPHABET, pattern)
        tok = Tokenizer.from_dict(bpe._tokenizer_json(tokens, merges, pattern), {})
        counts[name] = sum(map(len, tok.encode_batch(held_out)))
    assert counts["ours"] < 0.97 * counts["gpt4"]


ALPHABET = [chr(c) for c in (*range(0x20, 0x7F), 9, 10)]


def test_a_corpus_too_small_for_the_vocabulary_gives_fewer_tokens():
    tok = train_bpe(["abc abc"], vocab=4096)
    assert 257 < tok.vocab < 300
    assert tok.decode(tok.encode("abc äbc")) == "abc äbc"


@pytest.mark.parametrize(
    ("texts", "vocab", "says"), [([], 4096, "no text"), (["", ""], 4096, "no text"), (["a"], 258, "259")]
)
def test_misuse_gets_a_sentence(texts: list[str], vocab: int, says: str):
    with pytest.raises(ClocheError, match=says):
        train_bpe(texts, vocab)


def test_the_smallest_vocabulary_works():
    tok = train_bpe(["ab" * 50 + "cd"], vocab=259)
    assert tok.vocab == 259 and tok.decode(tok.encode("dcba")) == "dcba"


def test_the_whole_stream_is_sampled_within_bounds(monkeypatch):
    monkeypatch.setattr(bpe, "SAMPLE_CHARACTERS", 100_000)
    seen = []
    monkeypatch.setattr(bpe, "_learn_merges", lambda texts, *rest: seen.extend(texts) or (list("ab"), []))
    train_bpe((f"{'a' * 50}{'b' * 40}\n" * 100 for _ in range(500)), vocab=300)
    assert 50_000 <= sum(map(len, seen)) <= 100_000


def test_further_special_tokens_are_never_text():
    """They take the last ids; the rest is what a smaller vocabulary gives."""
    texts = ["to be or <|mask|> not to be"] * 9
    with_mask, without = train_bpe(texts, 290, ("<|mask|>", "<|x|>")), train_bpe(texts, 288)
    assert (with_mask.id_of("<|mask|>"), with_mask.id_of("<|x|>")) == (without.vocab, without.vocab + 1)
    ids = with_mask.encode("be <|mask|> <|endoftext|>")
    assert ids == without.encode("be <|mask|> <|endoftext|>") and with_mask.decode(ids) == "be <|mask|> <|endoftext|>"
    assert with_mask.id_of("be") is None and with_mask.byte_lengths[-2:].tolist() == [0, 0]
    with pytest.raises(ClocheError, match="ask for at least 260"):
        train_bpe(texts, 259, ("<|mask|>",))
    for taken in ("to", "", "<|endoftext|>"):
        with pytest.raises(ClocheError, match="empty or another token already"):
            train_bpe(texts, 290, (taken,))
    with pytest.raises(ClocheError, match="another token already"):
        train_bpe(texts, 290, ("<|mask|>", "<|mask|>"))
