"""Folders that networks are written to and read from: whose they are, and whether their files are as they were written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cloche.errors import FileDamaged, FileExists, FolderForeign
from cloche.files import is_abandoned, sha256_of
from cloche.model.huggingface.known import known_sha256

CONFIG, WEIGHTS, MANIFEST = "config.json", "model.safetensors", "manifest.json"
BESIDE = (  # what may stand beside a network, and stays when it is written again
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "generation_config.json"),
)


def require_room(folder: Path) -> list[Path]:
    """The files in `folder` that stay when a network is written to it; ClocheError where it has others than a network's.

    A network that cloche wrote is replaced, another's is not.
    """
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise FileExists(f"{folder} is a file; name a folder for the network.")
    found = [path for path in folder.iterdir() if not is_abandoned(path)]
    others = sorted(path.name for path in found if path.name not in (*BESIDE, CONFIG, WEIGHTS))
    if not others and any(path.name in (CONFIG, WEIGHTS) for path in found) and not _is_own(folder / CONFIG):
        others = [CONFIG]
    if others:
        raise FolderForeign(
            f"{folder} holds something other than a network that cloche wrote ({', '.join(others[:3])}), and nothing of it is "
            "overwritten; name another folder."
        )
    return [path for path in found if path.name in BESIDE]


def _is_own(config: Path) -> bool:
    try:
        return "cloche" in json.loads(config.read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def require_as_written(folder: Path, names: Sequence[str] = (CONFIG, WEIGHTS)) -> None:
    """Raises ClocheError where a manifest.json beside a network records other hashes than its files have.

    A file is hashed once for as long as it does not change (see `known_sha256`).
    """
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        written = {name: files[name]["sha256"] for name in names if name in files}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # none, or one of another kind
    for name, sha256 in written.items():
        path = folder / name
        if path.is_file() and known_sha256(path) != sha256 and sha256_of(path) != sha256:
            raise FileDamaged(
                f"{path} does not have the bytes that were written (its sha256 is not that of {MANIFEST}); restore it from a "
                "copy, or load it as it is with check_files=False."
            )
