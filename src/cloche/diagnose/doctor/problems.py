"""What in a network's signal will make its training fail, where, and which setting of the recipe to change."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cloche.diagnose.doctor.signal import Layer, Signal, flat_share
from cloche.drawing import number
from cloche.model import LM, FanIn, Network, NoNorm, ScoredAttention
from cloche.train import Forecast, Recipe

GROWTH = 30.0  # of the stream's RMS over all layers
BACKWARD = 1e3  # of the gradient's RMS over all layers, either way
OVERWRITES = 3.0  # RMS of a branch's output over that of the stream it is added to
SHARPEST = 0.3  # of the largest entropy there can be: below it attention starts as good as hard
SURPRISE = 2.0  # nats that the first loss may lie above a uniform guess
REACH = 0.5  # of the nats of a uniform guess, which capped logits must be able to save
CONSTANT = 0.5  # of a layer's activations (in second moment) that may be the same for every token
FLATTER = 0.4  # share of units on a flat part of their activation, beyond that of standard normal inputs
OFF = 0.2  # share of units that may be off at every token


@dataclass(frozen=True)
class Problem:
    """One thing that will fail: where, what was measured, and the fix; `key` is the setting to change.

    >>> from cloche.diagnose.doctor.problems import Problem
    >>> print(Problem("layer 3", "its pattern is one-hot.", "Lower the scale", "model.body.block.mix.scale"))
    layer 3: its pattern is one-hot. Lower the scale: model.body.block.mix.scale.
    """

    where: str
    what: str
    fix: str
    key: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} {self.fix}: {self.key}."


def problems(recipe: Recipe, net: Network, signal: Signal, found: Forecast | None = None) -> list[Problem]:
    """All problems, the stream's first; of several with the same fix and setting, the first."""
    every = [
        *_stream(recipe, net, signal),
        *(problem for i in range(len(signal.layers)) for problem in _layer(recipe, net, signal, i)),
        *_head(recipe.model, signal),
        *([] if found is None else _memory(found)),
    ]
    seen, kept = set[str](), list[Problem]()
    for problem in every:
        kind = problem.key + problem.fix
        if kind not in seen:
            seen.add(kind)
            kept.append(problem)
    return kept


def _stream(recipe: Recipe, net: Network, signal: Signal) -> Iterator[Problem]:
    layers = signal.layers
    for i, layer in enumerate(layers):
        if not math.isfinite(layer.after):
            yield Problem(
                f"layer {i}", "the stream overflows here at initialisation.", *_calmer(recipe, net, i, _louder(layer))
            )
            return
    if signal.growth > GROWTH:
        i = max(range(len(layers)), key=lambda i: layers[i].after / max(layers[i].before, 1e-300))
        by = layers[i].after / layers[i].before
        what = (
            f"the residual stream grows {number(signal.growth)} times over {len(layers)} layers, by {number(by)} times in this "
            f"one (the limit is {GROWTH:g} in all): it explodes."
        )
        yield Problem(f"layer {i}", what, *_calmer(recipe, net, i, _louder(layers[i])))
    if not 1 / BACKWARD < signal.backward < BACKWARD:
        fate = "vanishes" if signal.backward < 1 else "explodes"
        steps = [signal.gradient, *(layer.gradient for layer in layers)]
        change = [abs(math.log(max(a, 1e-300) / max(b, 1e-300))) for a, b in itertools.pairwise(steps)]
        i = change.index(max(change))
        what = (
            f"the gradient {fate} on its way back: it arrives at the embeddings {signal.backward:.1e} times as large."
        )
        yield Problem(f"layer {i}", what, *_calmer(recipe, net, i, _louder(layers[i])))


def _louder(layer: Layer) -> str:
    """The field of a block whose output is larger."""
    return "mix" if layer.attn > layer.mlp else "map"


def _calmer(recipe: Recipe, net: Network, layer: int, branch: str) -> tuple[str, str]:
    """The fix and the key for a layer, one branch of which ("mix" or "map") has too large an output."""
    block = net.layers[layer].part
    place = _block(recipe.model, layer)
    if isinstance(block.norm, NoNorm) and block.post is None:
        return "Give its branches a norm", f'{place}.norm = "RMSNorm"'
    if isinstance(recipe.initialisation, FanIn):
        return "Choose a part whose weights are scaled by fan-in", f"{place}.{branch}"
    return "Initialise by fan-in, with scaled branches", 'initialisation = "FanIn"'


def _layer(recipe: Recipe, net: Network, signal: Signal, i: int) -> Iterator[Problem]:
    layer, block, where = signal.layers[i], net.layers[i].part, f"layer {i}"
    place = _block(recipe.model, i)
    for name, branch, value in (("attention", "mix", layer.attn), ("MLP", "map", layer.mlp)):
        if value > OVERWRITES * layer.before:
            ratio = value / max(layer.before, 1e-300)
            what = f"its {name} writes {number(ratio)} times what the stream holds (the limit is {OVERWRITES:g})."
            yield Problem(where, what, *_calmer(recipe, net, i, branch))
    cap = getattr(block.mix, "cap", None)
    if cap is not None and cap < 1:
        what = f"its scores are capped at {cap:g}, so no key has more than {math.exp(2 * cap):,.1f} times another's weight."
        yield Problem(where, what, "Raise the cap, to 50 for example", f"{place}.mix.cap")
    if layer.entropy is not None and layer.entropy < SHARPEST:
        what = (
            f"its attention starts with {layer.entropy:.0%} of the largest entropy (the limit is {SHARPEST:.0%}): the softmax "
            "is saturated, and passes hardly any gradient on."
        )
        yield Problem(where, what, *_softer(recipe, block, place))
    if layer.units is not None:
        yield from _unit_problems(recipe, net, signal, i)


def _softer(recipe: Recipe, block: Any, place: str) -> tuple[str, str]:
    if isinstance(block.mix, ScoredAttention) and block.mix.scale is not None:
        return "Leave the scale of the scores out, or lower it", f"{place}.mix.scale"
    if isinstance(block.norm, NoNorm) and block.post is None:
        return "Give its branches a norm", f'{place}.norm = "RMSNorm"'
    return "Normalise queries and keys", f'{place}.mix.qk_norm = "RMSNorm"'


def _unit_problems(recipe: Recipe, net: Network, signal: Signal, i: int) -> Iterator[Problem]:
    units, block, where = signal.layers[i].units, net.layers[i].part, f"layer {i}"
    name = getattr(block.map, "activation", None)
    key = f"{_block(recipe.model, i)}.map.activation"
    if units is None:
        return
    if units.off > OFF:
        what = f"{units.off:.0%} of its units are off at every token (the limit is {OFF:.0%}): they cannot learn."
        yield Problem(where, what, f"{name} is off for most inputs; choose another activation, such as silu", key)
    elif units.constant > CONSTANT:
        what = (
            f"{units.constant:.0%} of its activations' second moment is the same for every token (the limit is "
            f"{CONSTANT:.0%}), so they say little about it."
        )
        yield Problem(where, what, f"{name} is not centred; choose silu, gelu or tanh, or a GLU", key)
    if units.flat is not None and name is not None:
        usual = flat_share(name, torch.randn(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        if units.flat > usual + FLATTER:
            what = (
                f"{units.flat:.0%} of its units are on a flat part of {name} (with inputs of variance one {usual:.0%}; "
                f"here their RMS is {units.pre:.1f}): they are saturated."
            )
            yield Problem(where, what, *_calmer(recipe, net, i, "map"))


def _head(spec: LM, signal: Signal) -> Iterator[Problem]:
    cap = getattr(spec.head, "cap", None)
    if cap is not None:
        # The best there is: the right logit at cap, all others at -cap.
        least = math.log1p((spec.vocab - 1) * math.exp(-2 * cap)) if cap < 300 else 0.0
        if least > (1 - REACH) * math.log(spec.vocab):
            what = f"logits are capped at {cap:g}, so the loss cannot fall below {least:.2f} nats."
            yield Problem("head", what, "Raise the cap, to 30 for example", "model.head.cap")
    if signal.surprise > SURPRISE or not math.isfinite(signal.loss):
        what = (
            f"the first loss is {signal.loss:.2f} nats, {signal.surprise:.2f} above a uniform guess (the limit is "
            f"{SURPRISE:g}); the logits have a standard deviation of {signal.logits:.1f}."
        )
        yield Problem(
            "head", what, "Initialise the head by fan-in, for logits of variance one", 'initialisation = "FanIn"'
        )


def _memory(found: Forecast) -> Iterator[Problem]:
    if found.memory > found.available > 0:
        largest = max(found.tensors, key=lambda name: found.tensors[name])
        key = "run.batch" if largest in ("activations", "work") else "model.width"
        what = f"training takes {found.memory / 1e9:,.1f} GB, and this machine has {found.available / 1e9:,.1f} GB."
        yield Problem("memory", what, f"Most of it are {largest}; lower", key)


def _block(spec: LM, layer: int) -> str:
    """The recipe's key of a layer's block."""
    block = getattr(spec.body, "block", None)
    return f"model.body.block[{layer % len(block)}]" if isinstance(block, tuple) else "model.body.block"
