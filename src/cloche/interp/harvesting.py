"""Activations over many tokens, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from cloche.errors import ArgumentRange
from cloche.interp.route import Others, Route, as_route, rows_without_first
from cloche.interp.subject import Subject, network_of, windows_of
from cloche.model import Network, Site


@torch.no_grad()
def activations(
    subject: Subject | Network, windows: Iterable[Any], where: Site | Route | str, others: Others | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (ids [batch, position], rows [batch, position, columns]) of a site or a route in fp32, batch by batch and in
    order.

    `windows` are batches of token ids or, with a Glass, texts; `others` are the other models that a route names. Layers
    after the sites are not run.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> from cloche.interp import activations
    >>> [(ids.shape, rows.shape) for ids, rows in activations(glass, ["the cat sat"], "resid_post[1]")]
    [(torch.Size([1, 6]), torch.Size([1, 6, 32]))]
    """
    net = network_of(subject)
    reader = as_route(where).through(net, others)
    for window in windows_of(subject, windows):
        ids = window.to(net.embed.weight.device)
        yield ids, reader.rows(ids)


def harvest(
    subject: Subject | Network,
    windows: Iterable[Any],
    where: Site | Route | str,
    buffer: int = 65_536,
    seed: int = 0,
    others: Others | None = None,
) -> Iterator[Tensor]:
    """Yields shuffled rows [n, columns] of a site or a route, as `train_sae` reads them. Holds at most `buffer` rows and
    one batch.

    The first position of every window is left out. A full buffer yields a random half of its rows before it takes more, so
    neighbouring tokens come out far apart. The same windows and seed give the same rows.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> from cloche.interp import harvest
    >>> sum(len(rows) for rows in harvest(glass, [text], "resid_post[1]")) > 100
    True
    """
    if buffer < 2:
        raise ArgumentRange(f"buffer={buffer} cannot shuffle anything; hold at least 2 activations.")
    rng = torch.Generator().manual_seed(seed)
    held: list[Tensor] = []
    count = 0
    for _, values in activations(subject, windows, where, others):
        rows = rows_without_first(values).cpu()
        while len(rows):
            taken, rows = rows[: buffer - count], rows[buffer - count :]
            held.append(taken)
            count += len(taken)
            if count == buffer:
                shuffled = torch.cat(held)[torch.randperm(count, generator=rng)]
                yield shuffled[: buffer // 2]
                held, count = [shuffled[buffer // 2 :]], buffer - buffer // 2
    if count:
        yield torch.cat(held)[torch.randperm(count, generator=rng)]
