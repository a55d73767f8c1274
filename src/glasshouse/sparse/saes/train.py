"""Training an autoencoder of any kind and wiring to a wanted number of active features, from a stream of activations."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from glasshouse.errors import GlasshouseError
from glasshouse.sparse.saes.fit import DEFAULT, Fit, Record, Training, fit_input
from glasshouse.sparse.saes.kinds import TOPK, Kind, settings_of
from glasshouse.sparse.saes.module import SAE, Wiring
from glasshouse.sparse.saes.provenance import Provenance
from glasshouse.sparse.stream import check_activations, epochs, rebatch

_SAMPLE = 8_192  # signals that set the scale, the centre and the variance
_KEPT = 32_768  # of the last signals seen, which the threshold is calibrated on


def train_sae(
    activations: Tensor | Iterable[Tensor],
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
    order, already shuffled (it ends the training early, with a warning, where it holds too little). Where the kind penalises
    activity, the penalty's weight follows the measured l0 until it is the wanted one; a threshold calibrated on the last
    signals settles the rest. `wiring` makes it a transcoder or crosscoder. The history holds, about fifty times a run: step,
    signals, loss, fvu (fraction of variance unexplained, on the batch), l0, dead_share, weight (of the penalty), lr. The same
    activations, options and seed on one machine give the same bytes, interrupted (see `Training.save_to`) or not.
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
    activations: Tensor | Iterable[Tensor],
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
    batches, sample = _batches_and_sample(activations, training, seed, wiring)
    wiring = wiring or Wiring((sample.shape[1],))
    sae = SAE(wiring, features, l0, kind, seed=seed).to(sample.device)
    fit = Fit(sae, training, fit_input(sae, sample))
    identity = _identity(fit, seed)
    yield from (history := _resumed(fit, identity))
    every, read = max(1, training.steps // 50), 0
    kept = [sample]
    for batch in islice(batches, training.steps):
        read, batch = read + 1, batch.float()
        kept = [*kept[-max(1, _KEPT // len(batch)) :], batch]
        if read <= fit.done:  # trained on before the interruption
            continue
        record = fit.step(batch)
        if fit.done % every == 0 or fit.done in (1, training.steps):
            history.append(record)
            yield record
        if training.save_to and (fit.done % training.save_every == 0 or fit.done == training.steps):
            _keep(fit, identity, history)
    if fit.done < training.steps:
        warnings.warn(
            f"The stream of activations ended after {fit.done:,} of {training.steps:,} steps, before the learning rate fell: "
            "harvest more, or ask for fewer steps.",
            stacklevel=3,
        )
    _land(sae, torch.cat(kept)[-_KEPT:])
    sae.trained_on = replace(trained_on or Provenance(), tokens=fit.signals)
    return sae


def _land(sae: SAE, sample: Tensor) -> None:
    """Calibrates on raw training rows and says where the wanted number of active features is not reached."""
    reached = sae.calibrate(sample[:, : sae.encoder.shape[1]])
    if abs(reached / sae.l0 - 1) > 0.02:
        warnings.warn(
            f"The {sae.kind.name} has {reached:.3g} features active where {sae.l0:g} were asked for: train for more steps.",
            stacklevel=4,
        )


def _batches_and_sample(
    activations: Tensor | Iterable[Tensor], training: Training, seed: int, wiring: Wiring | None
) -> tuple[Iterator[Tensor], Tensor]:
    """The batches to train on, and a sample [n, d] of the first of them (which come in the batches too)."""
    if isinstance(activations, Tensor):
        check_activations(activations, None)
        if len(activations) == 0:
            raise GlasshouseError("There are no activations to train a dictionary on: harvest some first.")
        pieces: Iterator[Tensor] = epochs(activations, min(training.batch, len(activations)), seed)
    else:
        pieces = rebatch(activations, training.batch)
    first = list(islice(pieces, max(1, _SAMPLE // training.batch)))
    if not first:
        raise GlasshouseError(
            f"The stream of activations ended before one batch of {training.batch:,}: harvest more, "
            "or train on smaller batches."
        )
    if wiring and first[0].shape[1] != wiring.columns:
        raise GlasshouseError(
            f"The activations have {first[0].shape[1]} columns, but {wiring} wants {wiring.columns}: put what is read and what "
            "is written side by side."
        )
    return chain(first, pieces), torch.cat(first)[:_SAMPLE].float()


def _identity(fit: Fit, seed: int) -> dict[str, Any]:
    """What must be the same for a training to go on."""
    sae, options = fit.sae, asdict(fit.training)
    del options["save_to"], options["save_every"]
    kind = {"kind": sae.kind.name, "settings": settings_of(sae.kind), "wiring": asdict(sae.wiring)}
    stated = {**options, **kind, "features": sae.features, "l0": sae.l0, "seed": seed}
    return dict(json.loads(json.dumps(stated)))


def _keep(fit: Fit, identity: dict[str, Any], history: list[Record]) -> None:
    """Writes the state, complete or not at all."""
    if fit.ranks.rank:
        return
    path = Path(fit.training.save_to or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors, plain = fit.state()
    fresh = path.with_name(f".writing-{path.name}-{os.getpid()}")
    stated = json.dumps({"identity": identity, "plain": plain, "history": history})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, fresh, metadata={"state": stated})
    os.replace(fresh, path)


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
        raise GlasshouseError(
            f"{path} holds no training to go on with ({error}): move it away to start anew."
        ) from error
    differ = sorted(name for name in identity if identity[name] != stated["identity"].get(name))
    if differ:
        raise GlasshouseError(
            f"{path} holds a training with another {', '.join(differ)}: give what it was started with, or save elsewhere."
        )
    fit.restore(tensors, stated["plain"])
    return list(stated["history"])
