"""Prompts from the text that the model never trains on: how its documents begin, cut where a word ends.

A prompt that ends in a blank would ask for something else: tokenizers put the blank at the beginning of the next word.
"""

from __future__ import annotations

import re

import numpy as np

from cloche.data import PackedTokens
from cloche.text import Tokenizer

COUNT = 3
LONGEST = 32  # characters of a prompt
SHORTEST = 8  # characters that a first line must have to be the whole prompt
ALIKE = 12  # characters in which prompts must differ
READ = 64  # tokens decoded to find one
SEARCHED = 8192  # tokens in which the beginning of a document is looked for
TRIES = 8  # documents looked at for each: many begin alike, with a licence or a title
WORDS = 2  # that a prompt has where any has so many: one alone says little of what is asked for
_WORD = re.compile(r"[^\W\d_]{2,}")
_BREAK = re.compile(r"\n+|(?<=[.!?])\s+")  # after which a line or a sentence begins


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
    """What documents at or after `start` begin with; last, the lines and sentences that begin right after `start`."""
    found = []
    for begin, whole in _beginnings(tokens, start):
        text = _decoded(tokens, tokenizer, begin, READ)
        if tokens.end not in tokens.window(begin, min(READ, len(tokens) - begin)):
            text = re.sub(r"(?<=\s)\S+\Z", "", text)  # a word that may go on
        places = [0] if whole else [match.end() for match in _BREAK.finditer(text)] or [_first_word(text)]
        found += [cut(text[place:]) for place in places]
    return found


def opening(tokens: PackedTokens, tokenizer: Tokenizer, length: int) -> str:
    """How the split begins: about `length` tokens of its first document, cut where a word ends."""
    text = _decoded(tokens, tokenizer, 0, length)
    return cut(text, len(text) if len(tokens) <= length else len(text) - 1, line=False) or text


def cut(text: str, longest: int = LONGEST, line: bool = True) -> str:
    """The first line, or the beginning, of a text without blanks around it: whole words of at most `longest` characters."""
    text = text.strip()
    first = text.partition("\n")[0].rstrip()
    if line and len(first) >= SHORTEST:
        text = first
    if len(text) <= longest:
        return text
    words = re.match(rf"(?s).{{1,{longest}}}(?=\s)", text)
    return (words[0] if words else text[:longest]).rstrip()  # a script without blanks is cut anywhere


def _beginnings(tokens: PackedTokens, start: int) -> list[tuple[int, bool]]:
    """Places to read from at or after `start`, and whether a document begins there; `start` itself is the last resort."""
    ends = np.flatnonzero(tokens.window(start, min(SEARCHED, len(tokens) - start)) == tokens.end)
    after = [(int(end) + start + 1, True) for end in ends[:TRIES] if int(end) + start + 1 < len(tokens)]
    return [(0, True), *after] if start == 0 else [*after, (start, False)]


def _decoded(tokens: PackedTokens, tokenizer: Tokenizer, begin: int, length: int) -> str:
    """The text of at most `length` tokens, as far as the document goes; characters cut at either edge are left out."""
    ids = tokens.window(begin, min(length, len(tokens) - begin)).tolist()
    ids = ids[: ids.index(tokens.end)] if tokens.end in ids else ids
    return tokenizer.decode_bytes(ids).decode("utf-8", "ignore")


def _first_word(text: str) -> int:
    """Where the first whole word of a text begins that was cut anywhere."""
    found = re.search(r"\s+", text)
    return found.end() if found and found.end() < len(text) else 0
