"""The bytes of each token of a tokenizer.json: the basis of bits per byte, of decoding, and of showing half a
character.

Two families keep every byte, told apart by their decoder: byte level (GPT-2: each byte has a printable stand-in) and byte
fallback (SentencePiece and this project: a rare byte is the token "<0xE2>"). Others lose unknown characters: their
tokens can be shown, but counting bytes with them is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Ids = Callable[[str], list[int]]  # encodes a text without special tokens

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_OWN = {
    "ByteLevel",
    "ByteFallback",
    "Metaspace",
    "Replace",
    "Strip",
    "Fuse",
}  # decoders that `token_bytes` says token by token


def token_bytes(tokenizer_json: dict[str, Any], vocab: int, encode: Ids) -> list[bytes]:
    """The bytes of every id below `vocab`; special tokens and unused ids have none."""
    decoders = _flatten(tokenizer_json.get("decoder"))
    kinds = {part["type"] for part in decoders}
    byte_level, fallback = "ByteLevel" in kinds, "ByteFallback" in kinds
    replacements = _replacements(decoders)
    ending = word_ending(tokenizer_json)
    table = [b""] * vocab
    for token, i in _vocabulary(tokenizer_json["model"]).items():
        if byte_level:
            table[i] = _from_byte_level(token)
        elif fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            table[i] = bytes([int(match[1], 16)])
        elif ending and token.endswith(ending):
            table[i] = token.removesuffix(ending).encode() + b" "
        else:
            table[i] = _replace_all(token, replacements).encode()
    _put_added_words(tokenizer_json, table, encode)
    return table


def keeps_bytes(tokenizer_json: dict[str, Any]) -> bool:
    """Whether encoding loses nothing: an unknown character falls back to bytes."""
    kinds = {part["type"] for part in _flatten(tokenizer_json.get("decoder"))}
    return bool(kinds & {"ByteLevel", "ByteFallback"}) and kinds <= _OWN


def joins_bytes(tokenizer_json: dict[str, Any]) -> bool:
    """Whether the text of ids is the concatenation of their bytes; otherwise the file's own decoder is needed
    (WordPiece)."""
    decoders = _flatten(tokenizer_json.get("decoder"))
    patterns = [part["pattern"] for part in decoders if part["type"] == "Replace"]
    return bool(decoders) and {part["type"] for part in decoders} <= _OWN and all("String" in each for each in patterns)


def dropped_spaces(tokenizer_json: dict[str, Any]) -> int:
    """How many spaces the decoder drops at the start of a text: those that were added before encoding."""
    for part in _flatten(tokenizer_json.get("decoder")):
        if part["type"] == "Strip" and part.get("content") == " ":
            return int(part.get("start", 0))
        if part["type"] == "Metaspace" and part.get("add_prefix_space", True):
            return 0 if part.get("prepend_scheme") == "never" else 1
    return 0


def word_ending(tokenizer_json: dict[str, Any]) -> str:
    """The suffix of the last token of a word, such as "</w>"; empty if words are marked otherwise."""
    parts = _flatten(tokenizer_json.get("decoder"))
    return next((str(part.get("suffix") or "") for part in parts if part["type"] == "BPEDecoder"), "")


def _put_added_words(tokenizer_json: dict[str, Any], table: list[bytes], encode: Ids) -> None:
    """Replaces the bytes of added tokens: none for a special one, the spaces that a word swallows beside its own.

    An added word is looked for in the text itself, so it stands for its content as written, stand-ins of bytes included. One
    that the vocabulary holds, too, may be made of other text by the model: it keeps the meaning it has there, if it has one
    ("▁▁" is two spaces in Gemma).
    """
    vocabulary = _vocabulary(tokenizer_json["model"])
    spelled = joins_bytes(tokenizer_json)
    words = {}
    for added in tokenizer_json.get("added_tokens") or []:
        i, content = added["id"], added["content"]
        if added.get("special"):
            table[i] = b""
        elif vocabulary.get(content) != i or not _is_made(i, table[i], encode):
            table[i] = content.encode()
            if spelled and content.strip() == content and content:
                words[i] = content
    for i, content in words.items():
        table[i] = _with_swallowed(i, content, table, encode)


def spaced_after(added: dict[int, str], table: list[bytes], encode: Ids) -> frozenset[int]:
    """The added words after which encoding adds a space, as Llama 2's does before each stretch of text."""
    found = set()
    for i, content in added.items():
        ids = encode(f"a {content} a")
        if ids.count(i) == 1 and b"".join(table[each] for each in ids[ids.index(i) + 1 :]).startswith(b"  "):
            found.add(i)
    return frozenset(found)


def _is_made(i: int, meaning: bytes, encode: Ids) -> bool:
    """Whether encoding the text of this vocabulary entry gives this token."""
    try:
        text = meaning.decode()
    except UnicodeDecodeError:
        return False
    return any(i in encode(probe) for probe in (text, f"a{text}a", f"({text})"))


def _with_swallowed(i: int, content: str, table: list[bytes], encode: Ids) -> bytes:
    """The word with the space it takes with it on either side: what is missing of "a word a" when it is put together again.

    `lstrip` and `rstrip` take spaces along; so does a word that is looked for after normalising, where a space was put before
    it; and some files drop the space between words and write it with the next.
    """
    ids = encode(f"a {content} a")
    if ids.count(i) != 1:
        return content.encode()
    at = ids.index(i)
    left, right = (b"".join(table[each] for each in part) for part in (ids[:at], ids[at + 1 :]))
    if not (left.strip().endswith(b"a") and right.strip().startswith(b"a")):
        return content.encode()
    return b" " * (not left.endswith(b" ")) + content.encode() + b" " * (not right.startswith(b" "))


def _flatten(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    return [part for inner in decoder["decoders"] for part in _flatten(inner)] if "decoders" in decoder else [decoder]


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    entries = model["vocab"]
    return entries if isinstance(entries, dict) else {token: i for i, (token, _) in enumerate(entries)}


def _replacements(decoders: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Replacements that the decoder makes in a token, usually ("▁", " ")."""
    found = []
    for part in decoders:
        if part["type"] == "Metaspace":
            found.append((part["replacement"], " "))
        elif part["type"] == "Replace":
            found.append((part["pattern"].get("String", ""), part["content"]))
    return [(old, new) for old, new in found if old]


def _replace_all(token: str, replacements: list[tuple[str, str]]) -> str:
    for old, new in replacements:
        token = token.replace(old, new)
    return token


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's stand-ins: printable Latin-1 bytes are themselves, the other 68 follow from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_STAND_INS = _byte_level_alphabet()


def _from_byte_level(token: str) -> bytes:
    if all(character in _STAND_INS for character in token):
        return bytes(_STAND_INS[character] for character in token)
    return token.encode()
