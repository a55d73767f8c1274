"""The verbs. Each imports the rooms it needs when it is called, so that help costs no torch."""

from cloche.cli.app import main

__all__ = ["main"]
