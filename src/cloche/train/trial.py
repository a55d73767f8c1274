"""A trial of an objective on one row, before anything is trained or saved: its terms and its validation."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from cloche.errors import NotFinite, PartInvalid, shown
from cloche.model import Network
from cloche.train.objectives.batch import TokenBatch
from cloche.train.objectives.objective import Objective, Term

# What records of metrics.jsonl have beside an objective's terms, which would be overwritten.
TAKEN = re.compile(
    "log|step|time|tokens|flops|eta|mfu|tokens_per_second|grad_norm|lr|chain|weights|update_norm(_max)?|(lr|shrink|val|epochs)_.*",
    re.ASCII,
)


def try_objective(objective: Objective, net: Network, batch: TokenBatch) -> None:
    """Computes an objective's terms and its validation on the first row of a batch. Raises ClocheError if they are not what
    training needs, and whatever they raise. The random state, gradients and buffers stay as they are.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> from cloche.errors import ClocheError
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import Objective, Term, TokenBatch
    >>> from cloche.train.trial import try_objective
    >>> @dataclass(frozen=True)
    ... class Largest(Objective):
    ...     def terms(self, net, batch):
    ...         return {"largest": Term(net(batch[:, :-1]).max())}
    >>> net = LM(vocab=20, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> try:
    ...     try_objective(Largest(), net, TokenBatch(torch.randint(20, (2, 9))))
    ... except ClocheError as error:
    ...     print(error)
    The objective Largest returns largest; one of its terms must be called "loss".
    """
    if not 0 <= int(batch.ids.min()) <= int(batch.ids.max()) < net.spec.vocab:
        raise PartInvalid(
            f"A batch holds the ids {int(batch.ids.min())} to {int(batch.ids.max())}, and the model has {net.spec.vocab:,} "
            "tokens: the packing must give ids of the tokenizer."
        )
    row = TokenBatch(batch.ids[:1], _first(batch.documents), _first(batch.weights), batch.seed)
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with torch.random.fork_rng(devices=[row.ids.device] if row.ids.is_cuda else []):
        _check_terms(objective, objective.terms(net, row))
        with torch.no_grad():
            found = objective.nats(net, row)
    for name, buffer in net.named_buffers():
        buffer.copy_(buffers[name])
    if not (isinstance(found, tuple) and len(found) == 2 and all(_is_scalar(each) for each in found)):
        raise PartInvalid(
            f"The objective {_name(objective)} must return two scalars from `nats`, the sum of losses and that of weights, not "
            f"{shown(found)}."
        )
    if not 0 <= float(weight := objective.weight(row)) < torch.inf:
        raise PartInvalid(
            f"The objective {_name(objective)} gives a batch the weight {weight}; `weight` must be finite."
        )


def _check_terms(objective: Objective, terms: Any) -> None:
    name = _name(objective)
    if not isinstance(terms, dict) or not all(isinstance(key, str) for key in terms):
        raise PartInvalid(f"The objective {name} must return its terms by their names, not {shown(terms)}.")
    if "loss" not in terms:
        raise PartInvalid(
            f'The objective {name} returns {", ".join(terms) or "no terms"}; one of its terms must be called "loss".'
        )
    for key, term in terms.items():
        if TAKEN.fullmatch(key):
            raise PartInvalid(
                f"The objective {name} returns a term {key!r}, a name that the log uses; give it another."
            )
        if not isinstance(term, Term) or not _is_scalar(term.value):
            value = getattr(term, "value", term)
            raise PartInvalid(
                f"The objective {name} returns {_described(value)} as {key!r}; it must be Term(value, weight) with a "
                "scalar tensor."
            )
        if not torch.isfinite(term.value):
            raise NotFinite(
                f"The term {key!r} of {objective} is {term.value.item()} before the first update: correct it, or "
                "choose another [initialisation]."
            )
    if not any(term.value.requires_grad and term.weight for term in terms.values()):
        raise PartInvalid(f"The terms of the objective {name} carry no gradient, so that nothing would be learned.")


def _first(array: Tensor | None) -> Tensor | None:
    return None if array is None else array[:1]


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


def _described(value: Any) -> str:
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else shown(value)


def _name(objective: Objective) -> str:
    return type(objective).__name__
