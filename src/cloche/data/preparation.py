"""From files to a folder that can be trained on: split, tokenizer, packed tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path

from cloche.data.duplicates import Duplicates, Removed
from cloche.data.mixture import Mixture
from cloche.data.pack import INDEX, DataIndex, pack, write_index
from cloche.data.reading import Document, ReadingReport
from cloche.data.reading.formats import File
from cloche.data.reading.read import read_file, read_files, recognised_files
from cloche.data.reading.reading_report import merged
from cloche.data.split import Split, Validation, matches, plan_split
from cloche.errors import CorpusEmpty, FileExists, FolderForeign, PartInvalid, shown
from cloche.files import WRITING, is_abandoned, writing_folder
from cloche.text import Tokenizer, train_bpe

Maker = Callable[[Iterator[str]], Tokenizer]  # trains a tokenizer on texts
Progress = Callable[
    [str, int, int], None
]  # stage ("measuring", "comparing", "tokenizer", "packing"), bytes of files read, bytes of all files


def prepare(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    vocab: int | Tokenizer | Maker = 4096,
    validation: Validation = 0.05,
    glob: str | None = None,
    field: str = "text",
    encoding: str | None = None,
    on_progress: Progress | None = None,
) -> DataIndex:
    """Packs a corpus into `out`/data, with its tokenizer in `out`; returns the contents of data.json.

    `vocab` is the size of the tokenizer to train (on the training documents alone), a function that trains one on texts, or
    a tokenizer to use as it is.
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
    only = _Text("", tuple(paths), glob, field, encoding)
    return _prepare([only], out, vocab, validation, None, on_progress)


def prepare_mixture(
    mixture: Mixture,
    out: str | Path,
    *,
    vocab: int | Tokenizer | Maker = 4096,
    validation: Validation = 0.05,
    duplicates: Duplicates | None = None,
    on_progress: Progress | None = None,
) -> DataIndex:
    """As `prepare`, of the sources of a mixture, which data.json tells apart: each is divided by itself, and the tokenizer is
    trained on all of them. `duplicates` says which documents are left out; without it none are looked for.

    >>> from pathlib import Path
    >>> from cloche.data import ExactDuplicates, Mixture, Source, prepare_mixture
    >>> for name in ("prose", "verse"):
    ...     _ = Path(f"{name}.txt").write_text(f"the cat sat on the {name}. " * 400)
    >>> mixture = Mixture((Source(("prose.txt",), name="prose"), Source(("verse.txt",), name="verse")))
    >>> index = prepare_mixture(mixture, "corpus", vocab=270, validation=0.1, duplicates=ExactDuplicates())
    >>> [part["name"] for part in index["splits"]["train"]["mixture"]], index["sources"]["duplicates"]["documents"]
    (['prose', 'verse'], 0)
    """
    several = len(mixture.sources) > 1
    texts = [_Text(s.called if several else "", s.paths, s.glob, s.field, s.encoding) for s in mixture.sources]
    return _prepare(texts, out, vocab, validation, duplicates, on_progress)


class _Text:
    """The text of one source: its files, and, once it is planned, how they are divided."""

    split: Split

    def __init__(
        self, name: str, paths: tuple[str | Path, ...], glob: str | None, field: str, encoding: str | None
    ) -> None:
        self.name, self.field, self.report = name, field, ReadingReport()
        self.files = list(recognised_files(paths, glob, field, encoding, self.report))

    def documents(self, report: ReadingReport) -> Iterator[Document]:
        return read_files(self.files, self.field, report)


def _prepare(
    texts: list[_Text],
    out: str | Path,
    vocab: int | Tokenizer | Maker,
    validation: Validation,
    duplicates: Duplicates | None,
    on_progress: Progress | None,
) -> DataIndex:
    folder = Path(out) / "data"
    _require_room(folder, vocab)
    total = sum(text.report.size for text in texts)
    before = dict(zip(texts, accumulate((text.report.size for text in texts), initial=0), strict=False))

    def told(stage: str, text: _Text, documents: Iterator[Document], report: ReadingReport) -> Iterator[Document]:
        for document in documents:
            yield document
            if on_progress is not None:
                on_progress(stage, before[text] + report.position, total)

    for text, patterns in zip(texts, _validations(texts, validation), strict=True):
        text.split = plan_split(text.files, patterns, _measuring(text, told)) if patterns else Split("nothing")

    def divided(stage: str, text: _Text, report: ReadingReport) -> Iterator[tuple[str, Document]]:
        return text.split.divide(told(stage, text, text.documents(report), report))

    def all_divided(stage: str) -> Iterator[tuple[str, Document]]:
        return chain.from_iterable(divided(stage, text, ReadingReport()) for text in texts)

    removed = duplicates.find(lambda: all_divided("comparing")) if duplicates is not None else Removed()
    if not isinstance(removed, Removed):
        raise PartInvalid(f"{duplicates} must return a Removed from `find`, not {shown(removed)}.")
    if isinstance(vocab, Tokenizer):
        tokenizer = vocab
    else:
        training = (document.text for side, document in removed.kept(all_divided("tokenizer")) if side == "train")
        tokenizer = train_bpe(training, vocab) if isinstance(vocab, int) else vocab(training)
    removed.rewind()
    with writing_folder(folder) as fresh:
        packing = ((text.name, removed.kept(divided("packing", text, text.report))) for text in texts)
        index = pack(packing, tokenizer, fresh)
        _require_both_sides(index, _how(texts))
        index["sources"] = merged([text.report for text in texts]).to_dict() | {"split": _how(texts)}
        if duplicates is not None:
            index["sources"]["duplicates"] = {"rule": duplicates.to_line()} | removed.figures
            index["sources"]["duplicates"]["names"] = removed.names
        write_index(fresh, index)
        tokenizer.save(out)
    return index


def _how(texts: list[_Text]) -> str:
    """How the text is divided, in words."""
    return "; ".join(f"{text.name}: {text.split.how}" if text.name else text.split.how for text in texts)


def _validations(texts: list[_Text], validation: Validation) -> list[Validation]:
    """What is held out of each source: a share of each, or the patterns that match files of it."""
    if isinstance(validation, (int, float)) or len(texts) == 1:
        return [validation] * len(texts)
    patterns = (validation,) if isinstance(validation, str) else tuple(validation)
    names = [[file.source.name for file in text.files] for text in texts]
    for pattern in patterns:
        if not any(matches(name, pattern) for each in names for name in each):
            raise CorpusEmpty(
                f"No file of any source matches the validation pattern {pattern!r}; name files that exist."
            )
    return [tuple(p for p in patterns if any(matches(name, p) for name in each)) for each in names]


def _require_room(folder: Path, vocab: int | Tokenizer | Maker) -> None:
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
    text: _Text, told: Callable[[str, _Text, Iterator[Document], ReadingReport], Iterator[Document]]
) -> Callable[[File], Iterator[Document]]:
    """Reads a file to measure it: its documents, reporting progress."""
    sizes = accumulate((file.source.size for file in text.files), initial=0)
    before = dict(zip((file.source.name for file in text.files), sizes, strict=False))
    report = ReadingReport()

    def read(file: File) -> Iterator[Document]:
        return told("measuring", text, read_file(file, text.field, report, before[file.source.name]), report)

    return read


def _require_both_sides(index: DataIndex, how: str) -> None:
    for side in ("validation", "train"):
        if not index["splits"][side]["bytes"]:
            raise CorpusEmpty(
                f"The corpus is too small to be divided: no text is left to the {side} side ({how}); add text."
            )
    for part in index["splits"]["train"].get("mixture", ()):
        if not part["tokens"]:
            raise CorpusEmpty(f"No text of {part['name']} is left to train on; give that source more, or leave it out.")
