"""Blocks and what is made of them."""
