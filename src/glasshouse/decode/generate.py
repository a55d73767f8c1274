"""Generation: one token at a time, through the cache, under edits."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glasshouse.decode.sampling import Sampling
from glasshouse.decode.session import Session
from glasshouse.errors import GlasshouseError
from glasshouse.model import Edit, Network
from glasshouse.model.checks import check_ids, check_pad


@dataclass(frozen=True)
class Generation:
    """ids: [batch, position + generated], rows that stopped early filled with their stop token. new: each row's own tokens,
    its stop token included."""

    ids: Tensor
    new: list[list[int]]


def stream(
    net: Network, ids: Any, new: int = 64, edits: Iterable[Edit] = (), pad: Any = None, **sampling: Any
) -> Iterator[Tensor]:
    """Yield the next token of every row, [batch], `new` times.

    ids: [batch, position] token ids. pad: tokens of left padding in each row. edits: applied to the prompt and to every new
    token whose position they name. sampling: temperature, top_k, top_p, seed (see Sampling).
    """
    if not isinstance(new, int) or new < 1:
        raise GlasshouseError(f"new={new!r} must be a whole number of at least one token.")
    ids = check_ids(ids, net.spec.vocab, net.length, net.embed.weight.device)
    pad = check_pad(pad, ids)
    if any(not block.part.mix.mask.causal for block in net.layers):
        raise GlasshouseError("This model's mask lets tokens see later ones, so it cannot generate from left to right.")
    how = sampling_of(sampling)
    generator = torch.Generator(device=ids.device).manual_seed(how.seed)
    session = Session(net, ids, pad, new, edits)
    return _tokens(session, ids, new, how, generator)


def _tokens(session: Session, ids: Tensor, new: int, how: Sampling, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(new):
        token = how.pick(session.feed(ids), generator)
        yield token
        ids = token[:, None]


def generate(
    net: Network,
    ids: Any,
    new: int = 64,
    edits: Iterable[Edit] = (),
    stop: Iterable[int] = (),
    pad: Any = None,
    **sampling: Any,
) -> Generation:
    """Continue every row of ids [batch, position] by up to `new` tokens, or until it makes a token of `stop`.

    Arguments as in `stream`. Raises GlasshouseError for what `run` refuses, and for more tokens than the model has positions.
    """
    ids = check_ids(ids, net.spec.vocab, net.length, net.embed.weight.device)
    ends = torch.tensor(check_stop(stop, net.spec.vocab), device=ids.device, dtype=torch.long)
    columns: list[Tensor] = []
    done = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
    last = ids[:, -1]
    counts = torch.zeros_like(last)
    for token in stream(net, ids, new, edits, pad, **sampling):
        last = torch.where(done, last, token)
        columns.append(last)
        counts += ~done
        done = done | torch.isin(last, ends)
        if bool(done.all()):
            break
    made = torch.stack(columns, 1)
    return Generation(
        torch.cat([ids, made], 1), [row[:n].tolist() for row, n in zip(made, counts.tolist(), strict=True)]
    )


def check_stop(stop: Any, vocab: int) -> list[int]:
    """The stop tokens as a list; GlasshouseError where one is no token of the vocabulary and so could never be made."""
    try:
        tokens = [operator.index(token) for token in stop]
    except TypeError:
        raise GlasshouseError(f"stop= takes a list of token ids; got {stop!r}.") from None
    for token in tokens:
        if not 0 <= token < vocab:
            raise GlasshouseError(f"The stop token {token} is outside the vocabulary 0 to {vocab - 1}.")
    return tokens


def sampling_of(settings: dict[str, Any]) -> Sampling:
    """A Sampling from keyword settings; GlasshouseError names one that does not exist."""
    unknown = set(settings) - set(Sampling.__dataclass_fields__)
    if unknown:
        known = ", ".join(Sampling.__dataclass_fields__)
        raise GlasshouseError(f"Generation has no setting {min(unknown)!r}; it has {known}.")
    return Sampling(**settings)
