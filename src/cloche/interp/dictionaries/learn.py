"""Learning a dictionary of a run's activations, along any route, and leaving it in the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cloche.errors import ArgumentRange, CorpusEmpty, PathInvalid, SettingConflict
from cloche.interp.dictionaries.finishing import end_to_end
from cloche.interp.harvesting import activations, harvest
from cloche.interp.route import FIRST, Others, Reader, Route, rows_without_first
from cloche.interp.subject import Subject
from cloche.part import part_from_line
from cloche.ranks import Ranks
from cloche.runs import Run
from cloche.sparse import SAE, Kind, Provenance, TopK, Training, iter_train_sae
from cloche.sparse.saes import Record, SaveState, continue_training

HELD = 1 << 30  # bytes of activations held in memory; more are read from the model again in each pass
CALIBRATED, FEWEST = 16_384, 2_048  # tokens that a threshold is calibrated on, and of how few it is not
_WINDOWS = 16  # windows a forward pass
_FINISHING = 4e-4  # learning rate of end-to-end training after another: a tenth of what short runs have


class Tokens(Protocol):
    """A long row of token ids, such as `cloche.data.PackedTokens`."""

    def __len__(self) -> int: ...
    def window(self, start: int, length: int) -> np.ndarray: ...


@dataclass(frozen=True)
class TokenBudget:
    """How much text a dictionary is trained on and shown on: `tokens` tokens, `passes` times, in batches of `batch`, and
    `shown` other tokens for its `count` features; in windows of `length`. The defaults take about a minute on two cores for a
    model of width 256.

    >>> from cloche.interp import TokenBudget
    >>> TokenBudget(tokens=10_000, passes=2).shown
    49152
    """

    tokens: int = 204_800
    passes: int = 4
    shown: int = 49_152
    length: int = 256
    batch: int = 1_024
    count: int = 40

    def __post_init__(self) -> None:
        if min(self.tokens, self.passes, self.batch, self.count) < 1:
            raise ArgumentRange(f"{self} counts something below 1: raise tokens, passes, batch or count.")


@dataclass(frozen=True)
class DictionaryConfig:
    """The settings of a dictionary of a run's activations.

    site: the residual stream after the middle layer unless given; it may be a route, such as "mlp_in[2] -> mlp_out[2]" (`skip`:
    with a linear map besides). features: eight times the width written unless given; k: three active ones for every 32 of that
    width (2,048 and 24 for a width of 256). kind: a value or its line, such as "BatchTopK(nested=[256, 1024])". end_to_end: the
    share of the training that follows, by the model's own loss. lr: `Training`'s own for the length of the run unless given.

    >>> from cloche.interp import DictionaryConfig, TokenBudget
    >>> DictionaryConfig(site="resid_post[1]", kind="BatchTopK", budget=TokenBudget(tokens=10_000)).kind
    BatchTopK(nested=())
    """

    site: str | None = None
    kind: Kind | str = TopK()
    features: int | None = None
    k: float | None = None
    skip: bool = False
    end_to_end: float = 0.0
    lr: float | None = None
    budget: TokenBudget = TokenBudget()

    def __post_init__(self) -> None:
        if not isinstance(self.kind, Kind):
            object.__setattr__(self, "kind", part_from_line(self.kind, Kind, "kind"))
        if self.features is not None and self.features < 1:
            raise ArgumentRange(f"features={self.features} must be one or more.")
        if not 0 <= self.end_to_end < float("inf"):
            raise ArgumentRange(
                f"end_to_end={self.end_to_end} must be a share of the training: 0 or more, such as 0.1."
            )


DEFAULT = DictionaryConfig()


@dataclass(frozen=True)
class Progress:
    """How far it is: `done` of `total` in a stage ("harvest", "dictionary", "features", "lens"), and a sentence.

    >>> from cloche.interp import Progress
    >>> str(Progress("harvest", 1, 4, "harvested 1,024 of 4,096 tokens"))
    'harvested 1,024 of 4,096 tokens'
    """

    stage: str
    done: int
    total: int
    message: str

    def __str__(self) -> str:
        return self.message


def train_dictionary(
    run: Run,
    subject: Subject,
    tokens: Tokens,
    seed: int = 0,
    config: DictionaryConfig = DEFAULT,
    name: str = "",
    others: Others | None = None,
) -> Generator[Progress, None, tuple[str, SAE, list[np.ndarray]]]:
    """Harvests a site and leaves dictionaries/<name>/ (by default the site's) in the run.

    Yields as it goes; returns the name, the dictionary, and windows that it was not trained on. Cut off, it goes on from where
    it was when called again. `others` are the models that the route names beside the subject. Where `torch.distributed` is
    initialised all processes train together, and the first writes.
    """
    _check_ranks(config)
    reader = _route(subject, config).through(subject.net, others)
    windows, shown = _windows(tokens, subject, config, seed)
    name = name or dictionary_name(subject, config)
    if name != Path(name).name or name.startswith("."):
        raise PathInvalid(
            f"{name!r} cannot name a dictionary: give one without strokes that does not begin with a dot."
        )
    state = run.path / "dictionaries" / f".training-{name}-{subject.checkpoint.replace('/', '-')}"
    with nullcontext() if Ranks().rank else run.training_dictionary(name):
        sae = yield from _learn(
            _TrainingData(reader, windows, config, seed, state), Provenance(str(reader.route), subject.checkpoint)
        )
        _calibrate(sae, reader, shown)
        if Ranks().rank == 0:
            with run.writing_folder(f"dictionaries/{name}") as folder:
                sae.save(folder)
            state.unlink(missing_ok=True)
    return name, sae, shown


def _check_ranks(config: DictionaryConfig) -> None:
    """Refuses what several processes cannot do together, before they begin."""
    world = Ranks().world
    if world > 1 and (config.end_to_end > 0 or config.budget.batch % world):
        what = "end-to-end training" if config.end_to_end > 0 else f"batches of {config.budget.batch:,}"
        raise SettingConflict(
            f"{world} processes cannot share {what}: run it in one, or in a number that divides the batch."
        )


def _calibrate(sae: SAE, reader: Reader, windows: list[np.ndarray]) -> None:
    """Sets the number of active features on text never seen: on tokens out of windows it learned from, features answer less."""
    if sae.kind.thresholded:
        some = windows[: max(1, CALIBRATED // windows[0].size)]
        read = activations(reader.net, some, reader.route, reader.others)
        rows = torch.cat([rows_without_first(values).cpu() for _, values in read])
        if len(rows) >= FEWEST:
            sae.calibrate(sae.split(rows)[0])


def dictionary_name(subject: Subject, config: DictionaryConfig = DEFAULT) -> str:
    """What a dictionary is called when nobody says: its site or route, as a folder's name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", str(_route(subject, config))).strip("_")


def _route(subject: Subject, config: DictionaryConfig) -> Route:
    return Route.parse(config.site or str(_middle(subject)))


def _middle(subject: Subject) -> Any:
    layers = subject.net.sites.resid_post
    return layers[(len(layers) - 1) // 2]


def _windows(
    tokens: Tokens, subject: Subject, config: DictionaryConfig, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Batches of windows [batch, length] to learn from and, none of them the same, to show; chosen by `seed`."""
    length = min(config.budget.length, subject.net.length or config.budget.length, len(tokens) // 2)
    if length < 2:
        raise CorpusEmpty(
            f"A text of {len(tokens):,} tokens is too short to look into a model with; give it more text."
        )
    order = np.random.default_rng(seed).permutation(len(tokens) // length)
    shown = max(1, min(config.budget.shown // length, len(order) // 5))
    learn = max(1, min(config.budget.tokens // length, len(order) - shown))
    return batched_windows(tokens, order[shown : shown + learn], length), batched_windows(tokens, order[:shown], length)


def batched_windows(tokens: Tokens, places: np.ndarray, length: int) -> list[np.ndarray]:
    """The windows at `places` (each counted in lengths), in batches [batch, length]."""
    windows = [tokens.window(int(place) * length, length) for place in places]
    return [np.stack(windows[i : i + _WINDOWS]) for i in range(0, len(windows), _WINDOWS)]


@dataclass(frozen=True)
class _TrainingData:
    """What a dictionary is to learn from: batches of windows, read along a route."""

    reader: Reader
    windows: list[np.ndarray]
    config: DictionaryConfig
    seed: int
    state: Path

    @property
    def rows(self) -> int:
        """Activations in one pass over the windows."""
        return sum(batch.size - FIRST * len(batch) for batch in self.windows)

    def fits(self) -> bool:
        """Whether the rows can be held in memory."""
        return self.rows * self.reader.wiring().columns * 4 <= HELD

    def held(self) -> Iterator[tuple[int, Tensor]]:
        """(windows read so far, rows) batch by batch; processes that train together read in turns and share what they read."""
        ranks, columns = Ranks(), self.reader.wiring().columns
        for first in range(0, len(self.windows), ranks.world):
            mine = self.windows[first + ranks.rank : first + ranks.rank + 1]
            read = activations(self.reader.net, mine, self.reader.route, self.reader.others)
            rows = [rows_without_first(values).cpu().flatten() for _, values in read]
            shared = ranks.gather(torch.cat([*rows, torch.zeros(0)]))
            yield min(first + ranks.world, len(self.windows)), shared.view(-1, columns)

    def streamed(self) -> Iterator[Tensor]:
        """Shuffled rows, pass after pass, read from the model each time."""
        for turn in range(self.config.budget.passes):
            route, others = self.reader.route, self.reader.others
            yield from harvest(self.reader.net, self.windows, route, seed=self.seed + turn, others=others)


def _learn(data: _TrainingData, origin: Provenance) -> Generator[Progress, None, SAE]:
    """Trains the dictionary, yielding progress; returns it."""
    config, site = data.config, str(data.reader.route)
    wiring = data.reader.wiring(config.skip)
    width = sum(wiring.writes or wiring.reads)
    features = 8 * width if config.features is None else config.features
    l0 = min(features, max(4, 3 * width // 32)) if config.k is None else config.k
    batch = min(config.budget.batch, data.rows)
    steps = max(1, config.budget.passes * data.rows // batch)
    training = Training(steps=steps, batch=batch, lr=config.lr, save=SaveState(data.state))
    source: Tensor | Iterator[Tensor] = data.streamed()
    if data.fits():
        held: list[Tensor] = []
        for done, rows in data.held():
            held.append(rows)
            yield Progress("harvest", done, len(data.windows), f"reading {site} at {sum(map(len, held)):,} tokens")
        source = torch.cat(held)
    assert isinstance(config.kind, Kind), "a line was read when the DictionaryConfig was made"
    records = iter_train_sae(
        source, features, l0, training, kind=config.kind, wiring=wiring, seed=data.seed, trained_on=origin
    )
    sae = yield from _as_progress(
        records, steps, lambda r: f"{features:,} features of {site} leave {r['fvu']:.0%} of it unexplained"
    )
    if config.end_to_end > 0:
        yield from _finish(data, sae)
    return sae


def _finish(data: _TrainingData, sae: SAE) -> Generator[Progress, None, SAE]:
    """Trains on by what the model makes of the reconstructions, beside the unexplained variance."""
    config = data.config
    steps = max(1, round(config.end_to_end * config.budget.passes * len(data.windows)))
    windows = islice(cycle(data.windows), steps)
    batches = end_to_end(data.reader.net, windows, data.reader.route, local=1.0, others=data.reader.others)
    training = Training(steps=steps, lr=_FINISHING)
    return (
        yield from _as_progress(
            continue_training(sae, batches, training, data.seed),
            steps,
            lambda r: (
                f"end to end, the reconstruction is {r['loss']:.3f} nats from the model's own, and {r['fvu']:.0%} unexplained"
            ),
        )
    )


def _as_progress(
    records: Generator[Record, None, SAE], steps: int, say: Callable[[Record], str]
) -> Generator[Progress, None, SAE]:
    """A training's records as progress."""
    while True:
        try:
            record = next(records)
        except StopIteration as end:
            return end.value
        yield Progress("dictionary", int(record["step"]), steps, say(record))
