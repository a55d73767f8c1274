"""End-to-end training: a dictionary's loss is the model's output with its reconstructions put in (Braun et al. 2024,
2405.12241)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from cloche.interp.metrics import kl
from cloche.interp.route import FIRST, Others, Reader, Route, as_route, rows_without_first
from cloche.interp.subject import Subject, network_of, windows_of
from cloche.model import Network, Site
from cloche.sparse.saes import Batch


def end_to_end(
    subject: Subject | Network,
    windows: Iterable[Any],
    where: Site | Route | str,
    local: float = 0.0,
    others: Others | None = None,
) -> Iterator[Batch]:
    """Yields batches for `train_sae` and `continue_training`, one per batch of `windows` (ids [batch, position], or texts).

    The loss of a batch is the Kullback-Leibler divergence, in nats per token, from the model's predictions to those with
    the reconstructions put where the dictionary writes, plus `local` times the fraction of variance unexplained. A short
    training of this kind after an ordinary one gives most of the benefit of a full one (Karvonen 2025, 2503.17272). The
    model does not change.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> from cloche.interp import harvest
    >>> from cloche.sparse import Provenance, Training, train_sae
    >>> rows, where = harvest(glass, [text], "resid_post[1]"), Provenance("resid_post[1]")
    >>> sae, _ = train_sae(rows, 64, 4, Training(steps=4, batch=64), trained_on=where)
    >>> from cloche.interp import end_to_end
    >>> len(list(end_to_end(glass, [text], "resid_post[1]")))
    1
    """
    net = network_of(subject)
    reader = as_route(where).through(net, others)
    wiring = reader.wiring()
    written = sum(wiring.writes or wiring.reads)
    for window in windows_of(subject, windows):
        ids = window.to(net.embed.weight.device)
        rows = rows_without_first(reader.rows(ids))
        yield Batch(rows, _loss(reader, ids, rows[:, -written:], local))


def _loss(reader: Reader, ids: Tensor, target: Tensor, local: float) -> Callable[[Tensor], Tensor]:
    """The loss of a batch as a function of its reconstruction [n, width]."""

    def divergence(made: Tensor) -> Tensor:
        net = reader.net
        with _frozen(net):
            clean = net.run(ids).logits[:, FIRST:].float().log_softmax(-1)
            spliced = net.run(ids, edits=reader.put(made), grad=True).logits[:, FIRST:].float().log_softmax(-1)
        loss = kl(clean, spliced).mean()
        if local:
            spread = (target - target.mean(0)).square().sum()
            loss = loss + local * (target - made).square().sum() / spread
        return loss

    return divergence


@contextmanager
def _frozen(net: Network) -> Iterator[None]:
    """Gradients pass through the weights but none is computed for them."""
    asking = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
