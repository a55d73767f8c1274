"""From what callers give (a text, several texts, or token ids) to ids: the one implementation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from cloche.errors import PromptInvalid, TokenizerMissing, shown


class Encoder(Protocol):
    """What this module needs of a tokenizer."""

    @property
    def end(self) -> int | None: ...
    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...


def is_texts(prompt: Any) -> TypeGuard[list[str] | tuple[str, ...]]:
    """Whether a prompt is several texts.

    >>> from cloche.decode import is_texts
    >>> is_texts(["one", "two"]), is_texts("one")
    (True, False)
    """
    return isinstance(prompt, list | tuple) and bool(prompt) and all(isinstance(text, str) for text in prompt)


def encoded(texts: list[str], tokenizer: Encoder | None, name: str = "This model") -> list[list[int]]:
    """The ids of each text as its tokenizer encodes it, nothing added; an empty one begins at the end-of-text token, as
    documents do in training. Raises ClocheError without a tokenizer.

    >>> from cloche.decode import encoded
    >>> encoded(["one"], None)
    Traceback (most recent call last):
    cloche.errors.TokenizerMissing: This model has no tokenizer.json, so it cannot read text; give token ids instead.
    """
    if tokenizer is None:
        raise TokenizerMissing(f"{name} has no tokenizer.json, so it cannot read text; give token ids instead.")
    rows = tokenizer.encode_batch(texts)
    if not all(rows) and tokenizer.end is None:
        raise TokenizerMissing("This tokenizer has no end-of-text token to begin an empty prompt with; give a prompt.")
    return [row or [int(tokenizer.end or 0)] for row in rows]


def read_prompt(prompt: Any, tokenizer: Encoder | None, name: str = "This model") -> tuple[Tensor, Tensor | None]:
    """Token ids [batch, position] of a prompt and its left padding [batch], None where nothing is padded.

    prompt: a text, a list of texts (padded on the left where they are of unequal length), or ids [batch, position] or
    [position], which pass as they are.

    >>> from cloche.decode import read_prompt
    >>> read_prompt([1, 2, 3], None)
    (tensor([[1, 2, 3]]), None)
    """
    if isinstance(prompt, str) or is_texts(prompt):
        rows = encoded([prompt] if isinstance(prompt, str) else list(prompt), tokenizer, name)
        longest = max(map(len, rows))
        pad = torch.tensor([longest - len(row) for row in rows])
        return torch.tensor([[0] * (longest - len(row)) + row for row in rows]), pad if bool(pad.any()) else None
    ids = _tensor(prompt, "A prompt is a text, a list of texts, or ids [batch, position]")
    return (ids[None] if ids.ndim == 1 else ids), None


def read_windows(
    windows: Any, tokenizer: Encoder | None, longest: int | None, name: str = "This model"
) -> Iterator[Tensor]:
    """Batches of ids [batch, position] of what an instrument reads: batches of ids, texts, or one text.

    Each text is a batch of its own; one longer than `longest` tokens is cut into windows of so many.

    >>> from cloche.decode import read_windows
    >>> list(read_windows([[[1, 2, 3]], [4, 5]], None, None))
    [tensor([[1, 2, 3]]), tensor([[4, 5]])]
    """
    if isinstance(windows, str):
        windows = [windows]
    if not isinstance(windows, Iterable):
        raise PromptInvalid(f"Windows are texts, or batches of ids [batch, position]; got {shown(windows)}.")
    for window in windows:
        if isinstance(window, str) or is_texts(window):
            for row in encoded([window] if isinstance(window, str) else list(window), tokenizer, name):
                yield from torch.tensor([row]).split(longest or len(row), dim=1)
        else:
            ids = _tensor(window, "Windows are texts, or batches of ids [batch, position] of equal length")
            yield ids.reshape(-1, ids.shape[-1]) if ids.ndim else ids.reshape(1, 1)


def _tensor(ids: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise PromptInvalid(f"{what}; got {shown(ids)}.") from error
