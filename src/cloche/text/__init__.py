"""Tokenizers: train, load, save, count bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.text.bpe import END, SMALLEST_VOCAB, train_bpe
    from cloche.text.tokenizer import Tokenizer

__all__ = ["END", "SMALLEST_VOCAB", "Tokenizer", "train_bpe"]

__getattr__ = lazy(__name__)
