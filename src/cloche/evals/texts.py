"""Perplexity and bits per byte of a text file."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from random import Random

import numpy as np
import torch

from cloche.drawing import Finding, Lines, Provenance, Series
from cloche.errors import ArgumentRange, CorpusEmpty, NotFinite, require_whole
from cloche.evals.intervals import bootstrap_ratio
from cloche.evals.scoring import DIVERGED
from cloche.glass import Glass
from cloche.missing import require_file, unreadable
from cloche.model import Network
from cloche.text import Tokenizer

__all__ = ["perplexity"]

CONTEXT = 1024  # tokens of a window where the model states no context
CELLS = 2**26  # logits of one batch
PIECE = 1 << 20  # bytes of a text that are encoded at once: 200 MB take 8 GB
NULL_WINDOWS = 16  # of shuffled tokens


@dataclass(frozen=True)
class _Window:
    """Token ids, and how many of the first are context only."""

    ids: np.ndarray
    known: int


@torch.no_grad()
def perplexity(
    subject: Glass,
    path: Path,
    stride: int | None = None,
    context: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int, str], object] = lambda done, total, note: None,
) -> Finding:
    """Bits per byte and perplexity of a text file, every token but the first predicted once.

    The text is read in windows of `context` tokens (by default the model's), each starting `stride` tokens after the one before
    (by default half of the context): a token is predicted from at least `context - stride` others, except near the start.
    limit: tokens that are read, by default all; of a large file no more are encoded. The interval is that of 2,000 bootstrap
    resamples of the windows, and there is none for
    a single window; the null is the same tokens in random order. A text of more than 1 MiB is encoded in pieces that end with
    a line, else a word. `on_progress` is called with the windows done, all of them, and a note.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from pathlib import Path
    >>> from cloche.evals import perplexity
    >>> tokenizer = cloche.train_bpe(["a"], vocab=259)
    >>> glass = cloche.Glass(LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0), tokenizer)
    >>> written = Path("book.txt").write_text("It was a dark and stormy night. " * 20)
    >>> round(perplexity(glass, Path("book.txt"), context=64).figures["bits_per_byte"], 1)
    8.6
    """
    path, tokenizer, net = Path(path), subject.need_tokenizer(), subject.net
    net.require_causal("The perplexity of a text")
    context, stride = _window(net, context, stride, limit)
    require_whole(seed=seed)
    ids = _ids(tokenizer, path, limit)
    if len(ids) < 2:
        raise CorpusEmpty(f"{path} has {len(ids)} tokens, and the first is never predicted; give a longer text.")
    windows = list(_windows(ids, context, stride))
    nats = _nats(net, windows, on_progress)
    lengths = tokenizer.byte_lengths
    sizes = [_sizes([window], lengths)[1] for window in windows]
    tokens, size = _sizes(windows, lengths)
    figures = _figures(sum(nats), tokens, size)
    interval = ""
    if len(windows) > 1:
        low, high = (end / log(2) for end in bootstrap_ratio(nats, sizes, seed))
        figures |= {"low": low, "high": high}
        interval = f" (95% interval {low:.4f} to {high:.4f})"
    few = min(len(ids), context + (NULL_WINDOWS - 1) * stride)  # tokens of the windows that are read
    mixed = ids[Random(seed).sample(range(len(ids)), few)]
    control = list(_windows(mixed, context, stride))
    null = _figures(sum(_nats(net, control)), *_sizes(control, lengths))
    data = {
        "file": path.name,
        "context": context,
        "stride": stride,
        "tokens": tokens,
        "bytes": size,
        "notes": net.beyond(context),
        "windows": [n / log(2) / max(1, size) for n, size in zip(nats, sizes, strict=True)],
    }
    summary = (
        f"{figures['bits_per_byte']:.4f} bits per byte{interval}, a perplexity of "
        f"{figures['perplexity']:.4g} per token, over {tokens:,} tokens of {path.name}."
    )
    lines = Lines(
        "Bits per byte along the text",
        tuple(float(i * stride) for i in range(len(windows))),
        (Series("model", tuple(data["windows"])),),  # type: ignore[arg-type]
        "first token",
        "bits per byte",
    )
    about = Provenance("perplexity", subject.checkpoint, seed=seed)
    return Finding(about, summary, figures, data, null=null, panels=(lines,))


def _sizes(windows: Sequence[_Window], lengths: np.ndarray) -> tuple[int, int]:
    """The tokens that windows predict, and their bytes."""
    predicted = [window.ids[window.known :] for window in windows]
    return sum(map(len, predicted)), sum(int(lengths[ids].sum()) for ids in predicted)


def _window(net: Network, context: int | None, stride: int | None, limit: int | None) -> tuple[int, int]:
    """The context and the stride in tokens. Raises ArgumentRange for what is no window."""
    context = net.most_tokens or CONTEXT if context is None else context
    require_whole(2, context=context, limit=2 if limit is None else limit)
    stride = context // 2 if stride is None else stride
    if not isinstance(stride, int) or not 0 < stride < context:
        raise ArgumentRange(f"stride={stride} must be between 1 and {context - 1}, one less than the context.")
    return context, stride


def _ids(tokenizer: Tokenizer, path: Path, limit: int | None) -> np.ndarray:
    """The ids of the text of a file, int32 [tokens]; the first `limit` of them."""
    found, count = list[np.ndarray](), 0
    for piece in _pieces(path):
        found.append(np.asarray(tokenizer.encode(piece, special=not found), np.int32))
        count += len(found[-1])
        if limit is not None and count >= limit:
            break
    return np.concatenate(found)[:limit] if found else np.zeros(0, np.int32)


def _pieces(path: Path) -> Iterator[str]:
    """The text of a file. Raises FileUnreadable for bytes that are no text: their bits would be those of replacement
    characters."""
    require_file(path, "a text file")
    decoder, held = codecs.getincrementaldecoder("utf-8-sig")(), ""
    try:
        with path.open("rb") as file:
            while len(block := file.read(PIECE)) == PIECE:
                held += decoder.decode(block)
                cut = held.rfind("\n") + 1 or max(held.rfind(" "), 0) or len(held)
                yield held[:cut]
                held = held[cut:]
            held += decoder.decode(block, final=True)
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    if held:
        yield held


def _figures(nats: float, tokens: int, size: int) -> dict[str, float]:
    return {
        "bits_per_byte": nats / log(2) / max(1, size),
        "perplexity": exp(min(nats / tokens, 700.0)),
        "nats_per_token": nats / tokens,
    }


def _windows(ids: np.ndarray, context: int, stride: int) -> Iterator[_Window]:
    """Windows that overlap by `context - stride` tokens, in which every token but the first of all is predicted once."""
    known, start = 1, 0
    while True:
        stop = min(start + context, len(ids))
        yield _Window(ids[start:stop], known)
        if stop == len(ids):
            return
        start += stride
        known = stop - start


def _nats(
    net: Network, windows: list[_Window], on_progress: Callable[[int, int, str], object] = lambda *_: None
) -> list[float]:
    """Each window's nats over the tokens that it predicts."""
    device, found = net.embed.weight.device, []
    rows = max(1, CELLS // (max(len(w.ids) for w in windows) * net.spec.vocab))
    first = 0
    while first < len(windows):
        batch = [w for w in windows[first : first + rows] if len(w.ids) == len(windows[first].ids)]
        first += len(batch)
        ids = torch.tensor(np.stack([w.ids for w in batch]), dtype=torch.long, device=device)
        logits = net.run(ids).logits
        for row, row_ids, window in zip(logits, ids, batch, strict=True):
            told = row[window.known - 1 : -1].float().log_softmax(-1)
            nats = told.gather(1, row_ids[window.known :, None]).sum(dtype=torch.float64)
            if not nats.isfinite():
                raise NotFinite(DIVERGED)
            found.append(-float(nats))
        on_progress(first, len(windows), f"window {first:,} of {len(windows):,}")
    return found
