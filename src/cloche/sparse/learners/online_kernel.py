"""The sums that online dictionary learning keeps, and its atom update, compiled."""

from __future__ import annotations

import math

from cloche.sparse.compiled import kernel


@kernel(fastmath=True)
def accumulate(indices, values, x, products, targets):
    """products [N, N] += a a^T and targets [N, d] += a x^T over the signals x [n, d] with codes `indices`, `values` [n, k]."""
    slots, width = indices.shape[1], x.shape[1]
    for s in range(len(x)):
        signal = x[s]
        for i in range(slots):
            v = values[s, i]
            if v == 0:
                continue
            row, target = products[indices[s, i]], targets[indices[s, i]]
            for j in range(slots):
                row[indices[s, j]] += v * values[s, j]
            for c in range(width):
                target[c] += v * signal[c]


@kernel(fastmath=True)
def update_atoms(atoms, products, targets, least):
    """Each atom in turn to where |x - D a|^2, summed as the sums remember it, is least, and back to norm one.

    Atoms whose remembered energy is at most `least` stay as they are.
    """
    size, width = atoms.shape
    moved = atoms[0].copy()
    for j in range(size):
        energy = products[j, j]
        if energy <= least:
            continue
        for c in range(width):
            moved[c] = targets[j, c] + energy * atoms[j, c]
        for other in range(size):
            weight = products[j, other]
            if weight != 0:
                row = atoms[other]
                for c in range(width):
                    moved[c] -= weight * row[c]
        total = 0.0
        for c in range(width):
            total += moved[c] * moved[c]
        if total > 0:
            scale = 1.0 / math.sqrt(total)
            for c in range(width):
                atoms[j, c] = moved[c] * scale
