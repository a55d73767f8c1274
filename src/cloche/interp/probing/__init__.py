"""How well few units of a basis tell what a text says."""

from cloche.interp.probing.labels import token_labels
from cloche.interp.probing.sparse import sparse_probing

__all__ = ["sparse_probing", "token_labels"]
