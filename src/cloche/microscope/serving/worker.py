"""The process that loads the models: `python -m cloche.microscope.serving.worker`, one JSON object per line in and
out.

In:  {"id": 7, "ask": "lens", "checkpoint": "<folder>", "prompt": "..."}
     {"id": 8, "ask": "feature", "checkpoint": "<folder>", "dictionary": "<name>", "tokens": 48960, "feature": 1203}
     {"id": 9, "ask": "look", "checkpoint": "<folder>", "instrument": "activation-density", "options": {"windows": "2000"}}
Out: {"id": 7, "ok": {...}} or {"id": 7, "error": "one sentence"}

Started by the server on the first request, so that opening a run never imports torch, and a separate process, so that
a model that does not fit in memory costs one answer and not the page.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from cloche.errors import CheckpointMissing, ClocheError, WorkerFailed
from cloche.microscope.folder.reading import RunFiles
from cloche.part import import_parts

MODELS_KEPT = 2
READERS_KEPT = 1
ANSWERS_KEPT = 8
TOKENS, WINDOW = 49_152, 256  # what `cloche sae features` reads


def files_of(checkpoint: str) -> RunFiles:
    """The run of a checkpoint. Raises ClocheError if a file that the model is loaded from leads outside it."""
    folder = Path(checkpoint)
    if folder.parent.name != "checkpoints":
        raise CheckpointMissing(f"{checkpoint} is not a checkpoint of a run.")
    files = RunFiles(folder.parents[1])
    files.all_inside(f"checkpoints/{folder.name}")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        files.file(name)
    return files


@lru_cache(maxsize=MODELS_KEPT)
def load(checkpoint: str) -> Any:
    import cloche

    files_of(checkpoint)
    return cloche.load(checkpoint)


@lru_cache(maxsize=ANSWERS_KEPT)
def lens(checkpoint: str, prompt: str) -> dict[str, Any]:
    """The data of a logit-lens finding (docs/architecture.md) with its one-sentence summary and its notes."""
    from cloche.interp import logit_lens

    finding = logit_lens(load(checkpoint), prompt)
    notes = getattr(finding, "notes", None) or finding.data.get("notes") or []
    return {
        "summary": finding.summary,
        "checkpoint": Path(checkpoint).name,
        "notes": [notes] if isinstance(notes, str) else list(notes),
        "data": finding.data,
    }


@lru_cache(maxsize=READERS_KEPT)
def reader(checkpoint: str, dictionary: str, tokens: int) -> Any:
    """A reader of a dictionary of the checkpoint's run, over about `tokens` of its held-out tokens."""
    from cloche.data import PackedTokens
    from cloche.interp import FeatureReader, Route, held_out_windows, open_dictionary
    from cloche.runs import Run

    files, glass = files_of(checkpoint), load(checkpoint)
    files.all_inside(f"dictionaries/{dictionary}")
    require_text_inside(files)
    sae = open_dictionary(Run.open(files.root), dictionary)
    site = sae.trained_on.site
    named = {place.model for place in Route.parse(site).places} - {""} if site else set()
    others = {name: load(str(files.root / "checkpoints" / name)).net for name in sorted(named)}
    text = PackedTokens.open(files.root, "validation")
    return FeatureReader(glass, sae, held_out_windows(text, glass.net, tokens or TOKENS), others)


def feature(checkpoint: str, dictionary: str, tokens: int, feature: int) -> dict[str, Any]:
    """One feature's page as in a `features` finding, listed there or not. `tokens` is the number that the finding
    read, without each window's first token."""
    from cloche.interp import FIRST

    length = min(WINDOW, load(checkpoint).net.length or WINDOW)
    page: dict[str, Any] = reader(checkpoint, dictionary, -(-tokens // (length - FIRST)) * length).page(feature)
    return page


def look(checkpoint: str, instrument: str, options: dict[str, str]) -> dict[str, Any]:
    """The finding of any instrument, as it would be stored in a run. `options` are text, as for `cloche look`."""
    from cloche.interp import Materials, fill_in, find_instrument, read_options
    from cloche.runs import Run

    files, glass = files_of(checkpoint), load(checkpoint)
    require_text_inside(files)
    files.all_inside("dictionaries")
    files.all_inside("lenses")
    name, function = find_instrument(instrument)
    materials = Materials(glass, Run(files.root), paths=False)
    values = read_options(name, function, {key: [text] for key, text in options.items()}, materials)
    found: dict[str, Any] = function(glass, **fill_in(name, function, values, materials)).record()
    return found


def require_text_inside(files: RunFiles) -> None:
    """Raises ClocheError if the packed text leads outside the run."""
    files.all_inside("data")
    splits = (files.object("data/data.json") or {}).get("splits") or {}
    for shard in splits.get("validation", {}).get("shards", []):
        files.file(f"data/{shard['file']}")


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request. Errors that a user can cause are a sentence; so is any other failure, with its
    traceback on stderr."""
    reply: dict[str, Any] = {"id": request.get("id")}
    asked = {key: value for key, value in request.items() if key not in ("id", "ask")}
    try:
        known: dict[str, Callable[..., dict[str, Any]]] = {"lens": lens, "feature": feature, "look": look}
        if request.get("ask") not in known:
            raise WorkerFailed(f"The worker cannot answer {request.get('ask')!r}: it knows {', '.join(known)}.")
        reply["ok"] = known[request["ask"]](**asked)
    except ClocheError as error:
        reply["error"] = str(error)
    except Exception as error:  # any failure of a model must reach the page as a sentence
        traceback.print_exc()
        reply["error"] = f"The {request.get('ask')} failed: {type(error).__name__}: {error}"
    return reply


def work(requests: TextIO, replies: TextIO) -> None:
    """Answers line by line until the requests end, when the server closes them or has ended."""
    for line in requests:
        reply = answer(json.loads(line))
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    # A library that prints must not break the protocol: replies get their own handle, and stdout becomes stderr.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import_parts(word.removeprefix("--import=") for word in sys.argv[1:])
    work(sys.stdin, replies)


if __name__ == "__main__":
    main()
