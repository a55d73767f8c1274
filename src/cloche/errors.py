"""The one error a user is meant to read."""


class ClocheError(Exception):
    """Something the caller asked for cannot be done as asked.

    The message is one sentence that says what is wrong, where, and how to fix it. The command line prints it and exits with 1.
    """


def shown(value: object, most: int = 80) -> str:
    """`repr(value)` for a sentence, at most `most` characters of it: what a user gave may be a million characters long."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a whole number of about {int(value.bit_length() * 0.30103) + 1:,} digits"
    if isinstance(value, str) and len(value) > most:
        value = value[: most + 1]
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"
    return text if len(text) <= most else text[: most - 1] + "…"
