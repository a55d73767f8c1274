"""Prompts from held-out text: the beginnings of its documents, cut at the end of a word.

A prompt must not end in a space: tokenizers put the space at the beginning of the next word.
"""

from __future__ import annotations

import re

import numpy as np

from cloche.data import PackedTokens
from cloche.text import Tokenizer

COUNT = 3
LONGEST = 32  # characters of a prompt
SHORTEST = 8  # characters; a shorter first line is not a prompt of its own
ALIKE = 12  # characters: no two prompts begin with the same ones
READ = 64  # tokens decoded per candidate
SEARCHED = 8192  # tokens searched for the beginning of a document
TRIES = 8  # documents tried per prompt: many begin alike, with a licence or a title
WORDS = 2  # preferred minimum per prompt: one word alone is a poor prompt
_WORD = re.compile(r"[^\W\d_]{2,}")
_BREAK = re.compile(r"\n+|(?<=[.!?])\s+")  # the end of a line or a sentence


def held_out_prompts(tokens: PackedTokens, tokenizer: Tokenizer, count: int = COUNT) -> list[str]:
    """At most `count` different prompts from documents spread evenly over the split; the same from the same data."""
    found: list[str] = []
    for number in range(count):
        possible = [
            prompt
            for prompt in _possible(tokens, tokenizer, number * len(tokens) // count)
            if re.search(r"\w", prompt) and not any(other[:ALIKE] == prompt[:ALIKE] for other in found)
        ]
        found += [prompt for prompt in possible if len(_WORD.findall(prompt)) >= WORDS][:1] or possible[:1]
    return found


def _possible(tokens: PackedTokens, tokenizer: Tokenizer, start: int) -> list[str]:
    """Beginnings of documents at or after `start`; last, the lines and sentences that begin right after `start`."""
    found = []
    for begin, whole in _beginnings(tokens, start):
        text = _decoded(tokens, tokenizer, begin, READ)
        if tokens.end not in tokens.window(begin, min(READ, len(tokens) - begin)):
            text = re.sub(r"(?<=\s)\S+\Z", "", text)  # a word that may be cut
        places = [0] if whole else [match.end() for match in _BREAK.finditer(text)] or [_first_word(text)]
        found += [cut(text[place:]) for place in places]
    return found


def first_text(tokens: PackedTokens, tokenizer: Tokenizer, length: int) -> str:
    """The beginning of a split: about `length` tokens of its first document, cut at the end of a word.

    >>> from pathlib import Path
    >>> from cloche.data import PackedTokens, prepare
    >>> from cloche.text import Tokenizer
    >>> from cloche.train import first_text
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> _ = prepare(["text.txt"], "packed", vocab=270)
    >>> tokens, tokenizer = PackedTokens.open("packed", "validation"), Tokenizer.load("packed")
    >>> first_text(tokens, tokenizer, 20)
    'The cat sat on the mat. The'
    """
    text = _decoded(tokens, tokenizer, 0, length)
    return cut(text, len(text) if len(tokens) <= length else len(text) - 1, line=False) or text


def cut(text: str, longest: int = LONGEST, line: bool = True) -> str:
    """The first line, or the beginning, of a text, stripped: whole words, at most `longest` characters."""
    text = text.strip()
    first = text.partition("\n")[0].rstrip()
    if line and len(first) >= SHORTEST:
        text = first
    if len(text) <= longest:
        return text
    words = re.match(rf"(?s).{{1,{longest}}}(?=\s)", text)
    return (words[0] if words else text[:longest]).rstrip()  # a script without spaces is cut anywhere


def _beginnings(tokens: PackedTokens, start: int) -> list[tuple[int, bool]]:
    """Positions to read from, at or after `start`, each with True if a document begins there; `start` itself comes
    last."""
    ends = np.flatnonzero(tokens.window(start, min(SEARCHED, len(tokens) - start)) == tokens.end)
    after = [(int(end) + start + 1, True) for end in ends[:TRIES] if int(end) + start + 1 < len(tokens)]
    return [(0, True), *after] if start == 0 else [*after, (start, False)]


def _decoded(tokens: PackedTokens, tokenizer: Tokenizer, begin: int, length: int) -> str:
    """The text of at most `length` tokens of one document, without characters that are cut at either end."""
    ids = tokens.window(begin, min(length, len(tokens) - begin)).tolist()
    ids = ids[: ids.index(tokens.end)] if tokens.end in ids else ids
    return tokenizer.decode_bytes(ids).decode("utf-8", "ignore")


def _first_word(text: str) -> int:
    """Start of the first whole word in a text that may begin inside one."""
    found = re.search(r"\s+", text)
    return found.end() if found and found.end() < len(text) else 0
