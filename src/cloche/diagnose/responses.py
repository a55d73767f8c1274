"""What the monitors say of the runs of a comparison, and what a setting moves beyond the spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

from cloche.diagnose.divergence import first_divergence
from cloche.diagnose.history import filled, read_history
from cloche.drawing import Interval, Table, number, student_quantile
from cloche.runs import Run
from cloche.train import read_records

LATE = 0.75  # share of the steps after which records count as those of the end
SHOWN = 6  # monitors that a note names
Values = Mapping[str, float | None]

MONITORS = {
    "diverged": "1 if the loss stayed above 1.5 times its median for 20 steps or was not finite, else 0",
    "spikes": "updates left out because the loss spiked",
    "alarms": "share of the records of health with a measure outside of the optimiser's limits",
    "grad_norm": "norm of the gradient before clipping, median over the steps",
    "grad_norm_max": "its largest",
    "update_norm": "norm of the update, mean over the steps",
    "update_norm_max": "its largest",
    "update_ratio": "norm of the update over that of the weights, mean over layers and the run",
    "weight_norm": "norm of the weights of embedding and blocks at the end",
    "resid_variance": "variance of the residual stream after the last layer, at the end",
    "resid_growth": "that over the variance of the embeddings",
    "attention_entropy": "share of the largest possible, mean over heads, at the end",
    "attention_entropy_min": "that of the lowest head",
    "rank": "participation ratio of the stream after the last layer, at the end",
    "kurtosis": "of the stream, in the layer where it is largest, at the end; 3 is Gaussian",
    "gain": "of the linear maps as a multiple of the nominal one, mean over layers, at the end",
    "density": "share of hidden units active for a token, mean over layers, at the end",
    "dead_units": "share of hidden units that are never active, mean over layers, at the end",
    "logit_norm": "root mean square of the logits, at the end",
    "noise_scale": "gradient noise scale in rows of a batch, running average at the end",
    "val_gap": "what the last validation lost more than the last updates did, in nats",
}


def monitored(run: Run) -> dict[str, float | None]:
    """Every monitor of `MONITORS` as one number of a run, from its logs; None for what they do not have.

    "At the end" is the mean over the records of health of the last quarter of the steps, or the last if there is none in it.

    >>> from cloche.diagnose import monitored
    >>> run = cloche.Run.create("first", recipe="", seed=0, command=["cloche"])
    >>> with run.log("steps") as log:
    ...     log.append({"step": 3, "loss": [4.0, 3.5, 3.0], "grad_norm": [3.0, 1.0, 2.0], "update_norm": [0.1, 0.2, 0.3]})
    >>> found = monitored(run)
    >>> found["grad_norm"], found["update_norm_max"], found["rank"]
    (2.0, 0.3, None)
    """
    history, health = read_history(run), read_records(run, "health")
    gradients, updates = (_finite(history.series[name, ""].tolist()) for name in ("gradient norm", "update norm"))
    late = [record for record in health if record["step"] > LATE * history.steps] or health[-1:]
    gaps = [record["val_gap"] for record in history.metrics if record.get("val_gap") is not None]
    scales = [record["noise_scale"] for record in health if record.get("noise_scale") is not None]
    diverged = history.nonfinite is not None or first_divergence(filled(history.losses).tolist()) is not None
    return {
        "diverged": float(diverged),
        "spikes": float(len(history.skipped)),
        "alarms": _mean(float(bool(record.get("alarms"))) for record in health),
        "grad_norm": median(gradients) if gradients else None,
        "grad_norm_max": max(gradients, default=None),
        "update_norm": _mean(updates),
        "update_norm_max": max(updates, default=None),
        "update_ratio": _over(health, "update_ratio", _mean),
        **{name: _over(late, key, of) for name, (key, of) in _AT_END.items()},
        "noise_scale": scales[-1] if scales else None,
        "val_gap": gaps[-1] if gaps else None,
    }


def _finite(values: Iterable[Any]) -> list[float]:
    """The numbers among values and lists of values."""
    found: list[float] = []
    for value in values:
        if isinstance(value, list):
            found += _finite(value)
        elif value is not None and math.isfinite(value):
            found.append(float(value))
    return found


def _mean(values: Iterable[Any]) -> float | None:
    found = _finite(values)
    return fmean(found) if found else None


def _norm(values: Iterable[Any]) -> float | None:
    found = _finite(values)
    return math.hypot(*found) if found else None


def _growth(values: Sequence[Any]) -> float | None:
    first, last = (_finite([values[i]]) for i in (0, -1))
    return last[0] / first[0] if first and last and first[0] else None


_AT_END: dict[str, tuple[str, Callable[[Sequence[Any]], float | None]]] = {
    "weight_norm": ("weight_norm", _norm),
    "resid_variance": ("resid_variance", lambda values: _mean(values[-1:])),
    "resid_growth": ("resid_variance", _growth),
    "attention_entropy": ("attention_entropy", _mean),
    "attention_entropy_min": ("attention_entropy", lambda values: min(_finite(values), default=None)),
    "rank": ("rank", lambda values: _mean(values[-1:])),
    "kurtosis": ("kurtosis", lambda values: max(_finite(values), default=None)),
    "gain": ("gain", _mean),
    "density": ("activation_density", _mean),
    "dead_units": ("dead_units", _mean),
    "logit_norm": ("logit_norm", _mean),
}


def _over(records: Iterable[Mapping[str, Any]], key: str, of: Callable[[Sequence[Any]], float | None]) -> float | None:
    """Mean over records of what `of` makes of their values, which are a list or one number."""
    values = [record[key] for record in records if record.get(key) not in (None, [])]
    return _mean(of(value if isinstance(value, list) else [value]) for value in values)


class Response(NamedTuple):
    """A monitor under one setting: its mean over seeds and, paired by seed, its difference from the first setting with half
    of Student's 95% interval; `response` is the difference in spreads of the first, and `moved` whether seeds alone would
    seldom make it."""

    mean: float | None
    difference: float | None = None
    half: float | None = None
    response: float | None = None
    moved: bool = False


def beyond(seeds: int, pairs: int) -> float:
    """The response in spreads beyond which seeds alone take a monitor in 5% of cases: the mean of `pairs` differences of
    independent runs over a spread that is estimated from `seeds` runs follows Student's t times the root of 2 / pairs.

    >>> from cloche.diagnose.responses import beyond
    >>> round(beyond(3, 3), 2), round(beyond(8, 3), 2)
    (3.51, 1.93)
    """
    return student_quantile(0.975, seeds - 1) * math.sqrt(2 / pairs) if min(seeds - 1, pairs) > 0 else math.inf


def spread_of(values: Iterable[float | None]) -> float | None:
    """Standard deviation over seeds; None for fewer than two."""
    found = _finite(values)
    return stdev(found) if len(found) > 1 else None


def respond(first: Mapping[int, float | None], other: Mapping[int, float | None]) -> Response:
    """How a monitor of one setting differs from the first's; both {seed: value}. Seeds of the first that the other lacks
    count for the spread.

    >>> from cloche.diagnose.responses import respond
    >>> found = respond({0: 1.0, 1: 2.0, 2: 3.0}, {0: 11.0, 1: 12.0, 2: 13.0})
    >>> found.response, found.moved
    (10.0, True)
    """
    own, spread = _mean(other.values()), spread_of(first.values())
    pairs = [(before, value) for seed, value in other.items() if (before := first.get(seed)) is not None]
    differences = _finite(value - before for before, value in pairs if value is not None)
    if not differences:
        return Response(own)
    found = Interval(tuple(differences))
    half = found.half if len(differences) > 1 else None
    if spread:
        response = found.mean / spread
        limit = beyond(len(_finite(first.values())), len(differences))
        return Response(own, found.mean, half, response, abs(response) > limit)
    certain = spread == 0 and len(differences) > 1 and (min(differences) > 0 or max(differences) < 0)
    return Response(own, found.mean, half, None if any(differences) else 0.0, certain)


def all_responses(runs: Sequence[Mapping[int, Values]]) -> list[dict[str, Response]]:
    """For each setting, of which `runs` has {seed: monitors}, the response of every monitor; the first has only means."""
    found = []
    for i, own in enumerate(runs):
        values = {name: {seed: each.get(name) for seed, each in own.items()} for name in MONITORS}
        first = {name: {seed: each.get(name) for seed, each in runs[0].items()} for name in MONITORS}
        answered = {name: respond(first[name], values[name]) for name in MONITORS}
        found.append(answered if i else {name: Response(each.mean) for name, each in answered.items()})
    return found


def tables(
    settings: Sequence[str], responses: Sequence[Mapping[str, Response]], spreads: Mapping[str, float | None]
) -> list[Table]:
    """The monitors' means over seeds, and their responses in spreads of the first setting."""
    means = [(name, *(each[name].mean for each in responses)) for name in MONITORS]
    moves = [(name, spreads[name], *(_cell(each[name]) for each in responses[1:])) for name in MONITORS]
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in MONITORS.items())
    return [
        Table("Monitors", ("monitor", *settings), tuple(means), note=f"Means over seeds. {meanings}."),
        Table("Responses", ("monitor", "spread", *settings[1:]), tuple(moves), note=_note(settings, responses)),
    ]


def _cell(each: Response) -> float | str | None:
    """The response; the difference itself where the first setting's seeds agree."""
    if each.response is None and each.difference is not None:
        return f"by {number(each.difference)}"
    return each.response


def _note(settings: Sequence[str], responses: Sequence[Mapping[str, Response]]) -> str:
    moved = []
    for setting, each in zip(settings[1:], responses[1:], strict=True):
        names = sorted((n for n in MONITORS if each[n].moved), key=lambda n: -abs(each[n].response or math.inf))
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        moved.append(f"{setting}: {', '.join(names[:SHOWN]) or 'none'}{more}")
    return (
        "Differences from the first setting, paired by seed, in units of its standard deviation over seeds (by: in the "
        "monitor's own unit, where its seeds agree). Moved further than seeds alone would in 5% of cases: "
        + "; ".join(moved)
        + "."
    )
