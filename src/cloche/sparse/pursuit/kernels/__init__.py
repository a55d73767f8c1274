"""Compiled pursuits of one signal at a time."""
