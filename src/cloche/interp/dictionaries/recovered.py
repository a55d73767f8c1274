"""Loss recovered: the model's loss when a dictionary's reconstruction replaces the activations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import CorpusEmpty
from cloche.interp.metrics import kl
from cloche.interp.route import FIRST, Others, reader_of, rows_without_first
from cloche.interp.subject import Subject, windows_of
from cloche.model import Edit
from cloche.sparse import SAE


@dataclass(frozen=True)
class Recovered:
    """Cross-entropies in nats per token: of the model, with the reconstruction put in, and with the mean instead (mean
    ablation).

    >>> from cloche.interp import Recovered
    >>> round(Recovered(tokens=100, clean=2.0, spliced=2.5, ablated=4.0, kl=0.4).share, 2)
    0.75
    """

    tokens: int
    clean: float
    spliced: float
    ablated: float
    kl: float  # from the model's predictions to those with the reconstruction, nats per token

    @property
    def share(self) -> float:
        """Share of the loss added by mean ablation that the reconstruction recovers: 1 is all of it. NaN if mean ablation
        adds nothing."""
        cost = self.ablated - self.clean
        return (self.ablated - self.spliced) / cost if cost > 0 else float("nan")

    def __str__(self) -> str:
        return (
            f"With the reconstruction put in, the cross-entropy over {self.tokens:,} tokens is {self.spliced:.4f} nats (the "
            f"model {self.clean:.4f}, the mean {self.ablated:.4f}): {self.share:.1%} recovered, KL {self.kl:.4f}."
        )


@torch.no_grad()
def loss_recovered(subject: Subject, sae: SAE, windows: Iterable[Any], others: Others | None = None) -> Recovered:
    """Measures the loss on `windows` (batches of ids [batch, position], or texts): of the model, with the dictionary's
    reconstruction put where it writes, and with the mean there instead. The dictionary reads from the unedited pass; what
    it writes into `others` is not put in. The first position, which dictionaries do not see, is neither edited nor counted.

    Raises ClocheError if the dictionary is of another site or width, or if there is nothing to predict.

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
    >>> from cloche.interp import loss_recovered
    >>> found = loss_recovered(glass, sae, [text])
    >>> found.tokens > 100, found.spliced >= 0
    (True, True)
    """
    net, sums, tokens = subject.net, torch.zeros(4, dtype=torch.float64), 0
    reader = reader_of(sae, net, others)

    def predictions(edits: list[Edit]) -> Tensor:
        return net.run(ids, edits=edits).logits[:, FIRST:-1].float().log_softmax(-1)

    for window in windows_of(subject, windows):
        ids = window.to(net.embed.weight.device)
        target, made = (part.to(ids.device) for part in sae.explain(rows_without_first(reader.rows(ids)).cpu())[1:])
        mean = target.mean(0).expand_as(target)
        clean, back, flat = (predictions(edits) for edits in ([], reader.put(made), reader.put(mean)))
        targets = ids[:, FIRST + 1 :].flatten()
        for i, log in enumerate((clean, back, flat)):
            sums[i] += float(F.nll_loss(log.flatten(0, 1), targets, reduction="sum"))
        sums[3] += float(kl(clean, back).sum())
        tokens += len(targets)
    if not tokens:
        raise CorpusEmpty("There is no text to predict: give at least one window of three tokens.")
    return Recovered(tokens, *(sums / tokens).tolist())
