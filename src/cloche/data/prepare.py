"""From files to a folder that can be trained on: split, tokenizer, packed tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cloche.data.pack import INDEX, pack, write_index
from cloche.data.read import Document, read_sources
from cloche.data.report import Report
from cloche.data.sources import Source, find_sources
from cloche.data.split import Validation, plan_split
from cloche.errors import ClocheError
from cloche.text import Tokenizer, train_bpe

Progress = Callable[[str, int, int], None]  # stage ("tokenizer", "packing"), bytes of files read, bytes of all files


def prepare(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    vocab: int | Tokenizer = 4096,
    validation: Validation = 0.05,
    glob: str | None = None,
    field: str = "text",
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Packs a corpus into `out`/data, with its tokenizer in `out`; returns the contents of data.json.

    `vocab` is the size of the tokenizer to train (on the training documents alone), or a tokenizer to use as it is.
    `validation` is a share or patterns of file names (see `plan_split`). The corpus is read twice and never held: memory
    stays under 2 GB whatever its size (bench/corpus_memory.py). A packing that was interrupted is done anew; a finished
    one is not overwritten. Raises ClocheError for anything about the corpus that cannot be used as it is.
    """
    folder = Path(out) / "data"
    _make_room(folder)
    report = Report()
    sources = find_sources(paths, glob, report)
    split = plan_split(sources, validation, lambda: read_sources(sources, field, Report()))

    def divided(stage: str, report: Report) -> Iterator[tuple[str, Document]]:
        for side, document in split.divide(read_sources(sources, field, report)):
            yield side, document
            if on_progress is not None:
                on_progress(stage, report.position, total)

    total = report.size
    if isinstance(vocab, Tokenizer):
        tokenizer = vocab
    else:
        training = (document.text for side, document in divided("tokenizer", Report()) if side == "train")
        tokenizer = train_bpe(training, vocab)
    tokenizer.save(out)
    index = pack(divided("packing", report), tokenizer, folder)
    _require_both_sides(index, sources, split.how)
    index["sources"] = report.to_dict() | {"split": split.how}
    write_index(folder, index)
    return index


def _make_room(folder: Path) -> None:
    if (folder / INDEX).exists():
        raise ClocheError(f"{folder} already holds a packed corpus; name another folder, or delete this one first.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob("*.bin"):
            torn.unlink()
    except OSError as error:
        raise ClocheError(f"{folder} cannot be written to ({error.strerror}); name another folder.") from error


def _require_both_sides(index: dict[str, Any], sources: list[Source], how: str) -> None:
    for side, other in (("validation", "larger"), ("train", "smaller")):
        if not index["splits"][side]["tokens"]:
            raise ClocheError(
                f"No document of the {len(sources)} files falls to the {side} side ({how}); "
                f"ask for a {other} validation share, or name the validation files."
            )
