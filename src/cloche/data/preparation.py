"""From files to a folder that can be trained on: split, tokenizer, packed tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from cloche.data.pack import INDEX, DataIndex, pack, write_index
from cloche.data.reading import Document, ReadingReport
from cloche.data.reading.formats import File
from cloche.data.reading.read import read_file, read_files, recognised_files
from cloche.data.split import Validation, plan_split
from cloche.errors import CorpusEmpty, FileExists, FolderForeign
from cloche.files import WRITING, is_abandoned, writing_folder
from cloche.text import Tokenizer, train_bpe

Progress = Callable[
    [str, int, int], None
]  # stage ("measuring", "tokenizer", "packing"), bytes of files read, bytes of all files


def prepare(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    vocab: int | Tokenizer = 4096,
    validation: Validation = 0.05,
    glob: str | None = None,
    field: str = "text",
    encoding: str | None = None,
    on_progress: Progress | None = None,
) -> DataIndex:
    """Packs a corpus into `out`/data, with its tokenizer in `out`; returns the contents of data.json.

    `vocab` is the size of the tokenizer to train (on the training documents alone), or a tokenizer to use as it is.
    `validation` is a share or patterns of file names (see `plan_split`); `glob`, `field` and `encoding` as in `documents`. The
    corpus is read twice, records and compressed files three times, and never held: memory stays under 2 GB whatever its
    size (bench/train/corpus_memory.py). An interrupted packing starts over; a finished one is not overwritten. Raises
    ClocheError for anything about the corpus that cannot be used as it is.

    >>> from pathlib import Path
    >>> from cloche.data import prepare
    >>> _ = Path("notes.txt").write_text("the cat sat on the mat. " * 400)
    >>> found = prepare(["notes.txt"], "corpus", vocab=270, validation=0.1)
    >>> found["vocab"], sorted(found["splits"])
    (267, ['train', 'validation'])
    """
    folder = Path(out) / "data"
    _require_room(folder, vocab)
    report = ReadingReport()
    files = list(recognised_files(paths, glob, field, encoding, report))
    total = report.size

    def told(stage: str, documents: Iterator[Document], report: ReadingReport) -> Iterator[Document]:
        for document in documents:
            yield document
            if on_progress is not None:
                on_progress(stage, report.position, total)

    split = plan_split(files, validation, _measuring(files, field, told))

    def divided(stage: str, report: ReadingReport) -> Iterator[tuple[str, Document]]:
        return split.divide(told(stage, read_files(files, field, report), report))

    if isinstance(vocab, Tokenizer):
        tokenizer = vocab
    else:
        training = (document.text for side, document in divided("tokenizer", ReadingReport()) if side == "train")
        tokenizer = train_bpe(training, vocab)
    with writing_folder(folder) as fresh:
        index = pack(divided("packing", report), tokenizer, fresh)
        _require_both_sides(index, split.how)
        index["sources"] = report.to_dict() | {"split": split.how}
        write_index(fresh, index)
        tokenizer.save(out)
    return index


def _require_room(folder: Path, vocab: int | Tokenizer) -> None:
    """Refuses, before touching anything, a folder with anything but leftovers of a killed packing."""
    if folder.parent.exists() and not folder.parent.is_dir():
        raise FileExists(f"{folder.parent} is a file; name a folder.")
    if (folder / INDEX).exists():
        raise FileExists(f"{folder} already holds a packed corpus; name another folder, or delete this one first.")
    if folder.exists() and (not folder.is_dir() or not all(map(is_abandoned, folder.iterdir()))):
        raise FolderForeign(f"{folder} holds something other than a packed corpus; name another folder.")
    tokenizer = folder.with_name("tokenizer.json")
    killed = any(
        map(is_abandoned, folder.parent.glob(f"{WRITING}*-{folder.name}"))
    )  # between the tokenizer and its data
    if tokenizer.exists() and not isinstance(vocab, Tokenizer) and not killed:
        raise FileExists(
            f"{folder.parent} has a tokenizer.json already, which training another would overwrite; use it with "
            "vocab=Tokenizer.load(folder), or name another folder."
        )


def _measuring(
    files: list[File], field: str, told: Callable[[str, Iterator[Document], ReadingReport], Iterator[Document]]
) -> Callable[[File], Iterator[Document]]:
    """Reads a file to measure it: its documents, reporting progress."""
    before = dict(
        zip((file.source.name for file in files), accumulate(file.source.size for file in files), strict=True)
    )
    report = ReadingReport()

    def read(file: File) -> Iterator[Document]:
        start = before[file.source.name] - file.source.size
        return told("measuring", read_file(file, field, report, start), report)

    return read


def _require_both_sides(index: DataIndex, how: str) -> None:
    for side in ("validation", "train"):
        if not index["splits"][side]["bytes"]:
            raise CorpusEmpty(
                f"The corpus is too small to be divided: no text is left to the {side} side ({how}); add text."
            )
