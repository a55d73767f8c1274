"""Which bytes each token of a tokenizer.json stands for: the ground of bits per byte, and of showing half a character.

Two families keep every byte, told apart by their decoder: byte level (GPT-2: each byte has a printable stand-in) and byte
fallback (SentencePiece and this project: a rare byte is the token "<0xE2>"). Others lose the characters they do not know:
their tokens can be shown, but to count bytes with them is an error, not a guess.
"""

from __future__ import annotations

import re
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_bytes(tokenizer_json: dict[str, Any], vocab: int) -> list[bytes]:
    """The bytes of every id below `vocab`; special tokens and unused ids have none."""
    decoders = _flatten(tokenizer_json.get("decoder"))
    kinds = {part["type"] for part in decoders}
    byte_level, fallback = "ByteLevel" in kinds, "ByteFallback" in kinds
    replacements = _replacements(decoders)
    table = [b""] * vocab
    for token, i in _vocabulary(tokenizer_json["model"]).items():
        if byte_level:
            table[i] = _from_byte_level(token)
        elif fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            table[i] = bytes([int(match[1], 16)])
        else:
            table[i] = _replace_all(token, replacements).encode()
    for added in tokenizer_json.get("added_tokens", []):
        table[added["id"]] = b"" if added["special"] else added["content"].encode()
    return table


def keeps_bytes(tokenizer_json: dict[str, Any]) -> bool:
    """Whether every text survives: an unknown character falls back to bytes."""
    kinds = {part["type"] for part in _flatten(tokenizer_json.get("decoder"))}
    return bool(kinds & {"ByteLevel", "ByteFallback"})


def _flatten(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    return [part for inner in decoder["decoders"] for part in _flatten(inner)] if "decoders" in decoder else [decoder]


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    entries = model["vocab"]
    return entries if isinstance(entries, dict) else {token: i for i, (token, _) in enumerate(entries)}


def _replacements(decoders: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What the decoder writes for what stands in the token: mostly ("▁", " ")."""
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
