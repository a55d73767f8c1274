"""What an instrument looks at: a network, its tokenizer, and the name its findings are filed under."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor

from cloche.errors import ClocheError
from cloche.model import Network
from cloche.text import Tokenizer


class Subject(Protocol):
    """A Glass, or anything else that has these three."""

    @property
    def net(self) -> Network: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def checkpoint(self) -> str: ...


def encode(subject: Subject, prompt: str | Iterable[int] | Tensor) -> tuple[str, list[int]]:
    """A prompt's text and its ids, at least one. Text is encoded as the tokenizer does it, nothing added."""
    tokenizer = subject.tokenizer
    if isinstance(prompt, str):
        if tokenizer is None:
            raise ClocheError("This model has no tokenizer, so it cannot read text; give token ids instead.")
        ids = tokenizer.encode(prompt)
        if not ids and tokenizer.end is None:
            raise ClocheError("The prompt has no tokens to look at; give some text.")
        return prompt, ids or [int(tokenizer.end or 0)]
    ids = prompt.flatten().tolist() if isinstance(prompt, Tensor) else [int(i) for i in prompt]
    if not ids:
        raise ClocheError("The prompt has no tokens to look at; give at least one id.")
    return "".join(spell(tokenizer, ids)), ids


def spell(tokenizer: Tokenizer | None, ids: Iterable[int]) -> list[str]:
    """Each token's text, blanks as they are; where it has none, as `show` puts it; its number where there is no tokenizer."""
    if tokenizer is None:
        return [str(i) for i in ids]
    return [_spell(tokenizer, i) for i in ids]


def _spell(tokenizer: Tokenizer, i: int) -> str:
    if i >= tokenizer.vocab:
        return f"[{i}]"  # a row of the embedding that no token uses
    try:
        return tokenizer.decode_bytes([i]).decode() or tokenizer.show(i)
    except UnicodeDecodeError:
        return tokenizer.show(i)
