"""One round of K-SVD's atom updates, compiled."""

from __future__ import annotations

import math

from cloche.sparse.compiled import kernel


@kernel(fastmath=True)
def update_pairs(atoms, values, left, slots, starts):
    """Each atom and its coefficients in turn: one step of the power method on what the other atoms leave of its signals.

    `left` [n, d] is x - D a and is kept so. `slots` are places in `values` [n, k], seen flat, sorted by atom; those of atom j
    run from starts[j] to starts[j + 1].
    """
    size, width = atoms.shape
    k = values.shape[1]
    moved = atoms[0].copy()
    for j in range(size):
        atom = atoms[j]
        energy = 0.0
        moved[:] = 0
        for p in range(starts[j], starts[j + 1]):
            s = slots[p] // k
            v, row = values[s, slots[p] - s * k], left[s]
            energy += v * v
            for c in range(width):
                moved[c] += v * row[c]
        total = 0.0
        for c in range(width):
            moved[c] += energy * atom[c]
            total += moved[c] * moved[c]
        if energy == 0 or total == 0:
            continue
        scale = 1.0 / math.sqrt(total)
        overlap = 0.0  # of the atom as it was with the atom as it will be
        for c in range(width):
            moved[c] *= scale
            overlap += moved[c] * atom[c]
        for p in range(starts[j], starts[j + 1]):
            s = slots[p] // k
            v, row = values[s, slots[p] - s * k], left[s]
            new = v * overlap
            for c in range(width):
                new += row[c] * moved[c]
            for c in range(width):
                row[c] += v * atom[c] - new * moved[c]
            values[s, slots[p] - s * k] = new
        for c in range(width):
            atom[c] = moved[c]
