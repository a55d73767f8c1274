"""Copying, sorting and arithmetic."""
