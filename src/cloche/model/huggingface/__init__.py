"""Hugging Face checkpoints in and out: one file of names a family."""

from cloche.model.huggingface.files import describe, load_network, save_network

__all__ = ["describe", "load_network", "save_network"]
