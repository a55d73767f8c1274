"""One instrument over all checkpoints of a run: how its headline changes, and the step of its onset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cloche.drawing import Finding, Lines, Panel, Provenance, Series
from cloche.errors import CheckpointMissing, CorpusEmpty, InstrumentUnknown, ModelUnsupported
from cloche.interp.arguments import fill_in
from cloche.interp.catalogue import Instrument, find_instrument, options_of
from cloche.interp.materials import Materials, held_out_prompts
from cloche.interp.tracing.curves import Curves, arrays_of, data_of, find_onsets, named_curves, panels_of, summary_of
from cloche.interp.tracing.onsets import SPREADS, Onset, find_onset
from cloche.runs import Run

SEEDS = 4  # of an instrument that reads no text and has curves
PROMPTS = 8  # pieces of held-out text by default; windows are divided into as many groups


def trace(
    run: Run | Path | str,
    instrument: str | Instrument,
    figure: str | None = None,
    seed: int = 0,
    seeds: int | None = None,
    on_progress: Callable[[int, int, str], object] = lambda done, total, name: None,
    **options: Any,
) -> Finding:
    """Runs an instrument over all checkpoints of a run and finds the onset of its headline, or of the `figure` named, and of
    every curve that it has: of each head (`head_scores`), or whatever else its arrays measure.

    The onset is the first checkpoint after which the mean over prompts stays above half of its total gain, from the first
    checkpoint to the last; its interval is from the 5th to the 95th percentile of bootstrap resamples of the prompts. There
    is no onset if the gain is within two spreads, the spread being the larger of the null's standard deviation over
    checkpoints and prompts (without a null, the usual move from one checkpoint to the next) and the gain's standard error
    over prompts. Of n curves, the two spreads grow so that one of them has an onset by chance in at most 5% of runs
    (Bonferroni).

    `options` are the instrument's own. `prompt` may be a list of prompts, by default pieces of the held-out text; an
    instrument that reads windows of text is run on groups of them, which count as prompts; one that reads neither and draws
    by a seed is run with `seeds` seeds from `seed` on (by default 4 if it has curves, else 1), which count as prompts too.

    `figure` may also name an array: each of its entries then has a curve. Arrays of the finding: NAME [checkpoint, *entry]
    and NAME_onset [*entry], NaN where there is none. Raises ClocheError for a run with fewer than two checkpoints or whose
    checkpoints are different models, and for an instrument without figures.

    >>> import cloche
    >>> cloche.trace("first", "logit-lens", prompt=["the cat sat", "a dog ran"])  # doctest: +SKIP
    """
    run = run if isinstance(run, Run) else Run.open(run)
    name, function = find_instrument(instrument) if isinstance(instrument, str) else (_name_of(instrument), instrument)
    checkpoints = run.checkpoints()
    if len(checkpoints) < 2:
        raise CheckpointMissing(
            f"{run.path} has {len(checkpoints)} checkpoints, and tracing needs two or more; train it with more checkpoints, "
            "or trace another run."
        )
    if "prompt" in options_of(function) and "prompt" not in options:
        options["prompt"] = held_out_prompts(run, PROMPTS)
    followed = _Followed(name, function, figure, Curves(name, figure))
    for done, checkpoint in enumerate(checkpoints):
        on_progress(done, len(checkpoints), checkpoint.name)
        followed.add(run, checkpoint.name, options, seed, seeds)
    return _finding(followed, [checkpoint.step for checkpoint in checkpoints], seed, _over(followed, options))


class _Followed:
    """The figure and the curves of an instrument, checkpoint by checkpoint: values [checkpoint][unit]."""

    def __init__(self, name: str, function: Instrument, figure: str | None, curves: Curves) -> None:
        self.name, self.function, self.figure, self.curves = name, function, figure, curves
        self.values: list[list[float]] = []
        self.nulls: list[list[float]] = []
        self.first: tuple[str, Any] | None = None  # checkpoint and its model's parts
        self.checkpoint = ""
        self.by_seed = False
        self.whole = False  # whether all windows are read at once

    def add(self, run: Run, checkpoint: str, options: dict[str, Any], seed: int, seeds: int | None) -> None:
        from cloche.glass import load

        glass = load(run, checkpoint)
        self.first, self.checkpoint = self.first or (checkpoint, glass.net.spec), checkpoint
        if glass.net.spec != self.first[1]:
            raise ModelUnsupported(
                f"{checkpoint} of {run.path} is another model than {self.first[0]}: its parts or sizes differ, so nothing can "
                "be followed from one to the other; trace a run whose checkpoints are of one model."
            )
        made = fill_in(self.name, self.function, options, Materials(glass, run))
        try:
            found = list(self._findings(glass, made, seed, seeds))
        except CorpusEmpty:  # a group of the windows is too little text
            if self.values or self.whole:
                raise
            self.whole = True
            found = list(self._findings(glass, made, seed, seeds))
        self.figure = self.figure or next(iter(found[0].figures), "")
        self.values.append([_figure(each, self.figure, self.name) for each in found])
        self.nulls.append([float(each.null[self.figure]) for each in found if each.null and self.figure in each.null])
        self.curves.add(found)

    def _findings(self, glass: Any, made: dict[str, Any], seed: int, seeds: int | None) -> Iterator[Finding]:
        """The instrument's finding for each prompt, group of windows, or seed, at one checkpoint."""
        units = [] if self.whole else _units(made)
        if units or "seed" not in options_of(self.function):
            for unit in units or [{}]:
                yield self.function(glass, **{**made, **unit})
            return
        yield (first := self.function(glass, **made, seed=seed))
        count = seeds or (SEEDS if named_curves(first, self.curves.figure) else 1)
        self.by_seed = count > 1
        for more in range(1, count):
            yield self.function(glass, **made, seed=seed + more)


def _name_of(function: Instrument) -> str:
    return function.__name__.replace("_", "-").removesuffix("-report")


def _units(made: dict[str, Any]) -> list[dict[str, Any]]:
    """The varied arguments, one per call: prompts, or groups of windows; empty if there are neither."""
    if isinstance(prompts := made.get("prompt"), list | tuple) and prompts and not isinstance(prompts[0], int):
        return [{"prompt": prompt} for prompt in prompts]
    windows = made.get("windows")
    if not isinstance(windows, list | tuple) or not windows:
        return [{}] if "prompt" in made else []
    if all(isinstance(text, str) for text in windows):
        return [{"windows": [text]} for text in windows]
    rows = [row for batch in windows for row in np.asarray(batch)]
    groups = np.array_split(np.arange(len(rows)), min(PROMPTS, len(rows)))
    return [{"windows": [np.stack([rows[i] for i in group])]} for group in groups]


def _over(followed: _Followed, options: dict[str, Any]) -> str:
    """What the mean is taken over, such as "8 prompts"; "" where there is one value per checkpoint."""
    known, count = options_of(followed.function), len(followed.values[0])
    if followed.by_seed:
        return f"{count} seeds"
    if "prompt" not in known and (count == 1 and "windows" not in options):
        return ""
    unit = "prompt" if "prompt" in known else "piece of text"
    return f"1 {unit}" if count == 1 else f"{count} {unit.replace('piece', 'pieces') if ' ' in unit else f'{unit}s'}"


def _figure(finding: Finding, figure: str, name: str) -> float:
    """A figure, or the mean of the array of that name."""
    value = finding.figures.get(figure)
    if value is None and figure in named_curves(finding, figure):
        value = float(np.nanmean(finding.arrays[figure]))
    if value is None:
        known = ", ".join(finding.figures) or "none"
        raise InstrumentUnknown(
            f"{name} at {finding.checkpoint} has no figure {figure or 'to trace'}; it has {known}: name one with figure=."
        )
    return float(value)


def _finding(followed: _Followed, steps: list[int], seed: int, over: str) -> Finding:
    values, nulls = np.array(followed.values), followed.nulls
    found = find_onset(values, np.array([value for row in nulls for value in row]), seed)
    null = [float(np.mean(row)) for row in nulls] if all(nulls) else []
    figures = {"gain": found.gain, "first": float(values[0].mean()), "last": float(values[-1].mean())}
    if found.at is not None:
        span = {"onset_low": found.low, "onset_high": found.high}
        at = {"onset": float(steps[found.at])}
        figures = at | {key: float(steps[i]) for key, i in span.items() if i is not None} | figures
    families = followed.curves.families()
    onsets = find_onsets(families, seed)
    data = {
        "instrument": followed.name,
        "over": over,
        "figure": followed.figure,
        "steps": steps,
        "values": values.tolist(),
        "nulls": nulls,
        "onset": None if found.at is None else steps[found.at],
        "spread": found.spread,
    }
    if families:
        data["curves"] = data_of(families, onsets, steps)
        figures["curves_with_onset"] = float(sum(_has_onset(one) for each in onsets.values() for one in each))
    about = Provenance("trace", followed.checkpoint, seed=seed)
    summary = _summary(data, found) + summary_of(families, onsets, steps)
    null_gain = {"gain": null[-1] - null[0]} if null else None
    panels = (_curve(data, null), *panels_of(families, onsets, steps))
    return Finding(about, summary, figures, data, arrays_of(families, onsets, steps), null_gain, panels)


def _has_onset(one: Onset | None) -> bool:
    return one is not None and one.at is not None


def _summary(data: dict[str, Any], found: Onset) -> str:
    steps, first, last = data["steps"], np.mean(data["values"][0]), np.mean(data["values"][-1])
    moved = (
        f"The figure '{data['figure'].replace('_', ' ')}' of {data['instrument']} goes from {first:.3g} to {last:.3g}"
    )
    over = f", over {data['over']}" if data["over"] else ""
    if found.at is None:
        within = f"within {SPREADS:g} spreads of the null ({found.spread:.2g})"
        return f"{moved} over {len(steps)} checkpoints; that is {within}, so it has no onset."
    span = ""
    if found.low is not None and found.high is not None:
        span = f" (90% of resamples: {steps[found.low]:,} to {steps[found.high]:,})"
    return f"{moved}; it sets in at step {steps[found.at]:,}{span}{over}."


def _curve(data: dict[str, Any], null: list[float]) -> Panel:
    values = np.array(data["values"])
    error = values.std(1) / max(1, values.shape[1] - 1) ** 0.5
    mean = values.mean(1)
    figure = data["figure"].replace("_", " ")
    series = [Series(figure, tuple(mean.tolist()), tuple((mean - error).tolist()), tuple((mean + error).tolist()))]
    if null:
        series.append(Series("null", tuple(null), control=True))
    marks = () if data["onset"] is None else ((float(data["onset"]), "onset"),)
    title = f"{figure} of {data['instrument']} by step"
    note = f"The mean over {data['over']}, with its standard error." if values.shape[1] > 1 else ""
    return Lines(title, tuple(map(float, data["steps"])), tuple(series), "step", marks=marks, note=note)
