"""Checks that a recipe's model fits on this machine, before anything is built or read."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import nn

from cloche.errors import OutOfMemory, SettingInvalid, TokenizerInvalid, shown
from cloche.memory import machine_memory
from cloche.model import LM, Network
from cloche.part import Part
from cloche.text import Tokenizer
from cloche.train.optimizers.schedule import check_schedule
from cloche.train.optimizers.stepper import Stepper
from cloche.train.recipe.recipe import Recipe

LARGEST_SIZE = 2**24  # of any integer in [model]
MOST_BLOCKS = 20_000  # blocks, and the experts in them: each is a module
LARGEST_FLOAT = 1e30  # above it float32 arithmetic overflows
STATE = 16  # bytes per parameter in training: weight, gradient and the optimiser's two averages
USUAL_STEPS = 1000  # of a run of minutes, before they are decided
GB = 1e9


def check_recipe(recipe: Recipe, padded: bool = False) -> None:
    """Raises ClocheError if a recipe cannot be trained on this machine or with the tokenizer at [tokenizer] path.

    `padded`: the model may have rows for more tokens than there are, as many that were trained elsewhere do.

    >>> from cloche.errors import ClocheError
    >>> from cloche.train import Recipe, check_recipe
    >>> check_recipe(Recipe())
    >>> try:
    ...     check_recipe(Recipe().with_set({"model.width": 48_000_000}))
    ... except ClocheError as error:
    ...     print(error)
    [model.width] = 48000000 is too large: it can be at most 16,777,216
    """
    check_fits(recipe)
    if recipe.tokenizer.path is not None:
        tokenizer = Tokenizer.load(recipe.tokenizer.path)
        check_vocab(recipe, tokenizer.vocab, padded)
        recipe.objective.bound(tokenizer)


def check_fits(recipe: Recipe) -> None:
    """Raises ClocheError, naming the settings to lower, if the model does not fit in this machine's memory.

    Memory is compared with a lower bound of what training needs, so that nothing that would fit is refused.

    >>> from cloche.errors import ClocheError
    >>> from cloche.train import Recipe, check_fits
    >>> check_fits(Recipe())
    >>> try:
    ...     check_fits(Recipe().with_set({"run.batch": 2**24}))
    ... except ClocheError as error:
    ...     print(error)
    [run] batch = 16,777,216 and length = 256 take at least ... GB to train this model, and this machine has ... GB:
    choose a smaller run.batch, run.length or objective.chunk
    """
    net = _unfilled(recipe.model)
    net.context = recipe.run.length
    recipe.objective.check(net)
    recipe.initialisation.check(net)
    check_schedule(recipe.schedule, recipe.run.steps or USUAL_STEPS)
    Stepper(hollow(net), recipe.optimizer, rates=recipe.rates(net))  # raises for groups that do not fit
    parameters = sum(parameter.numel() for parameter in net.parameters())
    r, tokens = recipe.run, recipe.run.batch * recipe.run.length
    weights = STATE * parameters
    # The backward pass needs the residual stream before each block, and the logits of a chunk of tokens.
    streams = 4.0 * tokens * recipe.model.width * (1 + len(net.layers))
    logits = 4.0 * recipe.objective.logits_held(tokens) * recipe.model.vocab
    memory = _memory(r.device)
    if weights > memory:
        raise OutOfMemory(
            f"[model] describes {parameters:,} parameters, which take {weights / GB:,.1f} GB to train, and this machine has "
            f"{memory / GB:,.1f} GB: choose a smaller model.width, model.body.depth or model.vocab"
        )
    if weights + streams + logits > memory:
        raise OutOfMemory(
            f"[run] batch = {r.batch:,} and length = {r.length:,} take at least {(weights + streams + logits) / GB:,.1f} GB to "
            f"train this model, and this machine has {memory / GB:,.1f} GB: choose a smaller run.batch, run.length or "
            "objective.chunk"
        )


def check_model(recipe: Recipe) -> int:
    """The number of parameters of a recipe's model. Raises ClocheError if it cannot be built on any machine, or
    not be trained by the recipe's optimiser.

    >>> from cloche.errors import ClocheError
    >>> from cloche.train import Recipe, check_model
    >>> check_model(Recipe()) > 3_000_000
    True
    >>> try:
    ...     check_model(Recipe().with_set({"model.width": 100}))
    ... except ClocheError as error:
    ...     print(error)
    Attention(heads=6) does not divide the width 100; choose another number or give head_size.
    """
    net = _unfilled(recipe.model)
    Stepper(hollow(net), recipe.optimizer)  # raises for groups that do not fit
    return sum(parameter.numel() for parameter in net.parameters())


def check_sizes(spec: LM) -> None:
    """Raises ClocheError naming the first number in the tree that is too large or not finite."""
    for place, value in _numbers(spec.to_dict(), "model"):
        if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
            raise SettingInvalid(f"[{place}] = {value} must be a number between -1e30 and 1e30")
        if isinstance(value, int) and value > LARGEST_SIZE:
            raise SettingInvalid(f"[{place}] = {shown(value)} is too large: it can be at most {LARGEST_SIZE:,}")
    if (blocks := _blocks(spec)) > MOST_BLOCKS:
        raise OutOfMemory(
            f"[model] describes {blocks:,} blocks and experts, and at most {MOST_BLOCKS:,} are built: choose a smaller "
            "model.body.depth or number of experts"
        )


def _numbers(value: Any, place: str) -> list[tuple[str, int | float]]:
    if isinstance(value, dict):
        return [found for name, item in value.items() for found in _numbers(item, f"{place}.{name}")]
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in _numbers(item, f"{place}[{i}]")]
    return [(place, value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _blocks(value: Any) -> int:
    """Number of modules that the parts' `counts` ask for; nested counts multiply."""
    if isinstance(value, tuple):
        return max((_blocks(item) for item in value), default=0)
    if not isinstance(value, Part):
        return 0
    fields = dataclasses.fields(value)  # type: ignore[arg-type]
    below = sum(_blocks(getattr(value, field.name)) for field in fields)
    times = math.prod(int(getattr(value, name)) for name in value.counts)
    return times * max(1, below) if value.counts else below


def _unfilled(spec: LM) -> Network:
    """The network without memory for its weights. Raises ClocheError if it cannot be built."""
    check_sizes(spec)
    try:
        with torch.device("meta"):
            return spec.build(None)
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())[:200]
        raise OutOfMemory(f"[model] cannot be built ({what}): choose smaller sizes") from error


def hollow(net: Network) -> Network:
    """The network, whose parameters now have their shapes without memory, on the CPU, so that an optimiser can be built."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in net.modules():
        for name, p in module._parameters.items():
            if p is not None:
                new = nn.Parameter(torch.zeros((), device="cpu").expand(p.shape))
                module._parameters[name] = made.setdefault(p, new)
    return net


def _memory(device: str) -> float:
    """Bytes of memory of the machine, or of its GPU if that trains."""
    if device != "cpu" and torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[1])
    return machine_memory()


def check_vocab(recipe: Recipe, size: int, padded: bool = False) -> None:
    """Raise ClocheError where [model] has another vocabulary than the tokenizer at [tokenizer] path; a `padded` one may be
    larger."""
    if recipe.model.vocab != size and not (padded and recipe.model.vocab > size):
        raise TokenizerInvalid(
            f"[model] vocab = {recipe.model.vocab:,}, and the tokenizer in {recipe.tokenizer.path} has {size:,} tokens: leave "
            f"vocab out, or set it to {size}"
        )
