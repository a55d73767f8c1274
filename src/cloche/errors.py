"""The one error a user is meant to read."""


class ClocheError(Exception):
    """Something the caller asked for cannot be done as asked.

    The message is one sentence that says what is wrong, where, and the mend. The command line prints it and exits with 1.
    """
