"""The layout of `--help`: arguments and options by their metavars, and an example on one line."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help shows metavars as they are written, without Python types and the bounds of numbers."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return ["[OPTIONS]", *(str(argument.metavar) for argument in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            params = [param for param in self.get_params(ctx) if param.param_type_name == kind]
            rows = [_plain(*row) for param in params if (row := param.get_help_record(ctx))]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_example(self.epilog, formatter)


class Group(TyperGroup):
    """A command that has commands of its own."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_example(self.epilog, formatter)


def group(about: str, example: str) -> typer.Typer:
    """A Typer for a command that has commands of its own, with an example in its help."""
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, cls=Group, help=about, epilog=f"Example: {example}")


def _write_example(example: str | None, formatter: Any) -> None:
    """Writes the example without wrapping it, so that it can be copied."""
    if example:
        formatter.write_paragraph()
        formatter.write(f"  {example}\n")


def _plain(name: str, text: str) -> tuple[str, str]:
    """A row of the help without the type that typer adds to the name of an argument, and without the range of a number."""
    name = re.sub(r" <[^>]*>$", "", name)
    about, bracket, extras = text.rpartition("  [")
    if not bracket:
        return name, text
    kept = "; ".join(extra for extra in extras.removesuffix("]").split("; ") if not re.search("x[<>]|[<>]=?x", extra))
    return name, f"{about}  [{kept}]" if kept else about
