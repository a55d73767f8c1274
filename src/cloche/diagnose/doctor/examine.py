"""Examines a recipe before it is trained."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from cloche.data import Batches, PackedTokens
from cloche.diagnose.doctor.problems import Problem, problems
from cloche.diagnose.doctor.signal import Layer, Signal, measure
from cloche.drawing import Finding, Lines, Panel, Provenance, Series, Table
from cloche.model import Network, gain
from cloche.runs import Run
from cloche.train import Forecast, Recipe, check_fits, forecast

TOKENS = 1024  # of the batch that the signal is measured on


def examine(recipe: Recipe, run: Run | None = None, seed: int = 0, machine: bool = True) -> Finding:
    """Examines a recipe before training: forward and backward signal per layer at initialisation, the gain that each
    activation costs, memory and time per step, and what will fail, with the setting to change.

    run: a run whose text is read; without one the tokens are random. machine: also forecast memory and time, which takes
    some seconds. The null is a network of the same parts with another seed, initialised by fan-in: what the figures are in the
    design. Raises ClocheError if the recipe cannot be trained on this machine.

    >>> from cloche.diagnose import examine
    >>> from cloche.train import Recipe
    >>> changes = {"model.width": 32, "model.body.depth": 2, "model.body.block.mix.heads": 2, "tokenizer.vocab": 270}
    >>> recipe = Recipe().with_set({**changes, "run.length": 32})
    >>> examine(recipe, machine=False).figures["problems"]
    0.0
    >>> capped = recipe.with_set({"model.head.cap": 0.5})
    >>> print(examine(capped, machine=False).data["problems"][0]["what"])
    logits are capped at 0.5, so the loss cannot fall below 4.60 nats.
    """
    check_fits(recipe)
    ids = _ids(recipe, run, seed)
    net = recipe.model.build(recipe.run.seed, recipe.initialisation)
    other = recipe.model.build(recipe.run.seed + 1)
    signal, null = measure(net, ids), measure(other, ids)
    found = forecast(recipe) if machine else None
    listed = problems(recipe, net, signal, found)
    data = _data(recipe, net, signal, listed, found)
    about = Provenance("doctor", "the recipe", seed=seed)
    figures = {"problems": float(len(listed)), **_figures(signal)}
    nothing = {"problems": float(len(problems(recipe, other, null))), **_figures(null)}
    if found is not None:
        figures |= {"memory_gb": found.memory / 1e9, "seconds_per_step": found.seconds}
    return Finding(about, _summary(listed, signal, found), figures, data, {}, nothing, _panels(data, net, signal))


def _ids(recipe: Recipe, run: Run | None, seed: int) -> Tensor:
    """Token ids [row, position + 1]."""
    length = min(recipe.run.length, TOKENS)
    rows = max(1, TOKENS // length)
    if run is not None and (run.path / "data" / "data.json").exists():
        tokens = PackedTokens.open(run.path / "data", "train")
        return torch.from_numpy(Batches(tokens, length, rows, seed).next())
    return torch.randint(recipe.model.vocab, (rows, length + 1), generator=torch.Generator().manual_seed(seed))


def _figures(signal: Signal) -> dict[str, float]:
    return {"stream_growth": signal.growth, "gradient_growth": signal.backward, "loss_above_uniform": signal.surprise}


def _data(
    recipe: Recipe, net: Network, signal: Signal, listed: list[Problem], found: Forecast | None
) -> dict[str, Any]:
    layers = [{"layer": i, **asdict(layer), **_gains(net, i, layer)} for i, layer in enumerate(signal.layers)]
    return _finite(
        {
            "problems": [asdict(problem) for problem in listed],
            "layers": layers,
            "loss": signal.loss,
            "uniform": math.log(signal.vocab),
            "logits": signal.logits,
            "embed": signal.embed,
            "forecast": None if found is None else asdict(found),
        }
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _gains(net: Network, i: int, layer: Layer) -> dict[str, float | None]:
    """By what the next matrix must multiply to undo the activation: for inputs of variance one, and as measured."""
    name = getattr(net.layers[i].part.map, "activation", None)
    measured = layer.units.moment**-0.5 if layer.units is not None and layer.units.moment else None
    return {"gain": None if name is None else gain(name), "measured_gain": measured}


def _summary(listed: list[Problem], signal: Signal, found: Forecast | None) -> str:
    if listed:
        head = f"{len(listed)} {'problem' if len(listed) == 1 else 'problems'}: {listed[0]}"
    else:
        head = (
            f"No problem found: over {len(signal.layers)} layers the stream grows {signal.growth:.2f} times, and the first "
            f"loss is {signal.loss:.2f} nats ({math.log(signal.vocab):.2f} is a uniform guess)."
        )
    if found is None:
        return head
    return f"{head} Training takes {found.memory / 1e9:.2f} GB and {_seconds(found.seconds)} per step."


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def _panels(data: dict[str, Any], net: Network, signal: Signal) -> tuple[Panel, ...]:
    layers = data["layers"]
    x = tuple(f"layer {row['layer']}" for row in layers)
    listed = tuple((p["where"], p["what"], p["fix"], p["key"]) for p in data["problems"])
    wrong = Table("What will fail", ("where", "what", "fix", "setting"), listed)
    names = {"after": "stream after", "attn": "attention", "mlp": "MLP"}
    forward = Lines(
        "Forward: RMS",
        x,
        tuple(Series(name, tuple(row[key] for row in layers)) for key, name in names.items()),
        low=0.0,
        note=f"The embeddings have an RMS of {signal.embed:.3g}.",
    )
    last = layers[-1]["gradient"] or 1.0
    steps = tuple(row["gradient"] / last if row["gradient"] is not None else None for row in layers)
    backward = Lines("Backward: RMS of the gradient, 1 after the last layer", x, (Series("gradient", steps),), low=0.0)
    rows = tuple(_unit_row(row) for row in layers)
    columns = ("layer", "gain", "measured gain", "RMS before", "constant", "flat", "off", "attention entropy")
    forms = ("number", "number", "number", "number", "percent", "percent", "percent", "percent")
    units = Table("Activations and attention", columns, rows, forms, note=NOTE)  # type: ignore[arg-type]
    drawn: tuple[Panel, ...] = (*((wrong,) if listed else ()), forward, backward, units)
    return drawn if data["forecast"] is None else (*drawn, _machine(data["forecast"]))


NOTE = (
    "gain: by what the next matrix multiplies to undo the activation, for inputs of variance one, and what would undo it "
    "here. constant: share of the activations' second moment that is the same for every token. flat: share of units whose "
    "slope is below 1% of the steepest. off: share of units that are off at every token."
)


def _unit_row(row: dict[str, Any]) -> tuple[Any, ...]:
    units = row["units"] or {}
    found = (row["gain"], row["measured_gain"], *(units.get(key) for key in ("pre", "constant", "flat", "off")))
    return (row["layer"], *found, row["entropy"])


def _machine(found: dict[str, Any]) -> Table:
    """Memory by purpose, and time."""
    rows = [(name, value / 1e6) for name, value in found["tensors"].items()]
    rows += [("the whole process", found["memory"] / 1e6), ("this machine", found["available"] / 1e6)]
    share = found["speed"]["rate"] / found["speed"]["fastest"]
    note = (
        f"Bytes of tensors in the {found['phase']} phase, when there are most. A step takes {_seconds(found['seconds'])}, "
        f"{share:.0%} of this machine's rate of matrix products. Measured on batches of {found['rows']} rows."
    )
    return Table("Memory", ("", "MB"), tuple(rows), note=note)
