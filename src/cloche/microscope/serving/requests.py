"""Requests to the worker: it is started by the first request, handles one at a time, and failures become one
sentence."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections import OrderedDict
from collections.abc import Sequence
from typing import IO, Any

from cloche import part_text
from cloche.errors import WorkerFailed
from cloche.microscope.folder.reading import parse_json
from cloche.microscope.serving.bounds import Busy

SECONDS_PER_ASK = 120.0
ANSWER_BYTES_KEPT = 16 << 20
MOST_BYTES_PER_ANSWER = 1 << 25
MOST_WAITING = 8


class Worker:
    """The worker process, restarted by the next request after a crash or a timeout."""

    def __init__(self, seconds: float = SECONDS_PER_ASK, command: Sequence[str] | None = None) -> None:
        self.command = list(command or (sys.executable, "-m", "cloche.microscope.serving.worker"))
        self.seconds = seconds
        self._answers: OrderedDict[str, bytes] = OrderedDict()  # as JSON, a tenth of the size of parsed objects
        self._process: Process | None = None
        self._stderr: IO[bytes] | None = None
        self._lock: asyncio.Lock | None = None
        self._count, self._waiting = 0, 0

    @property
    def pid(self) -> int | None:
        """The process id, or None if the worker is not running."""
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if alive and self._process is not None else None

    async def ask(self, ask: str, **arguments: str | int | dict[str, str]) -> dict[str, Any]:
        """The worker's answer; a repeated request is answered from memory. Raises ClocheError on failure, Busy if too
        many requests are waiting."""
        if self._waiting >= MOST_WAITING:
            raise Busy(f"{MOST_WAITING} requests are already waiting for the model: try again when they are answered.")
        # Created here because it must belong to the server's event loop.
        self._lock = self._lock or asyncio.Lock()
        key = json.dumps([ask, arguments], sort_keys=True)
        self._waiting += 1
        try:
            async with self._lock:
                line = self._answers.get(key) or await self._ask({"ask": ask, **arguments})
                self._keep(key, line)
        finally:
            self._waiting -= 1
        reply: dict[str, Any] = parse_json(line, "The worker's answer", MOST_BYTES_PER_ANSWER)
        return reply["ok"]

    def _keep(self, key: str, line: bytes) -> None:
        self._answers[key] = line
        self._answers.move_to_end(key)
        while sum(map(len, self._answers.values())) > ANSWER_BYTES_KEPT:
            self._answers.popitem(last=False)

    async def _ask(self, request: dict[str, Any]) -> bytes:
        process = await self._started()
        assert process.stdin is not None and process.stdout is not None
        self._count += 1
        try:
            process.stdin.write(json.dumps({"id": self._count, **request}).encode() + b"\n")
            line = await asyncio.wait_for(process.stdout.readline(), self.seconds)
        except TimeoutError:
            await self.close()
            raise WorkerFailed(
                f"The {request['ask']} took longer than {self.seconds:.0f} seconds and was stopped: try a shorter prompt."
            ) from None
        except ConnectionError:
            line = b""
        except ValueError:
            await self.close()
            raise WorkerFailed(f"The {request['ask']} gave an answer that is too long to show.") from None
        except asyncio.CancelledError:
            # A cancelled request: its answer would be taken for that of the next one.
            await self.close()
            raise
        if not line.endswith(b"\n"):
            raise WorkerFailed(await self._exit_reason(request["ask"]))
        reply = parse_json(line, "The worker's answer", MOST_BYTES_PER_ANSWER)
        if "error" in reply:
            raise WorkerFailed(reply["error"])
        return line

    async def _started(self) -> Process:
        if self.pid is None:
            await self.close()
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
            # Half the cores at most: the run may still be training on them.
            threads = str(max(1, (os.cpu_count() or 1) // 2))
            environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                *(f"--import={name}" for name in part_text.imported),
                stdin=PIPE,
                stdout=PIPE,
                stderr=self._stderr,
                limit=MOST_BYTES_PER_ANSWER,
                env=environment,
            )
        assert self._process is not None
        return self._process

    async def _exit_reason(self, ask: str) -> str:
        """Why the worker ended, from its exit status and the last line of its stderr."""
        assert self._process is not None and self._stderr is not None
        status = await self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read()[-4000:].decode(errors="replace").strip().splitlines()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        said = f" saying: {lines[-1].strip()}" if lines else ""
        return f"The process that runs the model {how}{said}; the {ask} got no answer. Try again to restart it."

    async def close(self) -> None:
        """Ends the worker, if it is running."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None
