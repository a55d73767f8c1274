"""Passes over many edits or many texts, and weights folded for comparison."""
