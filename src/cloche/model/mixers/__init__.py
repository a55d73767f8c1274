"""Attention: how positions read one another."""
