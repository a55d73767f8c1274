"""Tokenizer files that are damaged or hostile: one sentence each, whatever the field, and nothing but a ClocheError."""

import copy
import json
import os
import random

import pytest

from cloche.errors import ClocheError
from cloche.text import Tokenizer, train_bpe

WORDPIECE = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"a": {"id": "a", "ids": [1], "tokens": ["a"]}},
    },
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece",
        "vocab": {"[UNK]": 0, "a": 1, "##b": 2},
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    },
}
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
UNIGRAM = {
    "version": "1.0",
    "added_tokens": [{"id": 3, "content": "zz", "special": False} | FLAGS],
    "normalizer": {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "},
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁a", -1.0], ["b", -2.0]]},
}
ODD = [
    None,
    True,
    0,
    -1,
    2**31,
    2**40,
    10**30,
    1e308,
    "",
    "x",
    "\0",
    "(",
    "[a-",
    [],
    [1],
    {},
    {"type": "Nope"},
    {"Regex": "("},
]


def use(tok: Tokenizer) -> None:
    """Everything that reads a field."""
    repr(tok)
    for text in ("the cat é  sat", "", "ab zz"):
        ids = tok.encode(text)
        tok.decode(ids)
        tok.decode_bytes(ids)
        list(tok.spell(ids))
        [tok.show(i) for i in ids]
    tok.byte_lengths  # noqa: B018


def places(contents, place=()):
    """Every place in nested lists and objects; of long ones the first and last three entries."""
    yield place
    entries = list(contents.items() if isinstance(contents, dict) else enumerate(contents))
    for key, value in entries if len(entries) < 7 else entries[:3] + entries[-3:]:
        yield from places(value, (*place, key)) if isinstance(value, dict | list) else [(*place, key)]


def damaged(rng: random.Random, contents: dict) -> dict:
    contents = copy.deepcopy(contents)
    *path, last = rng.choice([place for place in places(contents) if place])
    inner = contents
    for key in path:
        inner = inner[key]
    if rng.random() < 0.2:
        del inner[last]
    else:
        inner[last] = rng.choice(ODD)
    return contents


def test_a_damaged_field_is_one_sentence_or_does_no_harm(tmp_path, capfd):
    ours = json.loads(train_bpe(["the cat sat on the mat é " * 50], 320)._text)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    strip = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    files = [ours, ours | {"pre_tokenizer": level, "decoder": level}, WORDPIECE, UNIGRAM]
    files.append(ours | {"decoder": {"type": "Sequence", "decoders": strip}})
    opened = 0
    for seed in range(300):
        rng = random.Random(seed)
        (tmp_path / "tokenizer.json").write_text(json.dumps(damaged(rng, rng.choice(files))))
        said = ""
        try:
            use(Tokenizer.load(tmp_path))
            opened += 1
        except ClocheError as error:
            said = str(error)
        assert "\n" not in said and len(said) < 600
    assert 15 < opened < 285
    capfd.readouterr()  # the engine prints its own panics


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "7",
        "{",
        "[" * 100_000,
        '{"a":' * 60_000,
        '{"model": ' + "9" * 5000 + "}",
        "\0" * 100,
        '{"model": {"vocab": {}}}',
    ],
    ids=range(10),
)
def test_what_is_no_tokenizer_at_all_is_one_sentence(tmp_path, text: str):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ClocheError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "settings", ["[]", "null", "{", "[" * 100_000, '{"eos_token": 7}', '{"eos_token": {"content": [1]}}'], ids=range(6)
)
def test_damaged_settings_are_one_sentence(tmp_path, settings: str):
    train_bpe(["abc"], 300).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(settings)
    with pytest.raises(ClocheError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


def test_an_end_token_that_is_not_there_and_one_without_content_are_passed_over(tmp_path):
    train_bpe(["abc"], 300).save(tmp_path)
    for settings in ('{"eos_token": "nowhere"}', '{"eos_token": {}}', '{"eos_token": null}'):
        (tmp_path / "tokenizer_config.json").write_text(settings)
        assert Tokenizer.load(tmp_path).end == 0


def test_sizes_are_bounded_before_anything_is_built(tmp_path):
    contents = json.loads(train_bpe(["abc"], 300)._text)
    contents["model"]["vocab"]["far"] = 1 << 40
    with pytest.raises(ClocheError, match="the id 1099511627776, which is not a whole number from 0 to 16,777,215"):
        Tokenizer.from_dict(contents, {})
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ClocheError, match="more than any tokenizer"):
        Tokenizer.load(tmp_path)
    os.unlink(tmp_path / "tokenizer.json")
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(ClocheError, match="is not a file"):
        Tokenizer.load(tmp_path)
