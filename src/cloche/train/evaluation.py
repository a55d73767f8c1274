"""Evaluation: bits per byte on held-out text, and samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cloche.data import PackedTokens, document_numbers
from cloche.decode import Sampling, generate, read_prompt
from cloche.errors import CorpusEmpty
from cloche.model import Network
from cloche.text import Tokenizer
from cloche.train.objectives.batch import TokenBatch
from cloche.train.objectives.next_token import NextToken
from cloche.train.objectives.objective import Objective


@dataclass(frozen=True)
class Score:
    """Loss over held-out tokens: nats per token, bits per byte of their text, and the number of tokens and bytes.

    >>> from cloche.train import Score
    >>> Score(nats_per_token=2.77, bits_per_byte=1.0, tokens=1000, bytes=4000).bits_per_byte
    1.0
    """

    nats_per_token: float
    bits_per_byte: float
    tokens: int
    bytes: int


@torch.no_grad()
def evaluate(
    net: Network,
    tokens: PackedTokens,
    byte_lengths: np.ndarray,
    length: int = 256,
    batch: int = 16,
    limit: int | None = None,
    objective: Objective | None = None,
    masks: bool = False,
) -> Score:
    """Loss of `net` on packed tokens: each exactly once, or about `limit` of them, spread evenly over the split.

    The denominator of bits per byte is exact: the UTF-8 bytes of the predicted tokens; the end-of-text token has a
    loss but no bytes. Predictions see only their own window, as in training; with
    `masks` only their own document.

    >>> from pathlib import Path
    >>> from cloche.data import PackedTokens, prepare
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.text import Tokenizer
    >>> from cloche.train import evaluate
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> _ = prepare(["text.txt"], "packed", vocab=270)
    >>> tokens, tokenizer = PackedTokens.open("packed", "validation"), Tokenizer.load("packed")
    >>> net = LM(vocab=tokenizer.vocab, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> score = evaluate(net, tokens, tokenizer.byte_lengths, length=16)
    >>> score.tokens == len(tokens), 4 < score.nats_per_token < 8
    (True, True)
    """
    if objective is None:
        objective = NextToken()
        objective.check(net)  # a model that sees what it is to predict has no such loss
    nats, weights, count, n_bytes = 0.0, 0.0, 0, 0
    device = net.embed.weight.device
    for number, (x, size) in enumerate(tokens.validation_windows(length, byte_lengths, limit, batch)):
        documents = torch.from_numpy(document_numbers(x[:, :-1], tokens.end)).to(device) if masks else None
        loss, weight = objective.nats(net, TokenBatch(torch.from_numpy(x).to(device), documents, seed=number))
        nats += loss.item()
        weights += weight.item()
        count += x[:, 1:].size
        n_bytes += size
    if not weights > 0:
        raise CorpusEmpty(
            f"{objective} predicts nothing in the {count:,} tokens of validation, so that there is no loss: raise "
            "evaluate.tokens, hold out more text (data.validation_share), or let the objective predict more."
        )
    return Score(nats / weights, nats / weights * count / math.log(2) / n_bytes, count, n_bytes)


@torch.no_grad()
def sample(
    net: Network, tokenizer: Tokenizer, prompt: str, new: int, seed: int = 0, how: Sampling | None = None
) -> dict[str, Any]:
    """A line of samples.jsonl without its step: a continuation of the prompt, and the ten likeliest next tokens.

    how: greedy by default; its seed and excluded ids are replaced by `seed` and the tokenizer's unused ids.

    >>> from pathlib import Path
    >>> from cloche.data import PackedTokens, prepare
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.text import Tokenizer
    >>> from cloche.train import sample
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> _ = prepare(["text.txt"], "packed", vocab=270)
    >>> tokens, tokenizer = PackedTokens.open("packed", "validation"), Tokenizer.load("packed")
    >>> net = LM(vocab=tokenizer.vocab, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> record = sample(net, tokenizer, "The cat", new=4)
    >>> sorted(record), record["prompt"], len(record["next"])
    (['next', 'prompt', 'text'], 'The cat', 10)
    """
    prompt_ids = read_prompt(prompt, tokenizer)[0].to(net.embed.weight.device)
    if net.length is not None:
        new = max(1, min(new, net.length - prompt_ids.shape[1]))
    unused = tokenizer.unused(net.spec.vocab)
    out = generate(net, prompt_ids, new=new, sampling=how, seed=seed, exclude=unused)
    top = net(prompt_ids)[0, -1].float().softmax(-1)[: tokenizer.vocab].topk(min(10, tokenizer.vocab))
    likely = [[tokenizer.show(int(i)), p] for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
    text = tokenizer.decode_bytes(out.new[0]).decode("utf-8", "replace")  # continues the prompt: keep the leading space
    return {"prompt": prompt, "text": text, "next": likely}
