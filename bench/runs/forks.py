"""Commands in forked processes: everything is imported once, and each child costs a fork instead of a start of seconds.

A child runs one `cloche` command, or one function, in a process group of its own, with its output in a file. It can be killed
at any moment, or kill itself at its n-th change to a folder (a file opened for writing, a rename, a removal, a flush), which is
how every point between two writes is reached.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree"}
UNEXPECTED = ("an unexpected error", "Traceback (most recent call last)", "Fatal Python error")


@dataclass(frozen=True)
class Outcome:
    """How a child ended: its exit code (minus the signal's number after a signal), its output, and what it cost."""

    code: int
    output: str
    cpu: float
    timed_out: bool = False

    @property
    def clean(self) -> bool:
        """Whether it succeeded, or failed with a sentence: no traceback, no signal, no hang."""
        return (
            not self.timed_out and self.code in (0, 1, 2, 130) and not any(word in self.output for word in UNEXPECTED)
        )


class Child:
    """A forked process at work. `wait` for it, or `kill` it."""

    def __init__(self, work: Callable[[], object], output: Path) -> None:
        self._output = output
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _live(work, output)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = 120.0) -> Outcome:
        """Its outcome; a child that takes longer is killed and counts as timed out."""
        deadline, late = time.monotonic() + seconds, False
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline and not late:
                late = True
                self.kill()
            time.sleep(0.005)
        self.kill()  # whatever it started itself
        output = self._output.read_text(errors="replace") if self._output.exists() else ""
        cpu = usage.ru_utime + usage.ru_stime
        return Outcome(os.waitstatus_to_exitcode(status), output, cpu, late)


def _live(work: Callable[[], object], output: Path) -> None:
    """The child's whole life; never returns."""
    code = 70
    try:
        with suppress(OSError):
            os.setpgid(0, 0)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def command(*words: object) -> Callable[[], None]:
    """The work of one `cloche` command line."""

    def work() -> None:
        from cloche.cli import main

        main([str(word) for word in words])

    return work


def watched(work: Callable[[], object], folder: Path, before: Callable[[int], object]) -> Callable[[], object]:
    """`work`, in which `before(n)` is called just before the n-th change below `folder`, from 1."""

    def run() -> object:
        count, below, real = [0], str(folder), os.fsync

        def change(path: Any) -> None:
            if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(below):
                count[0] += 1
                before(count[0])

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or writes:
                change(arguments[0])

        def fsync(handle: int) -> None:
            change(os.readlink(f"/proc/self/fd/{handle}"))
            real(handle)

        os.fsync = fsync
        sys.addaudithook(hook)
        return work()

    return run


def killed_at(work: Callable[[], object], folder: Path, change: int) -> Callable[[], object]:
    """`work`, killed by SIGKILL just before its change number `change` to `folder`."""
    return watched(work, folder, lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == change else None)


def counted(work: Callable[[], object], folder: Path, note: Path) -> Callable[[], object]:
    """`work`, after which the file `note` has grown by one byte per change: the points at which the work can be cut."""
    handle = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return watched(work, folder, lambda n: os.write(handle, b"."))


def bounded(work: Callable[[], object], cpu_seconds: int, megabytes: int | None = None) -> Callable[[], object]:
    """`work` under limits of the system: CPU seconds, and megabytes of memory beyond what the imports already took."""

    def run() -> object:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
        if megabytes is not None:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = used + megabytes * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return work()

    return run


def import_everything(modules: Sequence[str]) -> None:
    """What every child will need, imported before the first fork; nothing is computed, so that no thread exists yet."""
    from importlib import import_module

    for module in modules:
        import_module(module)
