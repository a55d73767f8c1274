"""Recall of facts, rules and edges that the prompt gives."""
