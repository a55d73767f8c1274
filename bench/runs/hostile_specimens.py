"""Good files of every kind that cloche reads, each with the function that reads it: what `hostile_files` spoils."""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

from bench.runs.forks import command
from bench.runs.hostile_files import Specimen
from bench.runs.reliability_kills import Laboratory

LINES = [f"A line of text, number {i}, with a word or two more in it." for i in range(400)]


def specimens(lab: Laboratory) -> list[Specimen]:
    """Made in a child process, so that this one never computes; see `forks`."""
    folder = lab.place("specimens")
    folder.mkdir()
    made = lab.run(lambda: _make(folder, lab.straight))
    if made.code != 0:
        raise SystemExit(f"the specimens could not be made: {made.output}")
    texts = [Specimen(f"text {path.name}", path, _documents) for path in sorted((folder / "texts").iterdir())]
    tables = [
        Specimen(f"table {path.name}", path, _denoise if path.suffix == ".npy" else _sindy)
        for path in sorted((folder / "tables").iterdir())
    ]
    return [
        *(*texts, *tables),
        Specimen("tokenizer", folder / "tokenizer", _tokenizer, ("*.json",)),
        Specimen("model", folder / "model", _model, ("config.json", "*.safetensors", "tokenizer.json")),
        Specimen("run, loaded", lab.straight, _load, ("*.json", "*.toml", "checkpoints/*/*")),
        Specimen("run, resumed", lab.straight, _resume, ("*.json", "*.toml", "data/*", "log/*", "checkpoints/*/*")),
        Specimen(
            "run, reported", lab.straight, _report, ("*.json", "*.toml", "log/*", "findings/*/*", "dictionaries/*/*")
        ),
        Specimen("run, verified", lab.straight, _verify, ("**/*",)),
        Specimen("dictionary", folder / "dictionary", _sae),
        Specimen("SAELens folder", folder / "saelens", _sae),
        Specimen("recipe", folder / "recipe.toml", _recipe),
    ]


def _make(folder: Path, straight: Path) -> None:
    import shutil

    import torch

    from cloche.sparse import load_sae, save_saelens

    _texts(folder / "texts")
    _tables(folder / "tables")
    checkpoint = max((straight / "checkpoints").glob("step-*"))
    (folder / "tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(straight / name, folder / "tokenizer" / name)
    shutil.copytree(
        checkpoint, folder / "model", ignore=shutil.ignore_patterns("manifest.json", "optimizer*", "state*")
    )
    shutil.copyfile(straight / "recipe.toml", folder / "recipe.toml")
    dictionary = next((straight / "dictionaries").glob("[!.]*"))
    shutil.copytree(dictionary, folder / "dictionary")
    torch.set_num_threads(1)
    save_saelens(load_sae(dictionary), folder / "saelens")


def _texts(folder: Path) -> None:
    folder.mkdir()
    text = "\n".join(LINES).encode()
    records = "".join(json.dumps({"text": line, "n": 1}) + "\n" for line in LINES).encode()
    (folder / "a.txt").write_bytes(text)
    (folder / "b.txt").write_bytes("\n".join(LINES).encode("utf-16"))
    (folder / "c.jsonl").write_bytes(records)
    (folder / "d.json.gz").write_bytes(gzip.compress(records))
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    held = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": LINES}), held)
    (folder / "e.parquet").write_bytes(held.getvalue())


def _tables(folder: Path) -> None:
    import numpy as np

    folder.mkdir()
    rows = [(i / 20, math.sin(i / 20), math.cos(i / 20)) for i in range(200)]
    text = "t,x,y\n" + "".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in rows)
    (folder / "a.csv").write_text(text)
    (folder / "b.csv").write_text(text.replace(",", ";"))
    np.save(folder / "c.npy", np.array(rows)[:, 1])


def _documents(path: Path) -> object:
    from cloche.data import documents

    return sum(len(document.text) for document in documents([path]))


def _tokenizer(path: Path) -> object:
    from cloche.text import Tokenizer

    tokenizer = Tokenizer.load(path)
    return tokenizer.decode(tokenizer.encode("A line of text.")), tokenizer.byte_lengths


def _model(path: Path) -> object:
    return _generated(path)


def _load(path: Path) -> object:
    return _generated(path)


def _generated(path: Path) -> object:
    import torch

    import cloche

    torch.set_num_threads(1)
    return cloche.load(path).generate("A line", new=2)


def _sae(path: Path) -> object:
    import torch

    from cloche.sparse import load_sae

    torch.set_num_threads(1)
    sae = load_sae(path)
    return sae.encode(torch.ones(2, sae.dictionary.atoms.shape[1]))


def _recipe(path: Path) -> object:
    import torch

    from cloche.train import Recipe

    with torch.device("meta"):
        return Recipe.load(path).model.build(None)


def _command(*words: object) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        return command(words[0], path, *words[1:])()

    return read


def _denoise(path: Path) -> object:
    return command("sparse", "denoise", path, "--out", path.with_name("clean.npy"))()


_sindy = _command("sindy", "--json")
_resume = _command("resume")
_report = _command("report")
_verify = _command("verify")
