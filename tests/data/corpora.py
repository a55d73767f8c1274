"""Packed tokens of documents of known lengths: each token says where it stands, but for the end tokens."""

import numpy as np

from cloche.data import PackedTokens

END = 0


def of_documents(*sources: list[int], names: tuple[str, ...] = ()) -> PackedTokens:
    """Sources of documents of these lengths, end tokens counted; tokens other than END (0) are 1, 2, 3, ... in order."""
    ids, summaries = [], []
    for i, sizes in enumerate(sources):
        for size in sizes:
            place = sum(map(len, ids))
            ids.append(np.append(np.arange(place + 1, place + size), END))
        name = names[i] if names else f"source {i}"
        summaries.append({"name": name, "tokens": sum(sizes), "bytes": sum(sizes), "documents": len(sizes)})
    row = np.concatenate(ids).astype("<u4")
    summary = {"bytes": len(row), "documents": sum(map(len, sources))}
    if len(sources) > 1:
        summary["mixture"] = summaries
    return PackedTokens([row[:7], row[7:]], summary, END)
