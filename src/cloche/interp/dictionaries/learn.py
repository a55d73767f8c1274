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
from cloche.sparse import SAE, Kind, Provenance, TopK, Training, training_course
from cloche.sparse.saes import Record, further_course

HELD = 1 << 30  # bytes of activations held in memory; more are read from the model anew in each pass
CALIBRATED, FEWEST = 16_384, 2_048  # tokens that a threshold is calibrated on, and of how few it is not
_WINDOWS = 16  # windows a forward pass
_FINISHING = 4e-4  # learning rate of end-to-end training after another: a tenth of what short runs have


class Tokens(Protocol):
    """A long row of token ids, such as `cloche.data.PackedTokens`."""

    def __len__(self) -> int: ...
    def window(self, start: int, length: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Look:
    """How closely to look. The defaults take about a minute on two cores for a model of width 256.

    `site` None is the residual stream after the middle layer; it may be a route, such as "mlp_in[2] -> mlp_out[2]" (`skip`:
    with a linear map besides). `features` None is eight times the width written, `k` None three for every 32 of it (2,048 and
    24 for a width of 256). `kind` is a value or its line, such as "BatchTopK(nested=[256, 1024])". It is trained on
    `tokens` tokens, `passes` times over, then on the share `end_to_end` of them by what the model makes of it, and shown on
    `shown` others. `lr` None is `Training`'s own for the length of the run.
    """

    site: str | None = None
    kind: Kind | str = TopK()
    features: int | None = None
    k: float | None = None
    tokens: int = 204_800
    passes: int = 4
    shown: int = 49_152
    length: int = 256
    batch: int = 1_024
    lr: float | None = None
    count: int = 40
    skip: bool = False
    end_to_end: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.kind, Kind):
            object.__setattr__(self, "kind", part_from_line(self.kind, Kind, "kind"))
        if min(self.tokens, self.passes, self.batch, self.count, self.features or 1) < 1 or self.features == 0:
            raise ArgumentRange(f"{self} counts something below 1: raise tokens, passes, batch, count or features.")
        if not 0 <= self.end_to_end < float("inf"):
            raise ArgumentRange(f"end_to_end={self.end_to_end} is no share of a training: give 0 or more, such as 0.1.")


DEFAULT = Look()


@dataclass(frozen=True)
class Progress:
    """How far it is: `done` of `total` in a stage ("harvest", "dictionary", "features", "lens"), and a sentence."""

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
    look: Look = DEFAULT,
    name: str = "",
    others: Others | None = None,
) -> Generator[Progress, None, tuple[str, SAE, list[np.ndarray]]]:
    """Harvests a site and leaves dictionaries/<name>/ (by default the site's) in the run.

    Yields as it goes; returns the name, the dictionary, and windows that it was not trained on. Cut off, it goes on from where
    it was when called again. `others` are the models that the route names beside the subject. Where `torch.distributed` is
    initialised all processes train together, and the first writes.
    """
    _check_ranks(look)
    reader = _route(subject, look).through(subject.net, others)
    windows, shown = _windows(tokens, subject, look, seed)
    name = name or dictionary_name(subject, look)
    if name != Path(name).name or name.startswith("."):
        raise PathInvalid(
            f"{name!r} cannot name a dictionary: give one without strokes that does not begin with a dot."
        )
    state = run.path / "dictionaries" / f".training-{name}-{subject.checkpoint.replace('/', '-')}"
    with nullcontext() if Ranks().rank else run.training_dictionary(name):
        sae = yield from _learn(
            _Lesson(reader, windows, look, seed, state), Provenance(str(reader.route), subject.checkpoint)
        )
        _calibrate(sae, reader, shown)
        if Ranks().rank == 0:
            with run.writing_folder(f"dictionaries/{name}") as folder:
                sae.save(folder)
            state.unlink(missing_ok=True)
    return name, sae, shown


def _check_ranks(look: Look) -> None:
    """Refuses what several processes cannot do together, before they begin."""
    world = Ranks().world
    if world > 1 and (look.end_to_end > 0 or look.batch % world):
        raise SettingConflict(
            f"{world} processes cannot share {'end-to-end training' if look.end_to_end > 0 else f'batches of {look.batch:,}'}: "
            "run it in one, or in a number that divides the batch."
        )


def _calibrate(sae: SAE, reader: Reader, windows: list[np.ndarray]) -> None:
    """Sets the number of active features on text never seen: on tokens out of windows it learned from, features answer less."""
    if sae.kind.thresholded:
        some = windows[: max(1, CALIBRATED // windows[0].size)]
        read = activations(reader.net, some, reader.route, reader.others)
        rows = torch.cat([rows_without_first(values).cpu() for _, values in read])
        if len(rows) >= FEWEST:
            sae.calibrate(sae.split(rows)[0])


def dictionary_name(subject: Subject, look: Look = DEFAULT) -> str:
    """What a dictionary is called when nobody says: its site or route, as a folder's name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", str(_route(subject, look))).strip("_")


def _route(subject: Subject, look: Look) -> Route:
    return Route.parse(look.site or str(_middle(subject)))


def _middle(subject: Subject) -> Any:
    layers = subject.net.sites.resid_post
    return layers[(len(layers) - 1) // 2]


def _windows(tokens: Tokens, subject: Subject, look: Look, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Batches of windows [batch, length] to learn from and, none of them the same, to show; chosen by `seed`."""
    length = min(look.length, subject.net.length or look.length, len(tokens) // 2)
    if length < 2:
        raise CorpusEmpty(
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


@dataclass(frozen=True)
class _Lesson:
    """What a dictionary is to learn from: batches of windows, read along a route."""

    reader: Reader
    windows: list[np.ndarray]
    look: Look
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
        for turn in range(self.look.passes):
            route, others = self.reader.route, self.reader.others
            yield from harvest(self.reader.net, self.windows, route, seed=self.seed + turn, others=others)


def _learn(lesson: _Lesson, origin: Provenance) -> Generator[Progress, None, SAE]:
    """Trains the dictionary, yielding progress; returns it."""
    look, site = lesson.look, str(lesson.reader.route)
    wiring = lesson.reader.wiring(look.skip)
    width = sum(wiring.writes or wiring.reads)
    features = 8 * width if look.features is None else look.features
    l0 = min(features, max(4, 3 * width // 32)) if look.k is None else look.k
    batch = min(look.batch, lesson.rows)
    steps = max(1, look.passes * lesson.rows // batch)
    training = Training(steps=steps, batch=batch, lr=look.lr, save_to=lesson.state)
    source: Tensor | Iterator[Tensor] = lesson.streamed()
    if lesson.fits():
        held: list[Tensor] = []
        for done, rows in lesson.held():
            held.append(rows)
            yield Progress("harvest", done, len(lesson.windows), f"reading {site} at {sum(map(len, held)):,} tokens")
        source = torch.cat(held)
    assert isinstance(look.kind, Kind), "a line was read when the Look was made"
    course = training_course(
        source, features, l0, training, kind=look.kind, wiring=wiring, seed=lesson.seed, trained_on=origin
    )
    sae = yield from _told(
        course, steps, lambda r: f"{features:,} features of {site} leave {r['fvu']:.0%} of it unexplained"
    )
    if look.end_to_end > 0:
        yield from _finish(lesson, sae)
    return sae


def _finish(lesson: _Lesson, sae: SAE) -> Generator[Progress, None, SAE]:
    """Trains on by what the model makes of the reconstructions, beside the unexplained variance."""
    look = lesson.look
    steps = max(1, round(look.end_to_end * look.passes * len(lesson.windows)))
    windows = islice(cycle(lesson.windows), steps)
    batches = end_to_end(lesson.reader.net, windows, lesson.reader.route, local=1.0, others=lesson.reader.others)
    training = Training(steps=steps, lr=_FINISHING)
    return (
        yield from _told(
            further_course(sae, batches, training, lesson.seed),
            steps,
            lambda r: (
                f"end to end, the reconstruction is {r['loss']:.3f} nats from the model's own, and {r['fvu']:.0%} unexplained"
            ),
        )
    )


def _told(
    course: Generator[Record, None, SAE], steps: int, say: Callable[[Record], str]
) -> Generator[Progress, None, SAE]:
    """A training's records as progress."""
    while True:
        try:
            record = next(course)
        except StopIteration as end:
            return end.value
        yield Progress("dictionary", int(record["step"]), steps, say(record))
