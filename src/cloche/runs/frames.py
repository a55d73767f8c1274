"""Records as a pandas DataFrame, where pandas is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cloche.errors import ExtraMissing


def data_frame(records: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Any:
    """A DataFrame with a row per record; what a record lacks is missing. Raises ClocheError where there is no pandas.

    >>> from cloche.runs import data_frame
    >>> data_frame([{"step": 1, "loss": 2.5}]).loss.mean()  # doctest: +SKIP
    2.5
    """
    try:
        import pandas
    except ImportError:
        raise ExtraMissing(
            "A DataFrame needs pandas, which is not installed: pip install 'cloche[notebook]'."
        ) from None
    return pandas.DataFrame(list(records), columns=None if columns is None else list(dict.fromkeys(columns)))
