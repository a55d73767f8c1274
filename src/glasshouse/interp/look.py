"""Looking into a finished run: a dictionary of its middle layer, its most telling features, a logit lens."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from glasshouse.errors import GlasshouseError
from glasshouse.interp.features import features_report
from glasshouse.interp.harvest import FIRST, activations
from glasshouse.interp.lens import logit_lens
from glasshouse.interp.subject import Subject
from glasshouse.runs import Run
from glasshouse.sparse import SAE, Provenance, Training, training_course
from glasshouse.sparse.saes import KINDS

_WINDOWS = 16  # windows a forward pass


class Tokens(Protocol):
    """A long row of token ids, such as `glasshouse.data.PackedTokens`."""

    def __len__(self) -> int: ...
    def window(self, start: int, length: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Look:
    """How closely to look. The defaults take about a minute on two cores for a model of width 256.

    `site` None is the residual stream after the middle layer; `features` None is eight times the width, `k` None three for
    every 32 of the width (2,048 and 24 for a width of 256). `kind` is topk, batchtopk, relu, gated or jumprelu. The dictionary
    is trained on `tokens` tokens, `passes` times over, and shown on `shown` others.
    """

    site: str | None = None
    kind: str = "topk"
    features: int | None = None
    k: int | None = None
    tokens: int = 204_800
    passes: int = 4
    shown: int = 49_152
    length: int = 256
    batch: int = 1_024
    lr: float = 4e-3
    count: int = 40


@dataclass(frozen=True)
class Progress:
    """Where `look_inside` is: `done` of `total` in a stage ("harvest", "dictionary", "features", "lens"), and a sentence."""

    stage: str
    done: int
    total: int
    message: str

    def __str__(self) -> str:
        return self.message


def look_inside(
    run: Run, subject: Subject, tokens: Tokens, prompts: Sequence[str] = (), seed: int = 0, look: Look = Look()
) -> Iterator[Progress]:
    """Harvests, trains a dictionary, reports its features and reads `prompts` with the logit lens; yields as it goes.

    Leaves dictionaries/<site>/, a `features` finding and a `logit-lens` finding a prompt in the run (without prompts, for a
    few tokens of the text itself). Everything follows from `seed`: looking again puts the same things in the same places.
    """
    name, sae, shown = yield from train_dictionary(run, subject, tokens, seed, look)
    yield Progress("features", 0, 1, f"reading {sum(batch.size for batch in shown):,} other tokens with {name}")
    finding = features_report(subject, sae, shown, name, look.count)
    finding.save(run)
    yield Progress("features", 1, 1, finding.summary)
    texts: list[Any] = list(prompts) or [shown[0][0][:16].tolist()]
    for done, prompt in enumerate(texts):
        lens = logit_lens(subject, prompt)
        lens.save(run)
        yield Progress("lens", done + 1, len(texts), lens.summary)


def train_dictionary(
    run: Run, subject: Subject, tokens: Tokens, seed: int = 0, look: Look = Look(), name: str = ""
) -> Generator[Progress, None, tuple[str, SAE, list[np.ndarray]]]:
    """The first half of `look_inside`: harvests a site and leaves dictionaries/<name>/ (by default the site's) in the run.

    Yields as it goes; returns the name, the dictionary, and windows that it was not trained on.
    """
    if f"{look.kind}-sae" not in KINDS:
        known = ", ".join(kind.removesuffix("-sae") for kind in KINDS)
        raise GlasshouseError(f"There is no kind of dictionary called {look.kind!r}: choose among {known}.")
    site = _site(subject, look)
    train, shown = _windows(tokens, subject, look, seed)
    held: list[Tensor] = []
    for done, values in enumerate(_harvest(subject, train, site)):
        held.append(values)
        yield Progress("harvest", done + 1, len(train), f"reading {site} at {sum(map(len, held)):,} tokens")
    rows = torch.cat(held)
    del held
    name = name or dictionary_name(subject, look)
    sae = yield from _learn(rows, subject, site, look, seed)
    sae.save(run.path / "dictionaries" / name)
    return name, sae, shown


def dictionary_name(subject: Subject, look: Look = Look()) -> str:
    """What a dictionary is called when nobody says: its site, as a folder's name."""
    return _site(subject, look).replace("[", "_").replace("]", "")


def _site(subject: Subject, look: Look) -> str:
    return str(subject.net.sites.resolve(look.site)[0] if look.site else _middle(subject))


def _middle(subject: Subject) -> Any:
    layers = subject.net.sites.resid_post
    return layers[(len(layers) - 1) // 2]


def _windows(tokens: Tokens, subject: Subject, look: Look, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Batches of windows [batch, length] to learn from and, none of them the same, to show; chosen by `seed`."""
    length = min(look.length, subject.net.length or look.length, len(tokens) // 2)
    if length < 2:
        raise GlasshouseError(
            f"A text of {len(tokens):,} tokens is too short to look into a model with; give it more text."
        )
    order = np.random.default_rng(seed).permutation(len(tokens) // length)
    shown = max(1, min(look.shown // length, len(order) // 5))
    learn = max(1, min(look.tokens // length, len(order) - shown))
    return batched_windows(tokens, order[shown : shown + learn], length), batched_windows(tokens, order[:shown], length)


def batched_windows(tokens: Tokens, places: np.ndarray, length: int) -> list[np.ndarray]:
    """The windows at `places` (each counted in lengths), in batches [batch, length]."""
    windows = [tokens.window(int(place) * length, length) for place in places]
    return [np.stack(windows[i : i + _WINDOWS]) for i in range(0, len(windows), _WINDOWS)]


def _harvest(subject: Subject, windows: list[np.ndarray], site: str) -> Iterator[Tensor]:
    for _, values in activations(subject.net, windows, site):
        yield values[:, FIRST:].flatten(0, 1).cpu()


def _learn(rows: Tensor, subject: Subject, site: str, look: Look, seed: int) -> Generator[Progress, None, SAE]:
    """Trains the dictionary, yielding progress; returns it."""
    features = look.features or 8 * rows.shape[1]
    k = look.k or max(4, 3 * rows.shape[1] // 32)
    batch = min(look.batch, len(rows))
    steps = max(1, look.passes * len(rows) // batch)
    training = Training(steps=steps, batch=batch, lr=look.lr)
    origin = Provenance(site, subject.checkpoint)
    kind = KINDS[f"{look.kind}-sae"]()
    course = training_course(rows, features, min(k, features), training, kind=kind, seed=seed, trained_on=origin)
    while True:
        try:
            record = next(course)
        except StopIteration as end:
            return end.value
        left = f"{features:,} features of {site} leave {record['fvu']:.0%} of it unexplained"
        yield Progress("dictionary", int(record["step"]), steps, left)
