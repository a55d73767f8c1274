"""How well few units of a basis tell what a text says."""

from glasshouse.interp.probing.labels import token_labels
from glasshouse.interp.probing.sparse import sparse_probing

__all__ = ["sparse_probing", "token_labels"]
