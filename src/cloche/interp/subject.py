"""What an instrument examines: a network, its tokenizer, and the name its findings are filed under."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from cloche.decode import is_texts, read_prompt, read_windows
from cloche.errors import InstrumentOption, PromptInvalid, SiteUnsuitable
from cloche.model import Network, Site
from cloche.model.sites import check_ids
from cloche.text import Tokenizer

TOKENS = 1024  # of a batch of prompts of one length, about


class Subject(Protocol):
    """A Glass, or any other object with these three attributes.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import Subject
    >>> def parameters(subject: Subject) -> int:
    ...     return sum(p.numel() for p in subject.net.parameters())
    >>> parameters(cloche.Glass(LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0))) > 10_000
    True
    """

    @property
    def net(self) -> Network: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def checkpoint(self) -> str: ...


def encode(subject: Subject, prompt: Any) -> tuple[str, list[int]]:
    """A prompt's text and ids (at least one), from a text, a list of one text, or ids [position] or [1, position]."""
    ids, _ = read_prompt(prompt, subject.tokenizer)
    if not ids.numel():
        raise PromptInvalid("The prompt has no tokens; give at least one.")
    ids = check_ids(ids, subject.net.spec.vocab, None, ids.device)
    if len(ids) > 1:
        raise PromptInvalid(f"This instrument takes one prompt at a time, and {len(ids)} were given; give one.")
    row: list[int] = ids[0].tolist()
    return prompt if isinstance(prompt, str) else "".join(spell(subject.tokenizer, row)), row


def several(prompt: Any) -> list[Any] | None:
    """The prompts of a list of texts or rows of ids; None for a single prompt."""
    if is_texts(prompt):
        return list(prompt)
    rows = (
        isinstance(prompt, list | tuple)
        and bool(prompt)
        and all(isinstance(row, list | tuple | Tensor) for row in prompt)
    )
    return list(prompt) if (rows or getattr(prompt, "ndim", 1) == 2) and len(prompt) > 1 else None


def network_of(subject: Subject | Network) -> Network:
    """The network of a subject, or the network itself."""
    return subject if isinstance(subject, Network) else subject.net


def windows_of(subject: Subject | Network, windows: Any) -> Iterator[Tensor]:
    """Batches of ids [batch, position] from batches of ids, texts or one text; a text longer than the model's context is
    cut."""
    net = network_of(subject)
    tokenizer = None if isinstance(subject, Network) else subject.tokenizer
    return read_windows(windows, tokenizer, net.most_tokens, "This model")


def vector_sites(net: Network, name: Site | str) -> list[Site]:
    """The sites of a name such as "resid_post", of every layer, or "resid_post[2]". Raises SiteUnsuitable unless they have one
    vector per token."""
    once = str(name) in {str(site) for site in net.sites if site.layer is None}  # such as embed
    found = net.sites.resolve(name if once or "[" in str(name) or "." in str(name) else f"{name}.all")
    if len(found[0].axes) != 3:
        raise SiteUnsuitable(
            f"{found[0]} has axes {', '.join(found[0].axes)}; name a site with one vector per token, such as resid_post or "
            "mlp_act."
        )
    return found


def check_vocabulary(net: Network, other: Network, name: str) -> None:
    """Raises InstrumentOption unless the `other` model, given as the option `name`, has as many tokens."""
    if net.spec.vocab != other.spec.vocab:
        raise InstrumentOption(
            f"{name}= has {other.spec.vocab:,} tokens and this model {net.spec.vocab:,}, so they do not read the same text "
            "alike; compare models with one tokenizer."
        )


def by_length(prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor]]:
    """Prompts in batches of one length, without padding: the indices of the prompts, and their ids [prompt, position]."""
    lengths: dict[int, list[int]] = {}
    for i, ids in enumerate(prompts):
        lengths.setdefault(len(ids), []).append(i)
    for length, same in lengths.items():
        for start in range(0, len(same), rows := max(1, TOKENS // max(1, length))):
            some = same[start : start + rows]
            yield some, torch.tensor([list(prompts[i]) for i in some])


def read_prompts(prompts: Sequence[Sequence[int]], read: Callable[[Tensor], Tensor]) -> Tensor:
    """`read` of every prompt, [prompt, ...] in their order; it is given batches of ids [prompt, position]."""
    found: dict[int, Tensor] = {}
    for some, ids in by_length(prompts):
        found.update(zip(some, read(ids), strict=True))
    return torch.stack([found[i] for i in range(len(prompts))])


def spell(tokenizer: Tokenizer | None, ids: Iterable[int]) -> list[str]:
    """Each token's text, with whitespace as it is; if it is not text by itself, as `show` writes it; without a tokenizer,
    its number."""
    if tokenizer is None:
        return [str(i) for i in ids]
    return [_spell(tokenizer, i) for i in ids]


def _spell(tokenizer: Tokenizer, i: int) -> str:
    if i >= tokenizer.vocab:
        return f"[{i}]"  # a row of the embedding that no token uses
    try:
        return tokenizer.decode_bytes([i]).decode() or tokenizer.show(i)
    except UnicodeDecodeError:
        return tokenizer.show(i)
