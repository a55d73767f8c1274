"""Checks the checkpoints' manifests, and what only several files together can show."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cloche.runs.chain import Anchor
from cloche.runs.checkpoints import step_of
from cloche.runs.manifest import MANIFEST, Entry, is_inside, parse_anchors, unsealed
from cloche.runs.verification.files import Expected
from cloche.runs.verification.movement import Movement
from cloche.runs.verification.problem import Problem
from cloche.runs.verification.reading import Unreadable, content, json_object
from cloche.runs.verification.tree import FOLDER, Tree, shown

RESTORE = "restore it from a copy, or move the checkpoint away"
_WEIGHTS = "model.safetensors"


@dataclass
class Checkpoints:
    """What the manifests of all checkpoints say."""

    expected: dict[str, Expected] = field(default_factory=dict)
    anchors: dict[str, Mapping[str, Anchor]] = field(default_factory=dict)  # by the checkpoint's name
    steps: dict[str, int] = field(default_factory=dict)  # as the manifest has it
    problems: list[Problem] = field(default_factory=list)


def read(tree: Tree) -> Checkpoints:
    """Reads every manifest; one that is damaged keeps nobody from the others, nor from what can be read of itself."""
    found = Checkpoints()
    for name in tree.children("checkpoints"):
        folder = f"checkpoints/{name}"
        if step_of(name) is None or tree.kinds[folder] != FOLDER or folder in tree.unreadable:
            continue
        path = f"{folder}/{MANIFEST}"
        try:
            data = content(tree.root / path)
            document, is_whole = _document(data)
            _take(found, name, document)
        except Unreadable as error:
            found.problems.append(Problem(shown(path), str(error), RESTORE))
            found.expected |= _unlisted(tree, folder)
            continue
        if not is_whole:
            found.problems.append(Problem(path, "is not as it was written", RESTORE))
    return found


def _document(data: bytes) -> tuple[dict[str, Any], bool]:
    """A manifest, and whether it is as it was written; one that was edited still says what the other files must be."""
    try:
        return unsealed(data), True
    except ValueError:
        return json_object(data), False


def _take(found: Checkpoints, name: str, document: dict[str, Any]) -> None:
    try:
        step, files = document["step"], document["files"]
        entries = {file: Entry.parse(entry) for file, entry in files.items() if is_inside(file)}
        anchors = parse_anchors(document["logs"])
        if type(step) is not int or len(entries) < len(files):
            raise ValueError("a step is a number, and files are in the checkpoint")
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise Unreadable("is not readable as the manifest of a checkpoint") from error
    for file, entry in entries.items():
        found.expected[f"checkpoints/{name}/{file}"] = Expected.of(entry, RESTORE, file.endswith(".safetensors"))
    found.anchors[name], found.steps[name] = anchors, step
    if step != step_of(name):
        found.problems.append(
            Problem(f"checkpoints/{name}", f"is step {step} by its manifest", "give it back its name")
        )


def _unlisted(tree: Tree, folder: str) -> dict[str, Expected]:
    """Of a checkpoint whose manifest cannot be read only the tensors can be checked, for being readable and finite."""
    files = (path for path in tree.kinds if path.startswith(f"{folder}/"))
    return {path: Expected((), RESTORE, True) for path in files if path.endswith(".safetensors")}


def missing(tree: Tree, saved: Iterable[str]) -> Iterator[Problem]:
    """Checkpoints that were saved and are not there."""
    for name in saved:
        path = f"checkpoints/{name}"
        if step_of(name) is None or tree.hidden_by(path) or tree.kinds.get(path) == FOLDER:
            continue
        if path in tree.kinds or not os.path.lexists(tree.root / path):
            yield Problem(
                path,
                "is missing: it was saved, and not removed with Run.remove_checkpoint",
                "restore it from a copy",
            )


def inconsistent(tree: Tree, found: Checkpoints, hashes: Mapping[str, str]) -> Iterator[Problem]:
    """Two checkpoints with the same weights, unless the logs say that none changed between them, and training states of
    another step."""
    weights: dict[str, str] = {}
    movement: Movement | None = None
    for name in sorted(found.steps, key=lambda name: found.steps[name]):
        path = f"checkpoints/{name}/{_WEIGHTS}"
        same = weights.setdefault(hashes.get(path) or path, name)
        if same != name:
            movement = movement or Movement(tree.root / "log")  # read where it is needed, which is seldom
        if same != name and movement and not movement.none(found.steps[same], found.steps[name]):
            yield Problem(path, f"has the same weights as {same}", "move the checkpoint that is wrong away")
        state = f"checkpoints/{name}/state.json"
        if state in found.expected and hashes.get(state):
            try:
                step = json_object(content(tree.root / state)).get("step", found.steps[name])
            except Unreadable:
                continue
            if step != found.steps[name]:
                yield Problem(state, f"is the state of step {step}", RESTORE)
