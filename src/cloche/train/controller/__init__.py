"""A learned controller of the optimiser: its Part, its training by evolution, and comparisons with fixed settings."""
