"""A small model as another library leaves it: a Hugging Face folder with a tokenizer beside the weights."""

import hashlib
from pathlib import Path

import torch

from cloche.model import GLU, LM, Attention, Block, RMSNorm, RoPE, Stack, save_network
from cloche.text import Tokenizer, train_bpe

TEXT = "the cat sat on the mat, and a dog ran after the cat. " * 30
SPEC = LM(vocab=300, width=32, body=Stack(2, Block(Attention(2, position=RoPE()), GLU("silu", 48), norm=RMSNorm())))


def tokenizer() -> Tokenizer:
    return train_bpe(iter([TEXT]), vocab=300)


def write(folder: Path, seed: int = 0, context: int = 64) -> Path:
    """A Llama of random weights, its files readable by all and writable by none."""
    net = SPEC.build(seed=seed)
    net.context = context
    save_network(net, folder)
    tokenizer().save(folder)
    for path in folder.iterdir():
        path.chmod(0o444)
    return folder


def write_steps(folder: Path, names: tuple[str, ...]) -> Path:
    """Several revisions below one folder."""
    for seed, name in enumerate(names):
        write(folder / name, seed)
    return folder


def linked(folder: Path, cache: Path) -> Path:
    """The same files as the Hub's cache has them: blobs named by their hash, and a snapshot of symbolic links."""
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "0123abcd").mkdir(parents=True)
    for path in folder.iterdir():
        blob = cache / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        blob.chmod(0o444)
        (cache / "snapshots" / "0123abcd" / path.name).symlink_to(Path("../../blobs") / blob.name)
    return cache / "snapshots" / "0123abcd"


def state(folder: Path) -> dict[str, tuple[str, int, int]]:
    """sha256, permissions and time of every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mode,
            path.stat().st_mtime_ns,
        )
        for path in files
    }


def weights_of(glass: object) -> torch.Tensor:
    return glass.net.embed.weight.detach()  # type: ignore[attr-defined]
