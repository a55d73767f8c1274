"""Trains a dictionary of a run's activations, along any route, and saves it in the run."""

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
CALIBRATED, FEWEST = 16_384, 2_048  # tokens that a threshold is calibrated on, and the fewest for which it is
_WINDOWS = 16  # windows per forward pass
_FINISHING = 4e-4  # learning rate of end-to-end training after an ordinary one: a tenth of that of short runs


class Tokens(Protocol):
    """A long sequence of token ids, such as `cloche.data.PackedTokens`."""

    def __len__(self) -> int: ...
    def window(self, start: int, length: int) -> np.ndarray: ...


@dataclass(frozen=True)
class TokenBudget:
    """How much text a dictionary reads: it is trained on `tokens` tokens, `passes` times, in batches of `batch`; its
    `count` features are shown on `shown` other tokens; all in windows of `length`. The defaults take about a minute on two
    cores for a model of width 256.

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

    site: the residual stream after the middle layer unless given; it may be a route, such as "mlp_in[2] -> mlp_out[2]"
    (`skip`: with a linear map besides). features: eight times the width written unless given; k: three active features per
    32 of that width unless given (2,048 and 24 for a width of 256). kind: a value or its line, such as
    "BatchTopK(nested=[256, 1024])". end_to_end: length of the end-to-end training that follows, as a share of the training.
    lr: `Training`'s default for the length of the run unless given.

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
    """Progress: `done` of `total` in a stage ("harvest", "dictionary", "features", "lens"), and a sentence.

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
    """Harvests a site, trains a dictionary and saves it as dictionaries/<name>/ (by default the site's name) in the run.

    Yields progress; returns the name, the dictionary, and windows that it was not trained on. Called again after an
    interruption, it continues where it stopped. `others` are the other models that the route names. If `torch.distributed`
    is initialised, all processes train together, and the first writes.

    >>> from pathlib import Path
    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.data import PackedTokens, prepare
    >>> _ = Path("text.txt").write_text("the cat sat on the mat and the dog ran off. " * 400)
    >>> run = cloche.Run.create("first", recipe="")
    >>> _ = prepare(["text.txt"], run.path, vocab=280)
    >>> tokenizer = cloche.Tokenizer.load(run.path)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer, checkpoint="step-000100")
    >>> from cloche.interp import DictionaryConfig, TokenBudget, train_dictionary
    >>> config = DictionaryConfig(features=32, k=2, budget=TokenBudget(tokens=1_000, passes=1, shown=200, length=32))
    >>> steps = train_dictionary(run, glass, PackedTokens.open(run.path, "train"), config=config)
    >>> [step.stage for step in steps][-1], cloche.interp.open_dictionary(run, "resid_post_0").features
    ('dictionary', 32)
    """
    _check_ranks(config)
    reader = _route(subject, config).through(subject.net, others)
    windows, shown = _windows(tokens, subject, config, seed)
    name = name or dictionary_name(subject, config)
    if name != Path(name).name or name.startswith("."):
        raise PathInvalid(
            f"{name!r} cannot name a dictionary: give a name without slashes that does not begin with a dot."
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
    """Raises, before training, for what several processes cannot do together."""
    world = Ranks().world
    if world > 1 and (config.end_to_end > 0 or config.budget.batch % world):
        what = "end-to-end training" if config.end_to_end > 0 else f"batches of {config.budget.batch:,}"
        raise SettingConflict(
            f"{world} processes cannot share {what}: run it in one, or in a number that divides the batch."
        )


def _calibrate(sae: SAE, reader: Reader, windows: list[np.ndarray]) -> None:
    """Calibrates the number of active features on unseen text, where features are less active than on the training text."""
    if sae.kind.thresholded:
        some = windows[: max(1, CALIBRATED // windows[0].size)]
        read = activations(reader.net, some, reader.route, reader.others)
        rows = torch.cat([rows_without_first(values).cpu() for _, values in read])
        if len(rows) >= FEWEST:
            sae.calibrate(sae.split(rows)[0])


def dictionary_name(subject: Subject, config: DictionaryConfig = DEFAULT) -> str:
    """Default name of a dictionary: its site or route, as a folder name.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> text = "the cat sat on the mat and the dog ran off. " * 40
    >>> tokenizer = cloche.train_bpe([text], vocab=280)
    >>> net = LM(tokenizer.vocab, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, tokenizer)
    >>> from cloche.interp import DictionaryConfig, dictionary_name
    >>> dictionary_name(glass), dictionary_name(glass, DictionaryConfig(site="mlp_in[1] -> mlp_out[1]"))
    ('resid_post_0', 'mlp_in_1_mlp_out_1')
    """
    return re.sub(r"[^A-Za-z0-9]+", "_", str(_route(subject, config))).strip("_")


def _route(subject: Subject, config: DictionaryConfig) -> Route:
    return Route.parse(config.site or str(_middle(subject)))


def _middle(subject: Subject) -> Any:
    layers = subject.net.sites.resid_post
    return layers[(len(layers) - 1) // 2]


def _windows(
    tokens: Tokens, subject: Subject, config: DictionaryConfig, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Disjoint batches of windows [batch, length] to train on and to show, chosen by `seed`."""
    length = min(config.budget.length, subject.net.length or config.budget.length, len(tokens) // 2)
    if length < 2:
        raise CorpusEmpty(f"A text of {len(tokens):,} tokens is too short to train a dictionary on; give more text.")
    order = np.random.default_rng(seed).permutation(len(tokens) // length)
    shown = max(1, min(config.budget.shown // length, len(order) // 5))
    learn = max(1, min(config.budget.tokens // length, len(order) - shown))
    return batched_windows(tokens, order[shown : shown + learn], length), batched_windows(tokens, order[:shown], length)


def batched_windows(tokens: Tokens, places: np.ndarray, length: int) -> list[np.ndarray]:
    """The windows at `places` (in units of `length`), in batches [batch, length].

    >>> from pathlib import Path
    >>> import cloche
    >>> from cloche.data import PackedTokens, prepare
    >>> _ = Path("text.txt").write_text("the cat sat on the mat and the dog ran off. " * 400)
    >>> run = cloche.Run.create("first", recipe="")
    >>> _ = prepare(["text.txt"], run.path, vocab=280)
    >>> import numpy as np
    >>> from cloche.interp import batched_windows
    >>> tokens = PackedTokens.open(run.path, "train")
    >>> [batch.shape for batch in batched_windows(tokens, np.arange(20), length=8)]
    [(16, 8), (4, 8)]
    """
    windows = [tokens.window(int(place) * length, length) for place in places]
    return [np.stack(windows[i : i + _WINDOWS]) for i in range(0, len(windows), _WINDOWS)]


@dataclass(frozen=True)
class _TrainingData:
    """What a dictionary is trained on: batches of windows, read along a route."""

    reader: Reader
    windows: list[np.ndarray]
    config: DictionaryConfig
    seed: int
    state: Path

    @property
    def rows(self) -> int:
        """Number of activations in one pass over the windows."""
        return sum(batch.size - FIRST * len(batch) for batch in self.windows)

    def fits(self) -> bool:
        """Whether the rows can be held in memory."""
        return self.rows * self.reader.wiring().columns * 4 <= HELD

    def held(self) -> Iterator[tuple[int, Tensor]]:
        """(windows read so far, rows) batch by batch; processes that train together take turns reading and share the rows."""
        ranks, columns = Ranks(), self.reader.wiring().columns
        for first in range(0, len(self.windows), ranks.world):
            mine = self.windows[first + ranks.rank : first + ranks.rank + 1]
            read = activations(self.reader.net, mine, self.reader.route, self.reader.others)
            rows = [rows_without_first(values).cpu().flatten() for _, values in read]
            shared = ranks.gather(torch.cat([*rows, torch.zeros(0)]))
            yield min(first + ranks.world, len(self.windows)), shared.view(-1, columns)

    def streamed(self) -> Iterator[Tensor]:
        """Shuffled rows, pass after pass, computed by the model each time."""
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
    """Continues with end-to-end training, with the unexplained variance as a local loss."""
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
    """Converts the records of a training to progress."""
    while True:
        try:
            record = next(records)
        except StopIteration as end:
            return end.value
        yield Progress("dictionary", int(record["step"]), steps, say(record))
