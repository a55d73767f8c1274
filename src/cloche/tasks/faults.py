"""Faults of a task's own code, which may be anybody's, as one sentence that names the task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from cloche.errors import ClocheError, TaskInvalid

__all__ = ["faults_of"]


@contextmanager
def faults_of(task: object) -> Iterator[None]:
    """Raises TaskInvalid, naming the task and its method, for whatever else is raised inside."""
    try:
        yield
    except ClocheError:
        raise
    except Exception as error:
        cls = type(task)
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        own = [f.f_code.co_name for f in frames if f.f_globals.get("__name__") == cls.__module__]
        where = f" in {own[-1]}" if own else ", as what its methods return does not fit together"
        raise TaskInvalid(
            f"{cls.__name__} raised {type(error).__name__}: {str(error)[:200]}{where}; correct the task."
        ) from error
