"""A tokenizer as a value: a Hugging Face tokenizer.json, its settings, and the exact bytes behind each id."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Engine

from cloche.errors import ClocheError
from cloche.files import write_atomically
from cloche.text.token_bytes import keeps_bytes, token_bytes

END_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
)  # looked for, in this order, where no eos_token is named


class Tokenizer:
    """Text to ids and back; immutable. From `train_bpe`, or `Tokenizer.load` with any folder that has a tokenizer.json.

    Text is always text: "<|endoftext|>" written in a document is spelled in ordinary tokens, never the special one.
    """

    def __init__(self, engine_text: str, settings: dict[str, Any]) -> None:
        self._text = engine_text
        self._settings = settings
        self._engine = Engine.from_str(engine_text)
        self._engine.no_padding()
        self._engine.no_truncation()
        self._engine.encode_special_tokens = True

    @classmethod
    def from_dict(cls, tokenizer_json: dict[str, Any], settings: dict[str, Any]) -> Tokenizer:
        """From the contents of a tokenizer.json and the special tokens its tokenizer_config.json shall name."""
        text = json.dumps(tokenizer_json, ensure_ascii=False, indent=1) + "\n"
        defaults = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        return cls(text, defaults | settings)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """From a folder's tokenizer.json and tokenizer_config.json (which may be absent)."""
        path = Path(folder) / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
            config = path.with_name("tokenizer_config.json")
            settings = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
        except FileNotFoundError:
            raise ClocheError(f"There is no tokenizer.json in {folder}; name a folder that holds one.") from None
        except (OSError, ValueError) as error:
            raise ClocheError(f"The tokenizer in {folder} cannot be read ({error}); copy it there again.") from error
        try:
            return cls(text, settings)
        except Exception as error:  # the engine raises bare Exception for a malformed file
            raise ClocheError(f"{path} is not a tokenizer.json ({error}); copy it there again.") from error

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer opens."""
        folder = Path(folder)
        settings = json.dumps(self._settings, ensure_ascii=False, indent=1) + "\n"
        write_atomically(folder / "tokenizer.json", self._text.encode())
        write_atomically(folder / "tokenizer_config.json", settings.encode())

    @property
    def vocab(self) -> int:
        """One more than the largest id, so a table of this many rows holds every token."""
        return self._size

    @cached_property
    def _size(self) -> int:
        return 1 + max(self._engine.get_vocab(with_added_tokens=True).values())

    @cached_property
    def end(self) -> int | None:
        """The id that ends a document: the eos_token the settings name, else <|endoftext|> or its kin, else None."""
        named = self._settings.get("eos_token")
        named = named["content"] if isinstance(named, dict) else named
        for token in (named, *END_NAMES):
            if token is not None and (i := self._engine.token_to_id(token)) is not None:
                return i
        return None

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of a text. `special` adds what the file's own template adds (Llama's <s>; `train_bpe`'s: nothing)."""
        return self.encode_batch([text], special)[0]

    def encode_batch(self, texts: list[str], special: bool = True) -> list[list[int]]:
        """The ids of each text, on all cores. ClocheError for a lone surrogate, which is no Unicode text."""
        try:
            encodings = self._engine.encode_batch_fast(texts, add_special_tokens=special)
        except TypeError:  # what the engine says to a lone surrogate
            for text in texts:
                _refuse_surrogates(text)
            raise
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens left out; bytes that are no UTF-8 become U+FFFD.

        The space that a SentencePiece-like file puts before a text is dropped again."""
        return self._engine.decode(self._checked(ids), skip_special_tokens=True)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes the ids stand for, nothing stripped: half a character stays half a character.

        With a tokenizer that loses characters (WordPiece), the bytes of `decode`.
        """
        if not self._keeps_bytes:
            return self.decode(ids).encode()
        return b"".join(self._bytes[i] for i in self._checked(ids))

    def show(self, i: int) -> str:
        """One token for display: space ·, line end ↵, tab →, other control characters \\x0c, lone bytes <0xE2>."""
        (i,) = self._checked([i])
        data = self._bytes[i]
        if not data:
            return self._engine.id_to_token(i) or f"[{i}]"
        return "".join(_visible(character) for character in data.decode("utf-8", errors="surrogateescape"))

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """UTF-8 bytes each token stands for, int32 [vocab]; special tokens 0.

        Over the ids of a text they sum to its UTF-8 bytes. A file that rewrites text before encoding counts the text as
        rewritten: SentencePiece-like ones put one space before each text, so theirs sum to one more. ClocheError for a
        tokenizer that loses characters (WordPiece).
        """
        if not self._keeps_bytes:
            raise ClocheError(
                f"A {self._json['model']['type']} tokenizer without bytes to fall back on loses characters, so its tokens "
                "have no exact number of bytes; use a byte-level or byte-fallback tokenizer."
            )
        lengths = np.array([len(data) for data in self._bytes], dtype=np.int32)
        lengths.flags.writeable = False
        return lengths

    @cached_property
    def _bytes(self) -> list[bytes]:
        return token_bytes(self._json, self.vocab)

    @cached_property
    def _keeps_bytes(self) -> bool:
        return keeps_bytes(self._json)

    @cached_property
    def _json(self) -> dict[str, Any]:
        return json.loads(self._text)

    def _checked(self, ids: Iterable[int]) -> list[int]:
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab:
                raise ClocheError(f"Token {i} is outside this tokenizer's vocabulary of {self.vocab}; ids run from 0.")
        return ids


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = text[max(0, error.start - 20) : error.end + 20]
        raise ClocheError(f"A lone surrogate in {where!r} is not Unicode text; replace it first.") from None


_SIGNS = {" ": "·", "\n": "↵", "\t": "→"}


def _visible(character: str) -> str:
    point = ord(character)
    if 0xDC80 <= point <= 0xDCFF:  # surrogateescape: a byte that is part of no character
        return f"<0x{point - 0xDC00:02X}>"
    if character in _SIGNS:
        return _SIGNS[character]
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()
