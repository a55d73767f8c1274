"""Tokenizers: train, load, save, count bytes."""

from glasshouse.text.bpe import END, train_bpe
from glasshouse.text.tokenizer import Tokenizer

__all__ = ["END", "Tokenizer", "train_bpe"]
