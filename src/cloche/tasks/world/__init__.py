"""Facts of an invented world, which are learned from training text."""
