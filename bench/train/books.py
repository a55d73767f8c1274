"""Five minutes of training on whole books against `xz -9e`, on the same unseen books, in one run.

Trains the default recipe on every book of the folder but two, then scores the grown model on all of those two. Its bits per
byte are the sum of -log2 p(token | what came before in its window of 256) over the UTF-8 bytes of the text. xz sees the same
bytes: each book alone and both as one file, whichever comes out smaller.

    python -m bench.train.books [--books FOLDER] [--minutes 5] [--threads 2] [--set section.key=value] [--keep RUN]
"""

from __future__ import annotations

import argparse
import lzma
import os
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from bench.rounds import busy, machine, table, write
from cloche.data import PackedTokens
from cloche.errors import ClocheError
from cloche.runs import Run
from cloche.train import Recipe, Score, Trainer, evaluate, prepare_data

HELD_OUT = ("Arthur_Conan_Doyle__The_Hound_of_the_Baskervilles.md", "Mary_Wollstonecraft_Shelley__Frankenstein.md")
BOOKS = Path(__file__).parents[2] / "../shared/data/text/books"  # beside the checkout
WANTED = 0.25  # below xz
XZ = lzma.PRESET_EXTREME | 9


def xz_bits_per_byte(texts: list[bytes]) -> dict[str, float]:
    """Of `xz -9e` over the texts one by one, and over all of them as one file."""
    total = sum(map(len, texts))
    apart = sum(len(lzma.compress(text, preset=XZ)) for text in texts)
    return {
        "xz -9e, each book alone": 8 * apart / total,
        "xz -9e, both books as one file": 8 * len(lzma.compress(b"".join(texts), preset=XZ)) / total,
    }


def grow(recipe: Recipe, run: Run) -> tuple[Trainer, dict[str, float]]:
    """Prepares the data and trains, telling how it goes; the trainer, and the seconds that preparing and training took."""
    start = time.perf_counter()
    prepare_data(recipe, run)
    prepared = time.perf_counter()
    trainer = Trainer.start(recipe, run)
    calibrated = time.perf_counter()
    for record in trainer:
        if "val_bpb" in record:
            print(
                f"  step {record['step']:5d} of {trainer.steps}, {record['time']:4.0f} s: {record['val_bpb']:.3f} bits/byte"
            )
    done = time.perf_counter()
    return trainer, {"prepare": prepared - start, "calibrate": calibrated - prepared, "train": done - calibrated}


def score(trainer: Trainer) -> Score:
    """On every token of the held-out books, in the precision of training."""
    r, tokens = trainer.recipe.run, PackedTokens.open(trainer.run.path, "validation")
    with torch.autocast("cpu", torch.bfloat16, enabled=r.precision == "bf16"):
        return evaluate(trainer.net, tokens, trainer.tokenizer.byte_lengths, r.length, r.batch)


def compare(arguments: argparse.Namespace, run: Run, recipe: Recipe) -> dict[str, object]:
    """Trains, scores, compresses, prints the table; returns what results/books.json keeps."""
    texts = [(arguments.books / name).read_bytes() for name in HELD_OUT]
    load, cpu = busy(), time.process_time()
    trainer, seconds = grow(recipe, run)
    cpu = time.process_time() - cpu
    packed, scored = trainer.validation.bytes, score(trainer)
    if packed != sum(map(len, texts)):
        raise SystemExit(f"{packed} bytes were packed for validation, and the two books have {sum(map(len, texts))}")
    sizes = {"cloche": scored.bits_per_byte, **xz_bits_per_byte(texts)}
    best = min(value for name, value in sizes.items() if name != "cloche")
    below = 1 - scored.bits_per_byte / best
    print(table(["", "bits/byte"], [[name, f"{value:.3f}"] for name, value in sizes.items()]))
    print(
        f"\n{below:.1%} below xz -9e after {seconds['train'] / 60:.1f} minutes of training (wanted: {WANTED:.0%} after 5)"
    )
    return {
        "what": "bits per byte of two held-out books: the default recipe against xz -9e",
        "held_out": HELD_OUT,
        "bits_per_byte": sizes,
        "below_xz": below,
        "wanted": WANTED,
        "scored": {"tokens": scored.tokens, "bytes": scored.bytes, "of_bytes": packed},
        "steps": {"taken": trainer.step, "planned": trainer.steps},
        "minutes": arguments.minutes,
        "seconds": {name: round(value, 1) for name, value in seconds.items()} | {"cpu_in_all": round(cpu, 1)},
        "precision": trainer.recipe.run.precision,
        "parameters": sum(p.numel() for p in trainer.net.parameters()),
        "settings": arguments.set,
        "load_before": load,
        "threads": arguments.threads,
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--books", type=Path, default=BOOKS, help="a folder of books as .md files, the two held out among them"
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--recipe", type=Path, help="another recipe than the default")
    parser.add_argument(
        "--set", action="append", default=[], help="a setting of the recipe, such as optimizer.lr=0.004"
    )
    parser.add_argument("--keep", type=Path, help="a run folder to keep")
    arguments = parser.parse_args()
    if arguments.books == BOOKS and not BOOKS.is_dir():
        print("books: skipped, there are none beside the checkout; name a folder of them by --books FOLDER")
        return
    if missing := [name for name in HELD_OUT if not (arguments.books / name).is_file()]:
        raise SystemExit(f"--books {arguments.books} lacks {missing[0]}, which is held out; name the folder of books")
    settings = {"data.paths": [str(arguments.books.resolve())], "data.glob": "*.md", "data.validation": list(HELD_OUT)}
    settings |= {"run.minutes": arguments.minutes, "run.threads": arguments.threads}
    try:
        recipe = Recipe.load(arguments.recipe) if arguments.recipe else Recipe()
        recipe = recipe.with_set(settings | dict(each.split("=", 1) for each in arguments.set))
        with nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory() as folder:
            run = Run.create(Path(folder) / "run" if not arguments.keep else folder, recipe.to_toml(), recipe.run.seed)
            write("books", compare(arguments, run, recipe))
    except ClocheError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
