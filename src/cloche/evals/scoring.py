"""Log-probabilities of continuations, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from cloche.errors import ContextExceeded, NotFinite, PromptInvalid
from cloche.model import Network
from cloche.text import Tokenizer

__all__ = ["Rows", "Scored", "continuation_ids", "fitting_rows", "is_far_beyond", "score_ids"]

Rows = list[tuple[list[int], list[int]]]  # the ids of a prompt, and of its continuation

CELLS = 2**26  # logits of one batch: 256 MB in fp32
FAR = 64  # characters of a token, which hardly any token has
DIVERGED = "A log-probability of the model is not finite, so nothing can be scored; the weights have diverged."


@dataclass(frozen=True)
class Scored:
    """Log-probability of a continuation in nats, its number of tokens, and whether each of them was the likeliest.

    >>> from cloche.evals import Scored
    >>> Scored(-1.5, 2, False).logprob
    -1.5
    """

    logprob: float
    tokens: int
    greedy: bool


def continuation_ids(tokenizer: Tokenizer, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    """The ids of a prompt and those that its continuation adds. The two are encoded as one text, as the model would have
    read them, and divided where that differs from the prompt alone: a token with characters of both, and every token that
    the continuation changes, is the continuation's. Where that leaves nothing of the prompt, it is the end-of-text token, as
    before documents in training.

    Raises PromptInvalid for an empty continuation.

    >>> import cloche
    >>> from cloche.evals import continuation_ids
    >>> continuation_ids(cloche.train_bpe(["a"], vocab=259), "xy", "z")
    ([121, 122], [123])
    """
    return _rows(tokenizer, prompt, [continuation])[0]


def fitting_rows(tokenizer: Tokenizer, prompt: str, continuations: Sequence[str], most: int | None) -> Rows | None:
    """`continuation_ids` of continuations of one prompt, all divided at the same token, so that each is scored after the
    same ones; None if one of them cannot be scored in a context of `most` tokens."""
    if not continuations:
        return []
    if any(is_far_beyond(tokenizer, prompt + each, most) for each in continuations):
        return None
    rows = _rows(tokenizer, prompt, continuations)
    # The last token is predicted, and not read.
    return rows if most is None or all(len(before) + len(after) - 1 <= most for before, after in rows) else None


def is_far_beyond(tokenizer: Tokenizer, text: str, most: int | None) -> bool:
    """Whether a text is so much longer than `most` tokens that its beginning alone is: encoding 200 MB takes 8 GB."""
    start = text[: FAR * most] if most is not None else text
    return most is not None and len(start) < len(text) and len(tokenizer.encode(start)) > most + FAR


def _rows(tokenizer: Tokenizer, prompt: str, continuations: Sequence[str]) -> Rows:
    before, *wholes = tokenizer.encode_batch([prompt, *(prompt + each for each in continuations)])
    cut = min(_alike(before, whole) for whole in wholes)
    if cut == 0 and tokenizer.end is not None:
        wholes, cut = [[tokenizer.end, *whole] for whole in wholes], 1
    if cut < 1 or not all(continuations):
        raise PromptInvalid(
            f"There is nothing to score in {min(continuations, key=len)!r} after {prompt[-40:]!r}; give a continuation of at "
            "least one token, and a prompt of several if the tokenizer has no end-of-text token."
        )
    return [(whole[:cut], whole[cut:]) for whole in wholes]


def _alike(before: Sequence[int], whole: Sequence[int]) -> int:
    """The number of tokens that two encodings begin with alike, at most all but one of the second; -1 if that is empty."""
    pairs = zip(before, whole, strict=False)
    return next((i for i, (alone, here) in enumerate(pairs) if alone != here), min(len(before), len(whole) - 1))


@torch.no_grad()
def score_ids(net: Network, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Scored]:
    """The log-probability of each continuation after its prompt, both as ids.

    Rows of like length are computed together, padded on the left. Raises ContextExceeded for a row longer than the
    model's context.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.evals import score_ids
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU("silu", 64)))).build(seed=0)
    >>> [scored.tokens for scored in score_ids(net, [([1, 2], [3]), ([1, 2], [4, 5])])]
    [1, 2]
    """
    net.require_causal("The score of a continuation")
    longest = max((len(prompt) + len(after) for prompt, after in rows), default=0)
    limit = net.most_tokens
    if limit is not None and longest - 1 > limit:
        raise ContextExceeded(
            f"A prompt with its continuation has {longest:,} tokens, and the model's context is {limit:,}; use shorter items "
            "or fewer shots."
        )
    found: list[Scored | None] = [None] * len(rows)
    for batch in _batches(rows, net.spec.vocab):
        wide = max(len(rows[i][0]) + len(rows[i][1]) for i in batch) - 1
        ids, pad = [], []
        for i in batch:
            row = [*rows[i][0], *rows[i][1]][:-1]
            pad.append(wide - len(row))
            ids.append([0] * pad[-1] + row)
        there = net.embed.weight.device
        logits = net.run(torch.tensor(ids, device=there), pad=torch.tensor(pad) if any(pad) else None).logits
        for row_logits, i in zip(logits, batch, strict=True):
            after = torch.tensor(rows[i][1], device=row_logits.device)
            told = row_logits[-len(after) :].float().log_softmax(-1)
            nats = told.gather(1, after[:, None]).sum(dtype=torch.float64)
            if not nats.isfinite():
                raise NotFinite(DIVERGED)
            found[i] = Scored(float(nats), len(after), bool((told.argmax(-1) == after).all()))
    return [scored for scored in found if scored is not None]


def _batches(rows: Sequence[tuple[Sequence[int], Sequence[int]]], vocab: int) -> Iterable[list[int]]:
    """Indices of rows to compute together: of like length, within the memory of CELLS logits."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]) - len(rows[i][1]))
    batch: list[int] = []
    for i in order:
        longest = len(rows[batch[0] if batch else i][0]) + len(rows[batch[0] if batch else i][1])
        if batch and (len(batch) + 1) * longest * vocab > CELLS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
