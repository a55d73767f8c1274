"""Making a run of a model that was trained elsewhere: its revisions become checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloche.errors import WeightsInvalid
from cloche.files import put_in_place, temporary_folder, to_json, writing_folder
from cloche.runs.checkpoints import checkpoint_name
from cloche.runs.folder import Run
from cloche.runs.linking import How, take
from cloche.runs.making import refuse_taken
from cloche.runs.records import AdoptedRevision, Adoption

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Revision:
    """One state of a model: its step, what its source calls it, the files of its weights (shards and their index), the folder
    of its tokenizer, and the commit on the Hugging Face Hub where it is from there.

    >>> from pathlib import Path
    >>> from cloche.runs import Revision
    >>> here = Path("step1000")
    >>> Revision(1000, "step1000", here, (here / "model.safetensors",), here).checkpoint
    'step-001000'
    """

    step: int
    name: str
    folder: Path
    weights: tuple[Path, ...]
    tokenizer: Path
    commit: str = ""

    @property
    def checkpoint(self) -> str:
        return checkpoint_name(self.step)


@dataclass
class Adopted:
    """What `adopt` made, and how many files and bytes came as reflinks, hard links and copies.

    >>> from cloche.runs import Adopted
    >>> Adopted(cloche.runs.Run("first")).files["copy"]
    0
    """

    run: Run
    files: dict[How, int] = field(default_factory=lambda: defaultdict(int))
    bytes: dict[How, int] = field(default_factory=lambda: defaultdict(int))

    def take(self, source: Path, target: Path, copy: bool) -> None:
        how = take(source, target, copy)
        self.files[how] += 1
        self.bytes[how] += target.stat().st_size


def adopt(
    out: Path,
    source: str,
    revisions: Sequence[Revision],
    command: Sequence[str] = (),
    pack: Callable[[Path], object] | None = None,
    copy: bool = False,
) -> Adopted:
    """Makes the run folder `out` of revisions of one model, each a checkpoint.

    `source` is where the model is from, for run.json; `pack` fills a folder with `data/`, the tokens that the run is to hold.
    The weights are taken without a second copy of their bytes where that is possible, unless `copy`; what is small is copied.
    The folder appears complete or not at all. Raises ClocheError for a folder that holds anything, and for two revisions of
    the same weights.

    >>> from pathlib import Path
    >>> from cloche.runs import Revision, adopt
    >>> here = Path("step1000")
    >>> here.mkdir()
    >>> for name in ("config.json", "model.safetensors", "tokenizer.json"):
    ...     _ = (here / name).write_text("{}")
    >>> made = adopt(Path("first"), "here", [Revision(1000, "step1000", here, (here / "model.safetensors",), here)])
    >>> made.run.checkpoints(), made.run.adopted["source"]
    ([Checkpoint(step=1000, path=...)], 'here')
    """
    refuse_taken(out)
    with writing_folder(out) as fresh:
        run = Run(fresh)
        made = Adopted(Run(out))
        run.begin(None, 0, command)
        if pack is not None:  # first, because it may take long, and text may be too little
            with temporary_folder(fresh / "packed") as packed:
                pack(packed)
                put_in_place(packed / "data", fresh / "data")
            run.record("data")
        for revision in revisions:
            with run.new_checkpoint(revision.step) as folder:
                _fill(folder, revision, revisions[-1].tokenizer, made, copy)
        for name in TOKENIZER_FILES:
            if (path := revisions[-1].tokenizer / name).is_file():
                run.write_bytes(name, path.read_bytes())
        record = [_record(run, revision) for revision in revisions]
        _require_different(record)
        adoption: Adoption = {"source": source, "revisions": record}
        run.write_bytes("run.json", to_json(run.info | {"adopted": adoption}, indent=1))
        run.anchor_logs()
    return made


def _fill(folder: Path, revision: Revision, shared: Path, made: Adopted, copy: bool) -> None:
    """Puts a revision's files into its checkpoint; its tokenizer where it is not the run's."""
    for path in revision.weights:
        made.take(path, folder / path.name, copy)
    made.take(revision.folder / "config.json", folder / "config.json", copy=True)
    for name in TOKENIZER_FILES:
        own, other = revision.tokenizer / name, shared / name
        if own.is_file() and not (other.is_file() and other.read_bytes() == own.read_bytes()):
            made.take(own, folder / name, copy=True)


def _record(run: Run, revision: Revision) -> AdoptedRevision:
    files = run.checkpoint(revision.step).manifest["files"]
    hashes = {path.name: files[path.name]["sha256"] for path in revision.weights}
    record: AdoptedRevision = {"checkpoint": revision.checkpoint, "revision": revision.name, "sha256": hashes}
    return {**record, "commit": revision.commit} if revision.commit else record


def _require_different(record: Sequence[AdoptedRevision]) -> None:
    seen: dict[str, AdoptedRevision] = {}
    for item in record:
        key = repr(sorted(item["sha256"].items()))
        if (same := seen.setdefault(key, item)) is not item:
            raise WeightsInvalid(
                f"The revisions {same['revision']} and {item['revision']} have the same weights, so they are one "
                f"({same['checkpoint']} and {item['checkpoint']}): leave one of them out."
            )
