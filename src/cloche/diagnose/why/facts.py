"""Everything that can be measured of a run folder, in units in which recipes of different kinds are comparable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cloche.data import Batches, PackedTokens
from cloche.diagnose.history import History, read_history
from cloche.diagnose.why.course import Course, course_of
from cloche.diagnose.why.rates import Rates, rates_of
from cloche.diagnose.why.start import Start, start_of
from cloche.diagnose.why.text import Text, text_of
from cloche.diagnose.why.weights import Weights, norms, weights_of
from cloche.errors import ClocheError
from cloche.model import Network, load_network
from cloche.runs import Checkpoint, Run
from cloche.train import NextToken, Recipe, batches_of, require_same_tokens

START_TOKENS = 1024  # that the signal at the first checkpoint is measured on


@dataclass(frozen=True)
class Facts:
    """What was measured of a run; None where it could not be, and `notes` say why.

    good: the last checkpoint before the onset. suspect: the step whose batch is shown, and `rows`: the mean loss of each of its
    rows under that checkpoint.
    """

    history: History
    course: Course
    rates: Rates
    weights: Weights
    start: Start | None
    text: Text | None
    recipe: Recipe
    good: Checkpoint | None
    batches: Batches | None = None
    rows: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def onset(self) -> int | None:
        return self.course.onset

    @property
    def suspect(self) -> int | None:
        """The step whose batch is most likely to have a part in it: the first unlike the others, else that of the onset."""
        return _suspect(self.text, self.course)

    @property
    def in_nats(self) -> bool:
        """Whether the logged loss is of each next token, and so comparable with counts of tokens."""
        return isinstance(self.recipe.objective, NextToken)

    @property
    def progress(self) -> float | None:
        """How far the loss came from what counts of tokens give (0) to what counts of pairs give (1); above 1 beyond."""
        if self.text is None or not self.in_nats or self.text.unigram - self.text.bigram < 0.05:
            return None
        return (self.text.unigram - self.course.last) / (self.text.unigram - self.text.bigram)


def gather(run: Run) -> Facts:
    """Measures a run. Nothing in its folder is executed or changed. Raises ClocheError where it says nothing of training."""
    notes: list[str] = []
    history = read_history(run)
    # as its last session trained by, which recipe.toml need not be any more
    told = [event["recipe"] for event in history.events if isinstance(event.get("recipe"), str)]
    recipe = Recipe.parse(
        told[-1] if told else run.recipe, f"{run.path}/{'log/events.jsonl' if told else 'recipe.toml'}"
    )
    course = course_of(history)
    saved = run.checkpoints()
    first = _loaded(saved[0], notes) if saved and saved[0].step == 0 else None
    last = _loaded(saved[-1], notes) if saved and saved[-1].step else first
    before = [c for c in saved if course.onset is None or c.step < course.onset]
    good = before[-1] if before else None
    if not saved:
        notes.append("There is no checkpoint, so weights and the signal at the start were not measured.")
    elif saved[0].step > 0:
        notes.append("There is no checkpoint of step 0, so the weights and the signal at the start were not measured.")
    batches: Batches | None = _tried(lambda: _batches(run, recipe, saved), notes)
    start = text = None
    rows: tuple[float, ...] = ()
    if batches is not None:
        onsets = [step for step in (course.onset, course.jumped, course.diverged) if step is not None]
        steps = max(history.steps, 1)
        text = text_of(batches, recipe.model.vocab, steps, max(steps, recipe.run.steps or 0), onsets)
        if first is not None:
            ids = torch.from_numpy(batches.at(0))[: max(1, START_TOKENS // recipe.run.length)]
            start = _tried(lambda: start_of(first, ids), notes)
        if good is not None and (step := _suspect(text, course)) is not None:
            net = first if good.step == 0 else last if good.step == saved[-1].step else _loaded(good, notes)
            rows = losses_of(net, batches.at(step - 1)) if net is not None else ()
    known = first if first is not None else last
    rates = rates_of(recipe, history, course.diverged, {} if known is None else norms(known))
    weights = weights_of(first, last)
    return Facts(history, course, rates, weights, start, text, recipe, good, batches, rows, tuple(notes))


def _suspect(text: Text | None, course: Course) -> int | None:
    return text.bad[0] if text is not None and text.bad else course.onset


def _batches(run: Run, recipe: Recipe, saved: list[Checkpoint]) -> Batches:
    tokens = PackedTokens.open(run.path / "data", "train")
    require_same_tokens(run, saved[-1] if saved else None)
    return batches_of(recipe, tokens)


def _loaded(checkpoint: Checkpoint, notes: list[str]) -> Network | None:
    return _tried(lambda: load_network(checkpoint.path, check_files=True, check_sites=False), notes)


def _tried(what: Callable[[], Any], notes: list[str]) -> Any:
    """What a function gives, or None and a note of why not."""
    try:
        return what()
    except ClocheError as error:
        notes.append(str(error).rstrip(".") + ".")
        return None


@torch.no_grad()
def losses_of(net: Network, ids: np.ndarray) -> tuple[float, ...]:
    """Nats per token of each row of ids [row, position + 1]; none for a model whose tokens see later ones."""
    if not net.causal:
        return ()
    x = torch.from_numpy(ids)
    logits = net(x[:, :-1]).float()
    return tuple(F.cross_entropy(logits.transpose(1, 2), x[:, 1:], reduction="none").mean(1).tolist())
