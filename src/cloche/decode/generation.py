"""Generation: one token at a time, through the cache, under edits."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cloche.decode.sampling import Sampling
from cloche.decode.session import Session
from cloche.errors import ArgumentInvalid, ArgumentRange, ModelUnsupported, PromptInvalid
from cloche.model import Edit, Network, Result
from cloche.model.sites import check_ids, check_pad
from cloche.words import check_arguments, no_attribute, with_hints

Stop = Iterable[int] | Callable[[list[int]], bool]


_with_sampling_hints = functools.partial(with_hints, also=(*Sampling.__dataclass_fields__, "sampling"))


@dataclass(frozen=True, repr=False)
class Generation:
    """ids: [batch, position + generated], rows that stopped early filled with their stop token. new: each row's own tokens,
    its stop token included.

    saved: what `save=` asked for, over prompt and new tokens alike. logprobs: of each token of `new`, the model's own
    log-probability (nats, before temperature and cuts); None unless asked for. notes: remarks about these texts, one
    sentence each, such as that they exceed the model's context, or how probable excluded tokens were.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU("silu", 64)))).build(seed=0)
    >>> from cloche.decode import generate
    >>> out = generate(net, [[1, 2, 3]], new=4, save=[net.sites.resid_post[1]], logprobs=True)
    >>> out.ids.shape, len(out.new[0]), out.saved[net.sites.resid_post[1]].shape
    (torch.Size([1, 7]), 4, torch.Size([1, 7, 32]))
    """

    ids: Tensor
    new: list[list[int]]
    saved: Result
    logprobs: list[list[float]] | None = None

    notes: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise no_attribute("Generation", name, ("ids", "logprobs", "new", "notes", "saved"))

    def __repr__(self) -> str:
        written = [len(row) for row in self.new]
        prompt = self.ids.shape[1] - max(written)
        kept = ", ".join(map(str, self.saved.plan.saves))
        told = f"<Generation: {len(written)} rows of {prompt} prompt tokens and {', '.join(map(str, written))} new ones"
        told += (f"; saved {kept}" if kept else "") + ("; logprobs" if self.logprobs else "") + ">"
        return "\n".join([told, *(f"Note: {note}" for note in self.notes)])


@_with_sampling_hints
def stream(
    net: Network,
    ids: Any,
    new: int = 64,
    edits: Iterable[Edit] = (),
    pad: Any = None,
    notes: list[str] | None = None,
    **sampling: Any,
) -> Generator[Tensor, None, None]:
    """Yield the next token of every row, [batch], `new` times.

    ids: [batch, position] token ids. pad: tokens of left padding in each row. edits: applied to the prompt and to every new
    token whose position they name. notes: a list to which remarks are added when the stream ends or is closed (see
    Generation). sampling: temperature, top_k, top_p, min_p, exclude, seed (see Sampling).

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU("silu", 64)))).build(seed=0)
    >>> from cloche.decode import stream
    >>> len([int(token) for token in stream(net, [[1, 2, 3]], new=4)])
    4
    """
    ids, session, pick = _begin(net, ids, new, edits, pad, (), sampling)
    return _tokens(session, ids, new, pick, [] if notes is None else notes)


class _Picker:
    """Draws tokens from logits [batch, vocab], and keeps track of how probable the excluded ones were."""

    def __init__(self, how: Sampling, vocab: int, device: torch.device) -> None:
        if how.exclude and how.exclude[-1] >= vocab:
            raise PromptInvalid(f"exclude= names the token {how.exclude[-1]}, outside the vocabulary 0 to {vocab - 1}.")
        if len(how.exclude) == vocab:
            raise ArgumentInvalid(f"exclude= names all {vocab} tokens of the vocabulary, so none could be drawn.")
        self._how, self._generator = how, torch.Generator(device=device).manual_seed(how.seed)
        self._masses: list[Tensor] = []

    def __call__(self, logits: Tensor) -> Tensor:
        if self._how.exclude:
            self._masses.append(self._how.excluded_mass(logits).max())
        return self._how.pick(logits, self._generator)

    def notes(self) -> list[str]:
        """How much probability the excluded tokens had, if there are any."""
        if not self._masses:
            return []
        masses = torch.stack(self._masses)
        return [
            f"{len(self._how.exclude):,} token ids were never drawn; the model gave them {float(masses.mean()):.2%} of the "
            f"probability on average and {float(masses.max()):.2%} at most."
        ]


def _begin(
    net: Network, ids: Any, new: int, edits: Iterable[Edit], pad: Any, save: Any, sampling: dict[str, Any]
) -> tuple[Tensor, Session, _Picker]:
    """Checks everything; gives the prompt, a fresh session, and what picks a token from logits."""
    if not isinstance(new, int) or new < 1:
        raise ArgumentRange(f"new={new!r} must be a whole number of at least one token.")
    ids = check_ids(ids, net.spec.vocab, net.length, net.embed.weight.device)
    pad = check_pad(pad, ids)
    if not net.causal:
        raise ModelUnsupported(
            "This model's mask lets tokens see later ones, so it cannot generate from left to right: use a model with causal "
            "attention, or read what this one predicts at its mask tokens, from the logits of run."
        )
    pick = _Picker(sampling_of(sampling), net.spec.vocab, ids.device)
    return ids, Session(net, ids, pad, new, edits, save), pick


def _tokens(session: Session, ids: Tensor, new: int, pick: _Picker, notes: list[str]) -> Generator[Tensor, None, None]:
    try:
        for _ in range(new):
            token = pick(session.feed(ids))
            yield token
            ids = token[:, None]
    finally:
        notes += [*session.noted(1), *pick.notes()]


@_with_sampling_hints
def generate(
    net: Network,
    ids: Any,
    new: int = 64,
    edits: Iterable[Edit] = (),
    stop: Stop = (),
    pad: Any = None,
    save: Any = (),
    logprobs: bool = False,
    **sampling: Any,
) -> Generation:
    """Continue every row of ids [batch, position] by up to `new` tokens, or until it makes a token of `stop`.

    Arguments as in `stream`. stop: token ids, or a function of a row's new tokens that says whether it ends there. save:
    sites to keep, as in `run`. logprobs: keep the log-probability of each token made.

    Raises ClocheError for what `run` refuses, and for more tokens than the model has positions.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU("silu", 64)))).build(seed=0)
    >>> from cloche.decode import generate
    >>> generate(net, [[1, 2, 3]], new=5, temperature=0.8, seed=0).ids.shape
    torch.Size([1, 8])
    """
    ids, session, pick = _begin(net, ids, new, edits, pad, save, sampling)
    ended = stop if callable(stop) else _ends_in(check_stop(stop, net.spec.vocab))
    rows: list[list[int]] = [[] for _ in ids]
    likely: list[list[float]] = [[] for _ in ids]
    done, fed = [False] * len(ids), ids
    columns: list[Tensor] = []
    while len(columns) < new and not all(done):
        logits = session.feed(fed)
        token = pick(logits)
        if columns:
            token = torch.where(torch.tensor(done, device=token.device), columns[-1], token)
        columns.append(token)
        chances = _log_probability(logits, token).tolist() if logprobs else None
        for row, made in enumerate(token.tolist()):
            if not done[row]:
                rows[row].append(made)
                done[row] = bool(ended(rows[row]))
                if chances is not None:
                    likely[row].append(chances[row])
        fed = token[:, None]
    if session.plan.saves:
        session.feed(fed)  # the last token's own values, which no further token asked for
    whole = torch.cat([ids, torch.stack(columns, 1)], 1)
    notes = (*session.noted(whole.shape[1] - session.start), *pick.notes())
    return Generation(whole, rows, session.saved(), likely if logprobs else None, notes)


def _log_probability(logits: Tensor, token: Tensor) -> Tensor:
    """[batch]: log-probability of `token` [batch] under logits [batch, vocab]."""
    logits = logits.float()
    return logits.gather(-1, token[:, None])[:, 0] - logits.logsumexp(-1)


def _ends_in(tokens: list[int]) -> Callable[[list[int]], bool]:
    ends = set(tokens)
    return lambda made: made[-1] in ends


def check_stop(stop: Any, vocab: int) -> list[int]:
    """The stop tokens as a list. Raises ClocheError for one outside the vocabulary, which could never be generated.

    >>> from cloche.decode import check_stop
    >>> check_stop((3, 5), vocab=10)
    [3, 5]
    """
    try:
        tokens = [operator.index(token) for token in stop]
    except TypeError:
        raise ArgumentRange(f"stop= takes a list of token ids; got {stop!r}.") from None
    for token in tokens:
        if not 0 <= token < vocab:
            raise PromptInvalid(f"The stop token {token} is outside the vocabulary 0 to {vocab - 1}.")
    return tokens


def sampling_of(settings: dict[str, Any]) -> Sampling:
    """A Sampling from keyword settings, over those of a whole one given as sampling=. Raises ClocheError for a setting that
    does not exist."""
    given = dict(settings)
    whole = given.pop("sampling", None) or Sampling()
    check_arguments("Sampling", given, tuple(Sampling.__dataclass_fields__))
    return dataclasses.replace(whole, **given)
