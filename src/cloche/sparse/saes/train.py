"""Training of an autoencoder of any kind and wiring to a given number of active features, from a stream of
activations."""

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
from cloche.sparse.batching import check_activations, epochs, rebatch
from cloche.sparse.saes.fit import DEFAULT, Fit, Record, Training, fit_input
from cloche.sparse.saes.kinds import TOPK, Kind
from cloche.sparse.saes.module import SAE, Wiring
from cloche.sparse.saes.provenance import Provenance

_SAMPLE = 8_192  # signals that set the scale, the centre and the variance
_CALIBRATION = (
    32_768  # first signals of a stream, which training has forgotten most: the threshold is calibrated on them
)
_FEWEST = 4_096  # least held out for that: with fewer, the error of the mean number of active features exceeds 2%


class Batch(NamedTuple):
    """Rows [n, columns] of one step; for end-to-end training, also the function from their reconstruction to a loss.

    >>> import torch
    >>> from cloche.sparse import Training, train_sae
    >>> from cloche.sparse.saes import Batch
    >>> x = torch.randn(640, 8, generator=torch.Generator().manual_seed(0))
    >>> def loss_on(rows):  # of the first four coordinates only
    ...     return lambda reconstruction: (reconstruction - rows)[:, :4].square().sum(1).mean()
    >>> batches = [Batch(rows, loss_on(rows)) for rows in x.split(64)]
    >>> sae, history = train_sae(batches, 16, l0=2, training=Training(steps=10))
    >>> len(history)
    10
    """

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
    """Trains an SAE of `kind` with `l0` active features per signal on `activations`; returns it and its history.

    `activations` is a tensor [n, d], read in shuffled epochs, or an iterable of shuffled pieces [n_i, d], read once
    in order (if it ends early, so does training, with a warning), or of `Batch`es. If the kind has a penalty, its
    weight is adjusted until the measured l0 is the wanted one. Then a threshold is calibrated, on signals held out of
    a tensor (8,192 if it is large), or on the first signals of an iterable. `wiring` makes it a transcoder or
    crosscoder. The history has about fifty records: step, signals,
    loss, fvu (fraction of variance unexplained, on the batch), l0, dead_share, weight (of the penalty), lr. The
    same activations, options and seed on one machine give the same bytes, interrupted (see `SaveState`) or not.

    >>> from cloche.sparse import SyntheticFeatures, TopK, Training, report, train_sae
    >>> planted = SyntheticFeatures(width=8, features=12, active=2)
    >>> activations, _ = planted.sample(4_096)
    >>> sae, history = train_sae(activations, 12, l0=2, training=Training(steps=150, batch=256, lr=1e-2), kind=TopK())
    >>> sae
    SAE(TopK, 12 features of width 8, l0 2, scale ...)
    >>> measured = report(sae, sae.dictionary, activations, truth=planted.dictionary.atoms)
    >>> measured.l0, measured.fvu < 0.2, measured.cosine > 0.8
    (2.0, True, True)
    """
    history: list[Record] = []
    records = iter_train_sae(
        activations, features, l0, training, kind=kind, wiring=wiring, seed=seed, trained_on=trained_on
    )
    while True:
        try:
            history.append(next(records))
        except StopIteration as end:
            return end.value, history


def iter_train_sae(
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
    """`train_sae` as a generator: yields each record of the history when it is measured and returns the autoencoder.

    >>> from cloche.sparse import SyntheticFeatures, Training, iter_train_sae
    >>> activations, _ = SyntheticFeatures(width=8, features=12, active=2).sample(2_048)
    >>> for record in iter_train_sae(activations, 12, l0=2, training=Training(steps=40, batch=256)):
    ...     if record["step"] in (1, 20, 40):
    ...         print(record["step"], record["signals"], record["l0"])
    1 256 2.0
    20 5120 2.0
    40 10240 2.0
    """
    feed = _Feed.of(activations, training, seed)
    wiring = wiring or Wiring((feed.sample.shape[1],))
    wiring.check(feed.sample)
    sae = SAE(wiring, features, l0, kind, seed=seed, trained_on=trained_on).to(feed.sample.device)
    variance = fit_input(sae, feed.sample)
    return (yield from _train(Fit(sae, training, variance), feed, seed))


def continue_training(
    sae: SAE, activations: Stream, training: Training = DEFAULT, seed: int = 0
) -> Generator[Record, None, SAE]:
    """Continues training `sae` in place, like `iter_train_sae` but with new optimiser moments; input scaling is
    unchanged.

    >>> from cloche.sparse import SyntheticFeatures, Training, train_sae
    >>> from cloche.sparse.saes import continue_training
    >>> activations, _ = SyntheticFeatures(width=8, features=12, active=2).sample(2_048)
    >>> sae, history = train_sae(activations, 12, l0=2, training=Training(steps=40, batch=256))
    >>> records = list(continue_training(sae, activations, Training(steps=40, batch=256, lr=1e-3)))
    >>> sae.trained_on.tokens, records[-1]["fvu"] < history[-1]["fvu"]
    (20480, True)
    """
    feed = _Feed.of(activations, training, seed)
    _, target = sae.parts(feed.sample)
    fit = Fit(sae, training, float((target - target.mean(0)).square().sum(1).mean()))
    return (yield from _train(fit, feed, seed))


def _train(fit: Fit, feed: _Feed, seed: int) -> Generator[Record, None, SAE]:
    """Runs the training steps and the calibration after them."""
    sae, training = fit.sae, fit.training
    identity = _identity(fit, seed) | {"first signals": _fingerprint(feed.sample)}
    before = sae.trained_on.tokens
    yield from (history := _restore_state(fit, identity))
    every, read = max(1, training.steps // 50), 0
    first: list[Tensor] = []
    for batch, downstream in islice(feed.batches, training.steps):
        read, batch = read + 1, batch.float()
        if feed.held_out is None and sum(map(len, first)) < _CALIBRATION:
            first.append(batch)
        if read <= fit.done:  # done before the interruption
            continue
        if downstream is not None and fit.ranks.world > 1:
            raise SettingConflict(
                f"End-to-end training cannot split batches among {fit.ranks.world} processes: run it in one."
            )
        record = fit.step(batch, downstream)
        if fit.done % every == 0 or fit.done in (1, training.steps):
            history.append(record)
            yield record
        if training.save and (fit.done % training.save.every == 0 or fit.done == training.steps):
            _save_state(fit, identity, history)
    if fit.done < training.steps:
        warnings.warn(
            f"The stream of activations ended after {fit.done:,} of {training.steps:,} steps, before the learning rate "
            "decayed: harvest more, or train for fewer steps.",
            stacklevel=4,
        )
    _calibrate(sae, torch.cat(first or [feed.sample])[:_CALIBRATION] if feed.held_out is None else feed.held_out)
    sae.trained_on = replace(sae.trained_on, tokens=before + fit.signals)
    return sae


def _calibrate(sae: SAE, sample: Tensor) -> None:
    """Calibrates on raw training rows and warns if the wanted number of active features is not reached."""
    reached = sae.calibrate(sample[:, : sae.encoder.shape[1]])
    if abs(reached / sae.l0 - 1) > 0.02:
        warnings.warn(
            f"The {sae.kind} {sae.wiring.name} has {reached:.3g} active features instead of {sae.l0:g}: train "
            "for more steps.",
            stacklevel=4,
        )


@dataclass(frozen=True)
class _Feed:
    """Input of a training: its batches, a `sample` [n, columns] of the first of them (also part of the batches), and,
    if rows are read more than once, `held_out` rows: features are less sparse on new ones."""

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
    """Rows of a stream in batches of `size`; `Batch`es are left as they are."""
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
    """What must be equal for a training to resume."""
    sae, options = fit.sae, asdict(fit.training)
    del options["save"]
    kind = {"kind": sae.kind.to_line(), "wiring": asdict(sae.wiring)}
    origin = {"site": sae.trained_on.site, "checkpoint": sae.trained_on.checkpoint}
    stated = {**options, **kind, **origin, "features": sae.features, "l0": sae.l0, "seed": seed}
    return dict(json.loads(json.dumps(stated)))


def _fingerprint(rows: Tensor) -> str:
    """Hash of the first signals, so that a training does not resume with others."""
    return hashlib.sha256(rows.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def _save_state(fit: Fit, identity: dict[str, Any], history: list[Record]) -> None:
    """Writes the state atomically."""
    if fit.ranks.rank or fit.training.save is None:
        return
    tensors, plain = fit.state()
    stated = json.dumps({"identity": identity, "plain": plain, "history": history})
    with writing_file(Path(fit.training.save.path)) as fresh:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, fresh, metadata={"state": stated})


def _restore_state(fit: Fit, identity: dict[str, Any]) -> list[Record]:
    """Restores the saved state, if there is one; returns its history."""
    save = fit.training.save
    if save is None or not Path(save.path).exists():
        return []
    path = save.path
    try:
        with safe_open(path, "pt") as file:
            stated = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise ResumeRefused(f"{path} is not a saved training ({error}): move it away to start again.") from error
    differ = sorted(name for name in identity if identity[name] != stated["identity"].get(name))
    if differ:
        raise ResumeRefused(
            f"{path} holds a training with another {', '.join(differ)}: use the original settings, or move it "
            "away to start again."
        )
    fit.restore(tensors, stated["plain"])
    return list(stated["history"])
