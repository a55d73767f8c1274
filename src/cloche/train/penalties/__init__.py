"""Penalties: terms added to a loss that depend on weights, hidden activations or the whole function."""
