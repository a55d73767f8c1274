"""Optimisers that know the products of gradients from the left and from the right."""
