"""What is in a run folder, by kind, without opening anything: links are not followed, pipes and devices not touched."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

FILE, FOLDER, LINK = "file", "folder", "symbolic link"
_OTHER = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFBLK: "device", stat.S_IFCHR: "device"}


@dataclass
class Tree:
    """The kind of everything under a folder, by its path within it with forward slashes."""

    root: Path
    kinds: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)  # folders, and why

    @classmethod
    def of(cls, root: Path) -> Tree:
        tree = cls(root)
        waiting = [""]
        while waiting:
            waiting += tree._list(waiting.pop())
        return tree

    def _list(self, folder: str) -> Iterator[str]:
        """Notes what is directly in a folder; yields the folders among it."""
        try:
            with os.scandir(self.root / folder) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in entries]
        except OSError as error:
            self.unreadable[folder] = error.strerror or type(error).__name__
            return
        for name, mode in sorted(found):
            path = f"{folder}/{name}" if folder else name
            self.kinds[path] = kind_of(mode)
            if stat.S_ISDIR(mode):
                yield path

    def children(self, folder: str) -> list[str]:
        """The names directly in a folder."""
        start = f"{folder}/" if folder else ""
        return [path[len(start) :] for path in self.kinds if path.startswith(start) and "/" not in path[len(start) :]]

    def hidden_by(self, path: str) -> str | None:
        """The link, pipe or unreadable folder on the way to a path, which says by itself why that cannot be reached."""
        for parent in ("" if parent == PurePosixPath(".") else str(parent) for parent in PurePosixPath(path).parents):
            if parent in self.unreadable or self.kinds.get(parent, FOLDER) not in (FILE, FOLDER):
                return parent
        return None


def kind_of(mode: int) -> str:
    if stat.S_ISREG(mode):
        return FILE
    if stat.S_ISDIR(mode):
        return FOLDER
    return LINK if stat.S_ISLNK(mode) else _OTHER.get(stat.S_IFMT(mode), "special file")


def shown(path: str) -> str:
    """A path as one line of text, whatever bytes its name has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
