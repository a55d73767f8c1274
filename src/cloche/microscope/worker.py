"""The process that holds the models: `python -m cloche.microscope.worker`, one JSON object a line in and out.

In:  {"id": 7, "ask": "lens", "checkpoint": "<folder>", "prompt": "..."}
Out: {"id": 7, "ok": {...}} or {"id": 7, "error": "one sentence"}

Started by the server on the first question, so that opening a run never imports torch, and apart from it, so that a
model that does not fit in memory costs an answer and not the page.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from cloche.errors import ClocheError

MODELS_KEPT = 2


@lru_cache(maxsize=MODELS_KEPT)
def load(checkpoint: str) -> Any:
    import cloche

    return cloche.load(checkpoint)


@lru_cache(maxsize=128)
def lens(checkpoint: str, prompt: str) -> dict[str, Any]:
    """The data of a logit-lens finding (docs/architecture.md) with its one-sentence summary."""
    from cloche.interp import logit_lens

    finding = logit_lens(load(checkpoint), prompt)
    return {"summary": finding.summary, "checkpoint": Path(checkpoint).name, "data": finding.data}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request. What a user can cause is a sentence; any other failure is one too, its traceback on stderr."""
    reply: dict[str, Any] = {"id": request.get("id")}
    try:
        if request.get("ask") != "lens":
            raise ClocheError(f"The worker cannot answer {request.get('ask')!r}: it knows 'lens'.")
        reply["ok"] = lens(request["checkpoint"], request["prompt"])
    except ClocheError as error:
        reply["error"] = str(error)
    except Exception as error:  # whatever a model or a prompt can provoke must reach the page as a sentence
        traceback.print_exc()
        reply["error"] = f"The {request.get('ask')} failed: {type(error).__name__}: {error}"
    return reply


def work(requests: TextIO, replies: TextIO) -> None:
    """Answers line by line until the requests end: the server closed them or is gone."""
    for line in requests:
        reply = answer(json.loads(line))
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    # A library that prints must not break the protocol: replies get a private handle, and stdout becomes stderr.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    work(sys.stdin, replies)


if __name__ == "__main__":
    main()
