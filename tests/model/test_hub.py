"""Names on the Hub, with its own library and without a network: the download alone is replaced by a local copy."""

from __future__ import annotations

import fnmatch
import shutil
import sys
from pathlib import Path

import pytest
import torch
from combinations import random_ids
from family_table import theirs

import cloche
from cloche.errors import ClocheError
from cloche.model import load_network
from cloche.text import train_bpe

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """What a repository holds: shards, a tokenizer, and files that nobody here may need."""
    folder = tmp_path_factory.mktemp("repository")
    theirs("mistral").save_pretrained(folder, max_shard_size="8KB")
    train_bpe(iter(["the cat sat on the mat"] * 9), vocab=300).save(folder)
    for name in ("pytorch_model.bin", "modeling_custom.py", "README.md", "model.fp16.safetensors"):
        (folder / name).write_bytes(b"not for us")
    return folder


@pytest.fixture
def asked(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """snapshot_download as a local copy of what its patterns allow; the list of what it was asked for."""
    calls: list[tuple[str, str | None]] = []

    def download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repo_id, revision))
        cache = tmp_path / "cache" / "0123abcd"
        cache.mkdir(parents=True, exist_ok=True)
        for path in repository.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, cache)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return calls


def test_a_name_is_fetched_and_loaded(asked: list, repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ClocheError, match="tokens and its model only 53"):
        cloche.load("owner/name")  # the tokenizer came along too
    shutil.rmtree(tmp_path / "cache")
    (repository / "tokenizer.json").rename(repository / "aside.json")
    try:
        glass = cloche.load("owner/name", dtype="bfloat16")
    finally:
        (repository / "aside.json").rename(repository / "tokenizer.json")
    assert asked == [("owner/name", None)] * 2
    assert (glass.name, glass.checkpoint) == ("owner/name", "0123abcd")
    assert not [p.name for p in (tmp_path / "cache" / "0123abcd").iterdir() if p.suffix in (".bin", ".py", ".md")]
    ids = random_ids(1, 7, 53)
    assert torch.equal(glass.run(ids).logits, load_network(repository, "bfloat16").run(ids).logits)


@pytest.mark.parametrize(
    ("written", "call"), [("hf://owner/name", ("owner/name", None)), ("owner/name@v1.0", ("owner/name", "v1.0"))]
)
def test_schemes_and_revisions(asked: list, written: str, call: tuple[str, str | None]) -> None:
    with pytest.raises(ClocheError, match="and its model only"):
        cloche.load(written)
    assert asked == [call]


def test_what_is_here_is_never_asked_for(asked: list, tmp_path: Path) -> None:
    """A folder, a path, a mistyped run in a folder of runs."""
    (tmp_path / "runs").mkdir()
    for where in ("runs/frist", Path("owner/name"), "./owner/name", "owner", "a/b/c"):
        with pytest.raises(ClocheError, match="There is no folder"):
            cloche.load(where)
    assert asked == []


def test_a_name_that_is_none(asked: list) -> None:
    with pytest.raises(ClocheError, match="'owner' is not a name on the Hugging Face Hub; write owner/name"):
        cloche.load("hf://owner")
    with pytest.raises(ClocheError, match=r"is one model, so checkpoint=3 cannot be chosen"):
        cloche.load("owner/name", checkpoint=3)


def test_without_the_extra(asked: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ClocheError, match=r"There is no folder owner/name here.*; .* pip install 'cloche\[hub\]'\.$"):
        cloche.load("owner/name")


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself, told to stay offline, with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClocheError, match="Hub's cache, and the Hugging Face Hub cannot be reached") as caught:
        cloche.load("owner/name")
    assert "\n" not in str(caught.value)


def test_offline_with_the_model_in_the_hubs_own_cache(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is replaced here: the library finds the snapshot that an earlier download would have left."""
    home = tmp_path / "cache" / "models--owner--name"
    shutil.copytree(repository, home / "snapshots" / "0123abcd", ignore=shutil.ignore_patterns("tokenizer*"))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    glass = cloche.load("owner/name")
    assert (glass.name, glass.checkpoint, glass.tokenizer) == ("owner/name", "0123abcd", None)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("RepositoryNotFoundError", "neither a folder here nor a model that the Hugging Face Hub shows you"),
        ("RevisionNotFoundError", "neither a folder here nor a model that the Hugging Face Hub shows you"),
        ("GatedRepoError", "asks for its terms to be accepted"),
        (None, r"could not be fetched from the Hugging Face Hub \(disk quota exceeded\)"),
    ],
)
def test_what_the_hub_refuses(error: str | None, sentence: str, asked: list, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = OSError if error is None else getattr(huggingface_hub.errors, error)

    def refuse(*_: object, **__: object) -> str:
        raise kind.__new__(kind) if error else OSError("disk quota exceeded\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ClocheError, match=sentence) as caught:
        cloche.load("owner/name")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
