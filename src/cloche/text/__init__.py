"""Tokenizers: train, load, save, count bytes."""

from cloche.text.bpe import END, train_bpe
from cloche.text.tokenizer import Tokenizer

__all__ = ["END", "Tokenizer", "train_bpe"]
