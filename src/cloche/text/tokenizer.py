"""A tokenizer as a value: a Hugging Face tokenizer.json, its settings, and the exact bytes behind each id."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cloche.drawing import visible
from cloche.errors import FileExists, FileMissing, TextEncoding, TokenizerInvalid
from cloche.files import write_atomically
from cloche.text import checked
from cloche.text.token_bytes import dropped_spaces, joins_bytes, keeps_bytes, spaced_after, token_bytes, word_ending

END_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
)  # tried in this order if no eos_token is named


class Tokenizer:
    """Text to ids and back; immutable. From `train_bpe`, or `Tokenizer.load` with any folder that has a tokenizer.json.

    Text never becomes a special token: "<|endoftext|>" in a document is encoded as ordinary tokens.

    >>> tokenizer = cloche.train_bpe(["to be or not to be"] * 9, vocab=270)
    >>> tokenizer.decode(tokenizer.encode("to be, or not?"))
    'to be, or not?'
    >>> tokenizer.save("here")
    >>> cloche.Tokenizer.load("here").encode("to be") == tokenizer.encode("to be")
    True
    """

    def __init__(self, engine_text: str, settings: dict[str, Any], where: str = "This text") -> None:
        self._text, self._settings, self._where = engine_text, settings, where
        self._json = checked.parsed(engine_text, Path(where))
        self._engine = checked.engine(engine_text, self._json, where)
        self._json["decoder"] = checked.decoder_of(self._engine)
        self._named_end = checked.end_token(settings)
        self._special = {added["id"] for added in self._json.get("added_tokens") or [] if added.get("special")}

    def __repr__(self) -> str:
        kind = type(self._engine.model).__name__ + (", every byte kept" if self._keeps_bytes else "")
        special = sorted(self._special)
        names = ", ".join(f"{self._engine.id_to_token(i)!r}={i}" for i in special[:4]) or "none"
        names += f" and {len(special) - 4} more" if len(special) > 4 else ""
        return f"Tokenizer({kind}, {self.vocab:,} tokens, end {self.end}, special {names})"

    @classmethod
    def from_dict(cls, tokenizer_json: dict[str, Any], settings: dict[str, Any]) -> Tokenizer:
        """From the contents of a tokenizer.json and the special tokens for its tokenizer_config.json."""
        text = json.dumps(tokenizer_json, ensure_ascii=False, indent=1) + "\n"
        defaults = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        return cls(text, defaults | settings)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """From a folder's tokenizer.json and tokenizer_config.json (which may be absent)."""
        path = Path(folder) / "tokenizer.json"
        try:
            text = checked.read(path)
        except FileNotFoundError:
            raise FileMissing(f"There is no tokenizer.json in {folder}; name a folder that holds one.") from None
        config = path.with_name("tokenizer_config.json")
        settings = checked.parsed(checked.read(config), config) if config.exists() else {}
        return cls(text, settings, str(path))

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer opens; replaces no others."""
        folder = Path(folder)
        settings = json.dumps(self._settings, ensure_ascii=False, indent=1) + "\n"
        written = {folder / "tokenizer.json": self._text.encode(), folder / "tokenizer_config.json": settings.encode()}
        for path, data in written.items():
            if path.exists() and (not path.is_file() or path.read_bytes() != data):
                raise FileExists(f"{path} is there already, and is another; save to another folder, or move it away.")
        for path, data in written.items():
            write_atomically(path, data)

    @property
    def vocab(self) -> int:
        """One more than the largest id, so a table of this many rows holds every token."""
        return self._size

    @cached_property
    def _size(self) -> int:
        return 1 + max(self._engine.get_vocab(with_added_tokens=True).values())

    @cached_property
    def end(self) -> int | None:
        """The id that ends a document: the eos_token of the settings, else <|endoftext|> or a similar token, else
        None."""
        for token in (self._named_end, *END_NAMES):
            if token is not None and (i := self._engine.token_to_id(token)) is not None:
                return i
        return None

    def id_of(self, name: str) -> int | None:
        """The id of a special token, or another added word, by its name; None if there is none of that name."""
        added = self._json.get("added_tokens") or []
        return next((int(each["id"]) for each in added if each["content"] == name), None)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of a text. `special` adds what the file's own template adds (Llama's <s>; `train_bpe`'s: nothing)."""
        return self.encode_batch([text], special)[0]

    def encode_batch(self, texts: list[str], special: bool = True) -> list[list[int]]:
        """The ids of each text, on all cores. Raises ClocheError for a lone surrogate, which is not Unicode text."""
        try:
            with checked.panics_named(self._where, ()):
                encodings = self._engine.encode_batch_fast(texts, add_special_tokens=special)
        except TypeError:  # what the engine says to a lone surrogate
            for text in texts:
                _refuse_surrogates(text)
            raise
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, without special tokens; invalid UTF-8 becomes U+FFFD.

        The space that a SentencePiece-like file puts before a text is dropped again, and so is one that belongs to an added
        word at the start. To continue another text, use `decode_bytes` or `spell`.
        """
        ids = self._checked(ids)
        if not self._joins_bytes:
            return self._ask_decoder(ids)
        data = b"".join(self._joined(ids))
        first = next((i for i in ids if self._bytes[i]), None)
        drop = max(dropped_spaces(self._json), int(first in self._swallowing))
        while drop and data.startswith(b" "):
            data, drop = data[1:], drop - 1
        return data.decode("utf-8", "replace")

    def spell(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of tokens that arrive one by one, as soon as it is complete: a character may span several tokens.

        Joined, it is the text of `decode_bytes` of all of them.
        """
        decoder, made, sent = codecs.getincrementaldecoder("utf-8")("replace"), [], ""
        for token in tokens:
            made.append(token)
            if self._joins_bytes:
                new = decoder.decode(list(self._joined(self._checked(made[-2:])))[-1])
            else:
                whole = self.decode(made)
                new = whole[len(sent) :] if whole.startswith(sent) else ""
                sent += new
            if new:
                yield new
        if rest := decoder.decode(b"", final=True):
            yield rest

    def unused(self, size: int) -> tuple[int, ...]:
        """The ids below `size` without a token: padding of a model's vocabulary, and gaps."""
        used = set(self._engine.get_vocab(with_added_tokens=True).values())
        return tuple(i for i in range(size) if i not in used)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of the ids, nothing stripped: half a character stays half a character.

        With a tokenizer that loses characters (WordPiece), the bytes of `decode`.
        """
        if not self._joins_bytes:
            return self.decode(ids).encode()
        return b"".join(self._joined(self._checked(ids)))

    def _joined(self, ids: list[int]) -> Iterator[bytes]:
        """The bytes of each id, without the space that encoding adds after an added word."""
        before = None
        for i in ids:
            data = self._bytes[i]
            inserted = before in self._spaced_after and i not in self._added and data.startswith(b" ")
            yield data[1:] if inserted else data
            before = i

    def show(self, i: int) -> str:
        """One token for display: space ·, line end ↵, tab →, other control characters \\x0c, lone bytes <0xE2>."""
        (i,) = self._checked([i])
        data = self._bytes[i]
        if not data:
            return self._engine.id_to_token(i) or f"[{i}]"
        return visible(data.decode("utf-8", errors="surrogateescape"))

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """The number of UTF-8 bytes of each token, int32 [vocab]; 0 for special tokens.

        Over the ids of a text they sum to its UTF-8 bytes. A file that rewrites text before encoding counts the text as
        rewritten: SentencePiece-like ones put one space before each text, so theirs sum to one more. An added word that takes
        the spaces beside it along (lstrip, rstrip) counts as one space on that side, however many there were; one after which
        the file puts a space of its own counts one byte less. ClocheError for a tokenizer that loses characters (WordPiece).
        """
        if not self._keeps_bytes:
            raise TokenizerInvalid(
                f"A {type(self._engine.model).__name__} tokenizer without bytes to fall back on loses characters, so its "
                "tokens have no exact number of bytes; use a byte-level or byte-fallback tokenizer."
            )
        lengths = np.array([len(data) for data in self._bytes], dtype=np.int32)
        lengths[list(self._spaced_after)] -= 1  # the space that comes next is none of the text's
        lengths.flags.writeable = False
        return lengths

    def _ask_decoder(self, ids: list[int]) -> str:
        """The ids decoded by the file's own decoder; an added word ends like any other word."""
        ending, spelled = word_ending(self._json), []
        for i in ids:
            token = self._engine.id_to_token(i)
            if token is not None and i not in self._special:
                spelled.append(token + ending * (i in self._added and not token.endswith(ending or " ")))
        with checked.panics_named(self._where):
            if self._engine.decoder is None:
                return " ".join(spelled)
            return str(self._engine.decoder.decode(spelled))

    @cached_property
    def _added(self) -> dict[int, str]:
        """The added words that are not special."""
        added = self._json.get("added_tokens") or []
        return {each["id"]: each["content"] for each in added if not each.get("special")}

    @cached_property
    def _swallowing(self) -> frozenset[int]:
        """The added words that take the space before them with them."""
        return frozenset(
            i for i, word in self._added.items() if self._bytes[i].startswith(b" ") and not word.startswith(" ")
        )

    @cached_property
    def _spaced_after(self) -> frozenset[int]:
        if not (self._added and self._joins_bytes and dropped_spaces(self._json)):
            return frozenset()
        return spaced_after(self._added, self._bytes, lambda text: self.encode(text, special=False))

    @cached_property
    def _bytes(self) -> list[bytes]:
        with checked.panics_named(self._where):
            return token_bytes(self._json, self.vocab, lambda text: self.encode(text, special=False))

    @cached_property
    def _joins_bytes(self) -> bool:
        return joins_bytes(self._json)

    @cached_property
    def _keeps_bytes(self) -> bool:
        return keeps_bytes(self._json)

    def _checked(self, ids: Iterable[int]) -> list[int]:
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab:
                raise TokenizerInvalid(
                    f"Token {i} is outside this tokenizer's vocabulary of {self.vocab}; ids run from 0."
                )
        return ids


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = text[max(0, error.start - 20) : error.end + 20]
        raise TextEncoding(f"A lone surrogate in {where!r} is not Unicode text; replace it first.") from None
