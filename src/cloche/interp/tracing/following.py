"""One instrument over all checkpoints of a run: how its headline changes, and the step of its onset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloche.drawing import Finding, Lines, Panel, Provenance, Series
from cloche.errors import CheckpointMissing, InstrumentUnknown
from cloche.interp.arguments import fill_in
from cloche.interp.catalogue import Instrument, find_instrument, options_of
from cloche.interp.materials import Materials, held_out_prompts
from cloche.interp.tracing.onsets import SPREADS, Onset, find_onset
from cloche.runs import Run

Array = NDArray[np.float64]
PROMPTS = 8  # pieces of held-out text by default; windows are divided into as many groups


def trace(
    run: Run | Path | str,
    instrument: str | Instrument,
    figure: str | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int, str], object] = lambda done, total, name: None,
    **options: Any,
) -> Finding:
    """Runs an instrument over all checkpoints of a run and finds the onset of its headline, or of the `figure` named.

    The onset is the first checkpoint after which the mean over prompts stays above half of its total gain, from the first
    checkpoint to the last; its interval is from the 5th to the 95th percentile of bootstrap resamples of the prompts. There
    is no onset if the gain is within two spreads, the spread being the larger of the null's standard deviation over
    checkpoints and prompts (without a null, the usual move from one checkpoint to the next) and the gain's standard error
    over prompts.

    `options` are the instrument's own. `prompt` may be a list of prompts, by default pieces of the held-out text; an
    instrument that reads windows of text is run on groups of them, which count as prompts. Raises ClocheError for a run
    with fewer than two checkpoints, and an instrument without figures.

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
    values: list[list[float]] = []
    nulls: list[list[float]] = []
    for done, checkpoint in enumerate(checkpoints):
        on_progress(done, len(checkpoints), checkpoint.name)
        found = list(_findings(run, checkpoint.name, name, function, options))
        figure = figure or next(iter(found[0].figures), "")
        values.append([_figure(each, figure, name) for each in found])
        nulls.append([float(each.null[figure]) for each in found if each.null and figure in each.null])
    steps = [checkpoint.step for checkpoint in checkpoints]
    over = _over(function, options, len(values[0]))
    return _finding(name, figure or "", steps, (np.array(values), nulls), checkpoints[-1].name, seed, over)


def _name_of(function: Instrument) -> str:
    return function.__name__.replace("_", "-").removesuffix("-report")


def _findings(run: Run, checkpoint: str, name: str, function: Instrument, options: dict[str, Any]) -> Iterator[Finding]:
    """The instrument's finding for each prompt, or group of windows, at one checkpoint."""
    from cloche.glass import load

    glass = load(run, checkpoint)
    made = fill_in(name, function, options, Materials(glass, run))
    for unit in _units(made):
        yield function(glass, **{**made, **unit})


def _units(made: dict[str, Any]) -> list[dict[str, Any]]:
    """The varied arguments, one per call: prompts, or groups of windows; a single call if there are neither."""
    if isinstance(prompts := made.get("prompt"), list | tuple) and prompts and not isinstance(prompts[0], int):
        return [{"prompt": prompt} for prompt in prompts]
    windows = made.get("windows")
    if not isinstance(windows, list | tuple) or not windows:
        return [{}]
    if all(isinstance(text, str) for text in windows):
        return [{"windows": [text]} for text in windows]
    rows = [row for batch in windows for row in np.asarray(batch)]
    groups = np.array_split(np.arange(len(rows)), min(PROMPTS, len(rows)))
    return [{"windows": [np.stack([rows[i] for i in group])]} for group in groups]


def _over(function: Instrument, options: dict[str, Any], count: int) -> str:
    """What the mean is taken over, such as "8 prompts"; "" where there is one value per checkpoint."""
    known = options_of(function)
    if "prompt" not in known and (count == 1 and "windows" not in options):
        return ""
    unit = "prompt" if "prompt" in known else "piece of text"
    return f"1 {unit}" if count == 1 else f"{count} {unit.replace('piece', 'pieces') if ' ' in unit else f'{unit}s'}"


def _figure(finding: Finding, figure: str, name: str) -> float:
    value = finding.figures.get(figure)
    if value is None:
        known = ", ".join(finding.figures) or "none"
        raise InstrumentUnknown(
            f"{name} at {finding.checkpoint} has no figure {figure or 'to trace'}; it has {known}: name one with figure=."
        )
    return float(value)


def _finding(
    name: str,
    figure: str,
    steps: Sequence[int],
    measured: tuple[Array, list[list[float]]],
    checkpoint: str,
    seed: int,
    over: str,
) -> Finding:
    values, nulls = measured
    found = find_onset(values, np.array([value for row in nulls for value in row]), seed)
    null = [float(np.mean(row)) for row in nulls] if all(nulls) else []
    figures = {"gain": found.gain, "first": float(values[0].mean()), "last": float(values[-1].mean())}
    if found.at is not None:
        span = {"onset_low": found.low, "onset_high": found.high}
        at = {"onset": float(steps[found.at])}
        figures = at | {key: float(steps[i]) for key, i in span.items() if i is not None} | figures
    data = {
        "instrument": name,
        "over": over,
        "figure": figure,
        "steps": list(steps),
        "values": values.tolist(),
        "nulls": nulls,
        "onset": None if found.at is None else steps[found.at],
        "spread": found.spread,
    }
    about = Provenance("trace", checkpoint, seed=seed)
    null_gain = {"gain": null[-1] - null[0]} if null else None
    return Finding(about, _summary(data, found), figures, data, null=null_gain, panels=(_curve(data, null),))


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
