"""Brackets, agreement and names, repeated tokens and analogies."""
