"""Reading and writing autoencoders in the formats of other libraries, with equal codes and reconstructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.sparse.saes.exchange.dictionary_learning import read_dictionary_learning
    from cloche.sparse.saes.exchange.foreign import foreign_reader
    from cloche.sparse.saes.exchange.saelens import read_saelens
    from cloche.sparse.saes.exchange.write import save_saelens

__all__ = ["foreign_reader", "read_dictionary_learning", "read_saelens", "save_saelens"]

__getattr__ = lazy(__name__)
