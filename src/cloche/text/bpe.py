"""Training a byte-fallback BPE tokenizer (Sennrich et al. 2016; byte fallback: SentencePiece, Kudo & Richardson 2018).

The merges are learned by Hugging Face `tokenizers`; the tokenizer.json around them is written here, so that it is the
same bytes for the same input, and so that the 256 byte tokens are ordinary entries of the vocabulary: a text that
spells "<0x0A>" stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from cloche.errors import ArgumentInvalid, ContextExceeded, CorpusEmpty
from cloche.text.sample import even_sample
from cloche.text.splitting import SPLIT_PATTERN
from cloche.text.tokenizer import Tokenizer

END = "<|endoftext|>"
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
SMALLEST_VOCAB = 1 + len(BYTE_TOKENS) + 2  # the end token, the bytes, two characters

# The trainer holds every distinct word it sees, so its memory grows with the text: 16M characters take it 0.3 GB of code
# and 1 GB at worst, where every word is new (measured). Its 32-bit pair counts cannot overflow either.
SAMPLE_CHARACTERS = 16_000_000

# A character has a token of its own when it is common enough to save more than a late merge would; the others are
# spelled in bytes.
ALPHABET_LIMIT = 512
ALPHABET_SHARE = 1e-5


def train_bpe(texts: Iterable[str], vocab: int = 4096, special: Sequence[str] = ()) -> Tokenizer:
    """A byte-fallback BPE tokenizer: id 0 is <|endoftext|>, ids 1..256 the bytes, then characters, then merges.

    Nothing is normalised: decode(encode(text)) == text for every text. Learned from an evenly spread sample of at most
    16M characters, so memory is bounded however long the stream. The same texts give the same tokenizer.json.
    A corpus too small for `vocab` merges gives fewer tokens: `Tokenizer.vocab` is the true number. `special` are the names
    of further special tokens, such as "<|mask|>"; they take the last ids, and text never becomes one. Raises ClocheError when
    `vocab` is below 259 plus their number, there is no text, or one of them is another token already.

    >>> tokenizer = cloche.train_bpe(["to be or not to be"] * 9, vocab=270)
    >>> tokenizer.vocab, tokenizer.end
    (270, 0)
    >>> [tokenizer.show(i) for i in tokenizer.encode(" to be")]
    ['·to', '·be']
    """
    if vocab < SMALLEST_VOCAB + len(special):
        others = f", {len(special)} further special tokens" if special else ""
        raise ContextExceeded(
            f"A vocabulary of {vocab} has no room for <|endoftext|>{others}, 256 bytes and two characters; "
            f"ask for at least {SMALLEST_VOCAB + len(special)}."
        )
    sample = even_sample(texts, SAMPLE_CHARACTERS)
    if not sample:
        raise CorpusEmpty("There is no text to train a tokenizer on; name files that hold some.")
    room = vocab - 1 - len(BYTE_TOKENS) - len(special)
    alphabet = _common_characters(sample, limit=min(ALPHABET_LIMIT, max(2, room // 2)))
    tokens, merges = _learn_merges(_without_rare(sample, alphabet), room, alphabet)
    names = [END, *BYTE_TOKENS, *tokens]
    for place, name in enumerate(special):
        if not name or name in names or name in special[:place]:
            raise ArgumentInvalid(f"The special token {name!r} is empty or another token already; choose another name.")
    return Tokenizer.from_dict(_tokenizer_json(tokens, merges, special=special), {"eos_token": END})


def _common_characters(sample: list[str], limit: int) -> list[str]:
    """The most frequent characters, in order of code point; ties go to the lower one, the same everywhere."""
    counts = np.zeros(0x110000, dtype=np.int64)
    for start in range(0, len(sample), 256):
        block = "".join(sample[start : start + 256]).encode("utf-32-le")
        points, times = np.unique(np.frombuffer(block, dtype="<u4"), return_counts=True)
        counts[points] += times
    order = np.argsort(-counts, kind="stable")[:limit]
    enough = max(1, int(counts.sum() * ALPHABET_SHARE))
    return sorted(chr(point) for point in order if counts[point] >= enough)


def _without_rare(sample: list[str], alphabet: list[str]) -> Iterable[str]:
    """The sample cut at characters outside the alphabet: dropped, they would make neighbours of what never met."""
    rare = re.compile("[^" + "".join(re.escape(c) for c in alphabet) + "]+")
    return (part for text in sample for part in rare.split(text) if part)


def _learn_merges(
    texts: Iterable[str], room: int, alphabet: list[str], pattern: str = SPLIT_PATTERN
) -> tuple[list[str], list[list[str]]]:
    """The tokens (characters, then merges, in order of id) and the merges that fill `room` places."""
    engine = Engine(models.BPE(byte_fallback=True))
    engine.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=room, show_progress=False, initial_alphabet=alphabet, limit_alphabet=len(alphabet)
    )
    engine.train_from_iterator(texts, trainer)
    vocabulary = engine.get_vocab(with_added_tokens=False)
    merges = json.loads(engine.to_str())["model"]["merges"]
    return sorted(vocabulary, key=vocabulary.__getitem__), merges


def _tokenizer_json(
    tokens: list[str], merges: list[list[str]], pattern: str = SPLIT_PATTERN, special: Sequence[str] = ()
) -> dict[str, Any]:
    """Hugging Face's tokenizer.json; only <|endoftext|> and the special tokens are added tokens."""
    vocabulary = {token: i for i, token in enumerate([END, *BYTE_TOKENS, *tokens, *special])}
    added = [
        {
            "id": vocabulary[name],
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name in (END, *special)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
