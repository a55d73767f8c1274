"""Words added to a tokenizer: their spaces, their stand-ins, and that text, bytes, lengths and what is shown agree."""

import itertools
import json

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from cloche.errors import ClocheError
from cloche.text import Tokenizer, train_bpe

CORPUS = [
    "Yesterday we met a friend at home.",
    "The cat sat on the mat, (and) the dog.",
    "one two  three\n\nfour é 中",
] * 9
BYTES = [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
SPACE = "▁"


def trained(model, pre=None, decoder=None, normalizer=None, alphabet=()) -> Engine:
    engine = Engine(model)
    for name, part in (("pre_tokenizer", pre), ("decoder", decoder), ("normalizer", normalizer)):
        if part is not None:
            setattr(engine, name, part)
    if isinstance(model, models.BPE):
        ending = {"end_of_word_suffix": model.end_of_word_suffix} if model.end_of_word_suffix else {}
        trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, initial_alphabet=list(alphabet), **ending)
    elif isinstance(model, models.WordPiece):
        trainer = trainers.WordPieceTrainer(vocab_size=300, show_progress=False, special_tokens=["[UNK]"])
    else:
        trainer = trainers.UnigramTrainer(
            vocab_size=120, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"]
        )
    engine.train_from_iterator(CORPUS, trainer)
    return engine


def with_bytes(engine: Engine) -> Engine:
    """The 256 byte tokens as ordinary entries, as SentencePiece has them."""
    contents = json.loads(engine.to_str())
    model = contents["model"]
    model["byte_fallback"] = True
    if isinstance(model["vocab"], list):
        model["vocab"] += BYTES
    else:
        model["vocab"] |= {token: len(model["vocab"]) + i for i, (token, _) in enumerate(BYTES)}
    contents["added_tokens"] = []
    return Engine.from_str(json.dumps(contents))


def spaced(strip: int) -> decoders.Decoder:
    last = [decoders.Strip(" ", 1, 0)] if strip else []
    return decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last])


def metaspace(scheme: str) -> Engine:
    return with_bytes(trained(models.BPE(), pre_tokenizers.Metaspace(SPACE, scheme), spaced(scheme != "never")))


def unigram(fallback: bool, words: bool) -> Engine:
    pre: pre_tokenizers.PreTokenizer = pre_tokenizers.Metaspace(SPACE, "always")
    pre = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre]) if words else pre
    own = decoders.Metaspace(SPACE, "always")
    engine = trained(models.Unigram(), pre, decoders.Sequence([decoders.ByteFallback(), own]) if fallback else own)
    return with_bytes(engine) if fallback else engine


# name: (what builds it, spaces it puts before a text, whether every text comes back)
FAMILIES = {
    "byte level": (
        lambda: trained(
            models.BPE(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
            alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
        0,
        True,
    ),
    "byte level as a normalizer": (
        lambda: trained(
            models.BPE(),
            None,
            decoders.ByteLevel(),
            normalizers.ByteLevel(),
            alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
        0,
        True,
    ),
    "ours": (lambda: Engine.from_str(train_bpe(CORPUS, 400)._text), 0, True),
    "spaces replaced": (
        lambda: with_bytes(trained(models.BPE(), None, spaced(0), normalizers.Replace(" ", SPACE))),
        0,
        True,
    ),
    "metaspace never": (lambda: metaspace("never"), 0, True),
    "metaspace first": (lambda: metaspace("first"), 1, True),
    "metaspace always": (lambda: metaspace("always"), 1, True),
    "unigram with bytes": (lambda: unigram(True, False), 1, True),
    "unigram of words": (lambda: unigram(True, True), 1, False),
    "T5": (lambda: unigram(False, True), 1, False),
    "WordPiece": (
        lambda: trained(models.WordPiece(unk_token="[UNK]"), pre_tokenizers.Whitespace(), decoders.WordPiece()),
        0,
        False,
    ),
    "words that end in </w>": (
        lambda: trained(
            models.BPE(end_of_word_suffix="</w>"), pre_tokenizers.WhitespaceSplit(), decoders.BPEDecoder("</w>")
        ),
        0,
        False,
    ),
}
FLAGS = [
    dict(zip(("single_word", "lstrip", "rstrip", "normalized"), each, strict=True))
    for each in itertools.product([False, True], repeat=4)
]


def with_word(built: str, word: str, flags: dict[str, bool]) -> Tokenizer:
    engine = Engine.from_str(built)
    engine.add_tokens([AddedToken(word, **flags)])
    return Tokenizer.from_dict(json.loads(engine.to_str()), {})


def all_agree(tok: Tokenizer, text: str, prefix: int, exact: bool, whole: bool = False) -> None:
    ids = tok.encode(text, special=False)
    data = tok.decode_bytes(ids)
    assert "".join(tok.spell(ids)) == data.decode("utf-8", "replace")
    assert all(tok.show(i) for i in ids)
    if exact:
        assert tok.decode(ids) == text
        assert data in (text.encode(), b" " * prefix + text.encode())
        assert whole or data == b"".join(tok.decode_bytes([i]) for i in ids)
        assert tok.byte_lengths[ids].sum() == len(data)
    else:
        assert tok.decode(ids).split() == text.split()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_added_word_keeps_the_spaces_around_it(family: str):
    build, prefix, exact = FAMILIES[family]
    built = build().to_str()
    for word, flags in itertools.product(["Zuzanna", "żółw"], FLAGS):
        tok = with_word(built, word, flags)
        if tok.vocab - 1 not in tok.encode(f"we met {word} at home"):
            assert family == "byte level as a normalizer" and flags["single_word"]  # there a space is a letter
        for text in (
            f"we met {word} at home",
            f"we met {word} and {word} at home",
            "no such word, é 中" if exact else "at home",
        ):
            all_agree(tok, text, prefix, exact)


@pytest.mark.parametrize(
    "family", ["byte level", "byte level as a normalizer", "ours", "spaces replaced", "metaspace first"]
)
def test_an_added_word_beside_no_space_gets_none(family: str):
    build, prefix, _ = FAMILIES[family]
    built = build().to_str()
    for word, single in itertools.product(["Zuzanna", "<think>", "Ġfoo", "ĠĊx", "é中"], [False, True]):
        tok = with_word(built, word, {"single_word": single, "normalized": False})
        for text in (f"met ({word}) at", f"{word} met", f"met {word}", f"a\n{word}\nb", f"a {word}{word}  b"):
            all_agree(tok, text, prefix, True)


def test_a_word_that_the_vocabulary_holds_as_other_text_keeps_that_meaning():
    """Gemma's added "▁▁" is what two spaces become; GPT-2's "Ċ" is a line end."""
    for family, word, text in (
        ("spaces replaced", "▁▁", "a  b"),
        ("byte level", "Ċ", "a\nb"),
        ("byte level", "Ġ", "a ( b"),
    ):
        engine = FAMILIES[family][0]()
        contents = json.loads(engine.to_str())
        vocabulary = contents["model"]["vocab"]
        i = vocabulary.setdefault(word, len(vocabulary))
        if family == "spaces replaced" and [SPACE, SPACE] not in contents["model"]["merges"]:
            contents["model"]["merges"].insert(0, [SPACE, SPACE])
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        contents["added_tokens"] = [{"id": i, "content": word} | flags]
        tok = Tokenizer.from_dict(contents, {})
        assert i in tok.encode(text)
        all_agree(tok, text, 0, True)


def test_every_llama_word_that_is_looked_for_in_the_normalised_text_brings_its_space():
    """Llama 2's own file: a ▁ is put before each stretch of text."""
    normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    built = with_bytes(trained(models.BPE(), None, spaced(1), normalizer)).to_str()
    tok = with_word(built, "Zuzanna", {"normalized": True})
    for text in ("we met Zuzanna at home", "Zuzanna met Zuzanna", "(Zuzanna) met"):
        all_agree(tok, text, 1, True)
    tok = with_word(built, "Zuzanna", {"normalized": False})
    for text in ("we met Zuzanna at home", "we met (Zuzanna), and Zuzanna  too"):
        all_agree(
            tok, text, 1, True, whole=True
        )  # the file puts another space after the word, which is none of the text's


def test_a_file_that_loses_characters_counts_none():
    for family in ("T5", "WordPiece", "words that end in </w>"):
        tok = with_word(FAMILIES[family][0]().to_str(), "Zuzanna", {})
        with pytest.raises(ClocheError, match="loses characters"):
            tok.byte_lengths  # noqa: B018


def test_text_is_spelled_in_whole_characters(small: Tokenizer):
    assert list(small.spell([1 + byte for byte in "aé€".encode()])) == ["a", "é", "€"]
    assert "".join(small.spell([1 + byte for byte in b"a\xffb\xe2"])) == "a\ufffdb\ufffd"


def test_unused_ids_are_gaps_and_what_lies_beyond():
    tok = train_bpe(["abc"], 300)
    contents = json.loads(tok._text)
    contents["model"]["vocab"]["far away"] = tok.vocab + 2
    gapped = Tokenizer.from_dict(contents, {})
    assert gapped.unused(gapped.vocab + 2) == (tok.vocab, tok.vocab + 1, tok.vocab + 3, tok.vocab + 4)
    assert tok.unused(tok.vocab) == ()


def test_a_tokenizer_says_what_it_is():
    assert (
        repr(train_bpe(["abc"], 300)) == "Tokenizer(BPE, every byte kept, 262 tokens, end 0, special '<|endoftext|>'=0)"
    )
