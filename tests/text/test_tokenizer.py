"""Tokenizers of other makers, the files we write for them, and what is shown."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nasty import NASTY, random_text

from cloche.errors import ClocheError
from cloche.text import Tokenizer


@pytest.fixture
def story_folder(shared) -> Path:
    return shared("weights/stories260K/hf")


@pytest.fixture
def gpt2(shared) -> Tokenizer:
    """GPT-2's own vocabulary, as a byte-level tokenizer.json."""
    merges = shared("tokenizers/gpt2/vocab.bpe").read_text("utf-8").splitlines()[1:]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocabulary = json.loads(shared("tokenizers/gpt2/encoder.json").read_text("utf-8"))
    end = {"id": 50256, "content": "<|endoftext|>", "special": True, "single_word": False, "lstrip": False}
    return Tokenizer.from_dict(
        {
            "version": "1.0",
            "added_tokens": [end | {"rstrip": False, "normalized": False}],
            "pre_tokenizer": byte_level,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": [m.split(" ") for m in merges if m]},
        },
        {},
    )


def test_gpt2_gives_the_golden_ids_and_exact_bytes(gpt2: Tokenizer, shared):
    folder = shared("tokenizers/golden/llama.cpp")
    texts = (folder / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    golden = [[int(i) for i in line.split()] for line in (folder / "ggml-vocab-gpt-2.gguf.out").read_text().split("\n")]
    assert len(texts) > 40
    for text, ids in zip(texts, golden, strict=False):
        assert gpt2.encode(text) == ids
        assert gpt2.decode_bytes(ids) == text.encode() and gpt2.byte_lengths[ids].sum() == len(text.encode())
    assert gpt2.end == 50256 and gpt2.vocab == 50257


def test_byte_level_bytes_are_exact_on_nasty_text(gpt2: Tokenizer):
    for text in [*NASTY, *(random_text(seed) for seed in range(50))]:
        ids = gpt2.encode(text)
        assert gpt2.decode_bytes(ids) == text.encode() and gpt2.byte_lengths[ids].sum() == len(text.encode())


def test_sentencepiece_like_file_counts_its_own_space(story_folder):
    tok = Tokenizer.load(story_folder)
    assert (tok.vocab, tok.end) == (512, 2)
    assert tok.encode("Once upon a time") == [1, 403, 407, 261, 378]
    assert tok.encode("Once upon a time", special=False) == [403, 407, 261, 378]
    assert [tok.show(i) for i in (1, 403, 3 + 0xE4)] == ["<s>", "·Once", "<0xE4>"]
    for text in NASTY:
        if "▁" in text:
            continue  # this file writes spaces as ▁, and reads a ▁ as a space
        ids = tok.encode(text)
        assert tok.decode(ids) == text
        assert tok.decode_bytes(ids) == (b" " if text else b"") + text.encode()
        assert tok.byte_lengths[ids].sum() == len(text.encode()) + bool(text)


def test_transformers_opens_what_we_save_with_the_same_ids(small: Tokenizer, tmp_path, library_text):
    transformers = pytest.importorskip("transformers")
    small.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token_id == small.end and len(theirs) == small.vocab
    texts = [text for text in NASTY if "<|endoftext|>" not in text] + library_text[:5]
    for text in texts:
        ids = theirs(text)["input_ids"]
        assert ids == small.encode(text) and theirs.decode(ids) == text
    assert theirs("<|endoftext|>", split_special_tokens=True)["input_ids"] == small.encode("<|endoftext|>")


def test_transformers_opens_it_beside_a_llama_checkpoint(small: Tokenizer, tmp_path, story_folder):
    transformers = pytest.importorskip("transformers")
    small.save(tmp_path)
    (tmp_path / "config.json").write_bytes((story_folder / "config.json").read_bytes())
    text = "def f(x):\n        return '<0x0A> é 中'\n"
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == small.encode(text)


def test_saving_what_was_loaded_changes_no_byte(story_folder, tmp_path, small: Tokenizer):
    Tokenizer.load(story_folder).save(tmp_path / "a")
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (story_folder / "tokenizer.json").read_bytes()
    written = json.loads((tmp_path / "a/tokenizer_config.json").read_text())
    assert written == json.loads((story_folder / "tokenizer_config.json").read_text())
    small.save(tmp_path / "b")
    again = Tokenizer.load(tmp_path / "b")
    text = "class A:\n    pass\n"
    assert again.encode(text) == small.encode(text) and again.end == small.end
    assert np.array_equal(again.byte_lengths, small.byte_lengths)


def test_what_is_shown(small: Tokenizer):
    show = [small.show(i) for i in small.encode(" self\n    x\t\x00\U0001f409")]
    assert "".join(show) == "·self↵····x→\\x00<0xF0><0x9F><0x90><0x89>"
    assert small.show(0) == "<|endoftext|>" and small.decode([0]) == "" and small.decode_bytes([0]) == b""


def test_half_a_character_stays_half(small: Tokenizer):
    ids = small.encode("\U0001f409")
    assert small.decode_bytes(ids[:2]) == b"\xf0\x9f" and "\ufffd" in small.decode(ids[:2])
    assert small.decode(np.array(ids)) == "\U0001f409"


@pytest.mark.parametrize("call", [lambda t: t.decode([99999]), lambda t: t.decode_bytes([-1]), lambda t: t.show(1024)])
def test_an_id_outside_the_vocabulary_gets_a_sentence(small: Tokenizer, call):
    with pytest.raises(ClocheError, match="vocabulary of 1024"):
        call(small)


def test_a_lone_surrogate_gets_a_sentence(small: Tokenizer):
    with pytest.raises(ClocheError, match="surrogate"):
        small.encode("half \ud83d a pair")


def test_a_folder_without_or_with_a_broken_tokenizer_gets_a_sentence(tmp_path):
    with pytest.raises(ClocheError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    for broken in (b"{", b'{"model": 3}', b"\xff\xfe"):
        (tmp_path / "tokenizer.json").write_bytes(broken)
        with pytest.raises(ClocheError, match="copy it there again"):
            Tokenizer.load(tmp_path)


def test_a_family_that_loses_characters_has_no_byte_lengths(tmp_path):
    wordpiece = {
        "type": "WordPiece",
        "vocab": {"[UNK]": 0, "a": 1},
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
    }
    model = wordpiece | {"max_input_chars_per_word": 100}
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    tok = Tokenizer.from_dict({"version": "1.0", "added_tokens": [], "model": model, "decoder": decoder}, {})
    assert tok.encode("a") == [1] and tok.end is None and tok.show(1) == "a"
    with pytest.raises(ClocheError, match=r"WordPiece tokenizer .* loses characters"):
        tok.byte_lengths  # noqa: B018
    assert tok.decode_bytes([1]) == b"a"


def test_text_and_data_cost_no_torch():
    code = "import sys, cloche.text, cloche.data; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
