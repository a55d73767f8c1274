"""Training an autoencoder of any kind and wiring to a wanted number of active features, from a stream of activations."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cloche.errors import CorpusEmpty, ResumeRefused, SettingConflict
from cloche.files import writing_file
from cloche.sparse.saes.fit import DEFAULT, Fit, Record, Training, fit_input
from cloche.sparse.saes.kinds import TOPK, Kind
from cloche.sparse.saes.module import SAE, Wiring
from cloche.sparse.saes.provenance import Provenance
from cloche.sparse.stream import check_activations, epochs, rebatch

_SAMPLE = 8_192  # signals that set the scale, the centre and the variance
_KEPT = 32_768  # signals of a stream that the threshold is calibrated on: the first, of which least is remembered
_FEWEST = 4_096  # signals held out for that; of fewer, the mean number of active features is known to no better than 2%


class Batch(NamedTuple):
    """The rows [n, columns] of one step; where training is end to end, also what takes their reconstruction to a loss."""

    rows: Tensor
    downstream: Callable[[Tensor], Tensor] | None = None


Stream = Tensor | Iterable[Tensor] | Iterable[Batch]


def train_sae(
    activations: Stream,
    features: int,
    l0: float,
    training: Training = DEFAULT,
    *,
    kind: Kind = TOPK,
    wiring: Wiring | None = None,
    seed: int = 0,
    trained_on: Provenance | None = None,
) -> tuple[SAE, list[Record]]:
    """Fits an SAE of `kind` with `l0` features active to `activations` and returns it with its history.

    `activations` is a tensor [n, d], passed over in shuffled epochs, or an iterable of [n_i, d] pieces, each read once, in
    order, already shuffled (it ends the training early, with a warning, where it holds too little), or of `Batch`es. Where the
    kind penalises activity, the penalty's weight follows the measured l0 until it is the wanted one; a threshold settles the
    rest, calibrated on signals held out of a tensor (8,192 where it is large), or on those of an iterable that were trained on
    longest ago. `wiring` makes it a transcoder or crosscoder. The history holds, about fifty times a run:
    step, signals, loss, fvu (fraction of variance unexplained, on the batch), l0, dead_share, weight (of the penalty), lr. The
    same activations, options and seed on one machine give the same bytes, interrupted (see `Training.save_to`) or not.
    """
    history: list[Record] = []
    course = training_course(
        activations, features, l0, training, kind=kind, wiring=wiring, seed=seed, trained_on=trained_on
    )
    while True:
        try:
            history.append(next(course))
        except StopIteration as end:
            return end.value, history


def training_course(
    activations: Stream,
    features: int,
    l0: float,
    training: Training = DEFAULT,
    *,
    kind: Kind = TOPK,
    wiring: Wiring | None = None,
    seed: int = 0,
    trained_on: Provenance | None = None,
) -> Generator[Record, None, SAE]:
    """`train_sae` for those who watch: yields each record of the history as it is made, and returns the autoencoder."""
    feed = _Feed.of(activations, training, seed)
    wiring = wiring or Wiring((feed.sample.shape[1],))
    wiring.check(feed.sample)
    sae = SAE(wiring, features, l0, kind, seed=seed, trained_on=trained_on).to(feed.sample.device)
    variance = fit_input(sae, feed.sample)
    return (yield from _course(Fit(sae, training, variance), feed, seed))


def further_course(
    sae: SAE, activations: Stream, training: Training = DEFAULT, seed: int = 0
) -> Generator[Record, None, SAE]:
    """Trains `sae` on, in its place, as `training_course` would, from fresh moments; what it is scaled by stays."""
    feed = _Feed.of(activations, training, seed)
    _, target = sae.parts(feed.sample)
    fit = Fit(sae, training, float((target - target.mean(0)).square().sum(1).mean()))
    return (yield from _course(fit, feed, seed))


def _course(fit: Fit, feed: _Feed, seed: int) -> Generator[Record, None, SAE]:
    """The training itself, and the calibration after it."""
    sae, training = fit.sae, fit.training
    identity = _identity(fit, seed) | {"first signals": _fingerprint(feed.sample)}
    before = sae.trained_on.tokens
    yield from (history := _resumed(fit, identity))
    every, read = max(1, training.steps // 50), 0
    first: list[Tensor] = []
    for batch, downstream in islice(feed.batches, training.steps):
        read, batch = read + 1, batch.float()
        if feed.held_out is None and sum(map(len, first)) < _KEPT:
            first.append(batch)
        if read <= fit.done:  # trained on before the interruption
            continue
        if downstream is not None and fit.ranks.world > 1:
            raise SettingConflict(
                f"End-to-end training shares no batch among processes, and {fit.ranks.world} are at work: run it in one."
            )
        record = fit.step(batch, downstream)
        if fit.done % every == 0 or fit.done in (1, training.steps):
            history.append(record)
            yield record
        if training.save_to and (fit.done % training.save_every == 0 or fit.done == training.steps):
            _keep(fit, identity, history)
    if fit.done < training.steps:
        warnings.warn(
            f"The stream of activations ended after {fit.done:,} of {training.steps:,} steps, before the learning rate fell: "
            "harvest more, or ask for fewer steps.",
            stacklevel=4,
        )
    _land(sae, torch.cat(first or [feed.sample])[:_KEPT] if feed.held_out is None else feed.held_out)
    sae.trained_on = replace(sae.trained_on, tokens=before + fit.signals)
    return sae


def _land(sae: SAE, sample: Tensor) -> None:
    """Calibrates on raw training rows and says where the wanted number of active features is not reached."""
    reached = sae.calibrate(sample[:, : sae.encoder.shape[1]])
    if abs(reached / sae.l0 - 1) > 0.02:
        warnings.warn(
            f"The {sae.kind} {sae.wiring.name} has {reached:.3g} features active where {sae.l0:g} were asked for: train "
            "for more steps.",
            stacklevel=4,
        )


@dataclass(frozen=True)
class _Feed:
    """What a training reads: its batches, a `sample` [n, columns] of the first of them (which come in the batches too), and,
    where rows are passed over more than once, some that are `held_out`: features answer less sparsely to what is new."""

    batches: Iterator[Batch]
    sample: Tensor
    held_out: Tensor | None

    @classmethod
    def of(cls, activations: Stream, training: Training, seed: int) -> _Feed:
        held_out = among = None
        if isinstance(activations, Tensor):
            check_activations(activations, None)
            if len(activations) == 0:
                raise CorpusEmpty("There are no activations to train a dictionary on: harvest some first.")
            spare = min(_SAMPLE, len(activations) // 8)
            if spare >= _FEWEST and training.steps * training.batch > len(activations):
                order = torch.randperm(len(activations), generator=torch.Generator().manual_seed(seed))
                held_out, among = activations[order[:spare]].float(), order[spare:]
            size = min(training.batch, len(activations))
            batches: Iterator[Batch] = map(Batch, epochs(activations, size, seed, among))
        else:
            batches = _as_batches(activations, training.batch)
        first: list[Batch] = []
        while len(first) == 0 or sum(len(rows) for rows, _ in first) + len(first[-1].rows) <= _SAMPLE:
            if (batch := next(batches, None)) is None:
                break
            first.append(batch)
        if not first:
            raise CorpusEmpty(
                f"The stream of activations ended before one batch of {training.batch:,}: harvest more, "
                "or train on smaller batches."
            )
        return cls(chain(first, batches), torch.cat([rows for rows, _ in first])[:_SAMPLE].float(), held_out)


def _as_batches(stream: Iterable[Tensor | Batch], size: int) -> Iterator[Batch]:
    """A stream's rows, `size` at a time; batches that know what the model makes of them stay as they are."""
    pieces = iter(stream)
    if (first := next(pieces, None)) is None:
        return
    everything = chain([first], pieces)
    if not isinstance(first, Batch):
        yield from map(Batch, rebatch(cast(Iterator[Tensor], everything), size))
        return
    for batch in cast(Iterator[Batch], everything):
        check_activations(batch.rows, first.rows.shape[1])
        yield batch


def _identity(fit: Fit, seed: int) -> dict[str, Any]:
    """What must be the same for a training to go on."""
    sae, options = fit.sae, asdict(fit.training)
    del options["save_to"], options["save_every"]
    kind = {"kind": sae.kind.to_line(), "wiring": asdict(sae.wiring)}
    origin = {"site": sae.trained_on.site, "checkpoint": sae.trained_on.checkpoint}
    stated = {**options, **kind, **origin, "features": sae.features, "l0": sae.l0, "seed": seed}
    return dict(json.loads(json.dumps(stated)))


def _fingerprint(rows: Tensor) -> str:
    """So that a training does not go on with other signals than it began with."""
    return hashlib.sha256(rows.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def _keep(fit: Fit, identity: dict[str, Any], history: list[Record]) -> None:
    """Writes the state, complete or not at all."""
    if fit.ranks.rank:
        return
    path = Path(fit.training.save_to or "")
    tensors, plain = fit.state()
    stated = json.dumps({"identity": identity, "plain": plain, "history": history})
    with writing_file(path) as fresh:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, fresh, metadata={"state": stated})


def _resumed(fit: Fit, identity: dict[str, Any]) -> list[Record]:
    """Puts `fit` where the kept state left it, if there is one; returns the history until there."""
    path = fit.training.save_to
    if path is None or not Path(path).exists():
        return []
    try:
        with safe_open(path, "pt") as file:
            stated = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise ResumeRefused(f"{path} holds no training to go on with ({error}): move it away to start anew.") from error
    differ = sorted(name for name in identity if identity[name] != stated["identity"].get(name))
    if differ:
        raise ResumeRefused(
            f"{path} holds a training with another {', '.join(differ)}: give what it was started with, or move it away to "
            "start anew."
        )
    fit.restore(tensors, stated["plain"])
    return list(stated["history"])
