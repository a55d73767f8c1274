"""Ctrl-C and SIGTERM end a training run after its current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Stoppable(Protocol):
    @property
    def interrupted(self) -> bool: ...
    def stop(self) -> None: ...


@contextmanager
def signals_stop(loop: Stoppable) -> Iterator[None]:
    """Inside the block Ctrl-C and SIGTERM stop the loop; a second one interrupts at once. Signals reach the main thread
    alone, so in another nothing is done."""

    def ask(*_: object) -> None:
        if loop.interrupted:
            raise KeyboardInterrupt
        loop.stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
