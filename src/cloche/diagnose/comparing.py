"""Settings compared by training each with the same seeds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from cloche.diagnose.differences import verdict
from cloche.diagnose.responses import MONITORS, all_responses, monitored, spread_of, tables
from cloche.diagnose.trials import Outcome, Progress, Trials
from cloche.diagnose.variations import Setting, called, settings_of
from cloche.drawing import Finding, Interval, Provenance, Table, number
from cloche.errors import SettingConflict, require_whole
from cloche.runs import Run
from cloche.train import Recipe, check_recipe

NOTE = (
    "Bits per byte of held-out text at the end, lower is better, with Student's 95% interval over seeds; differences from the "
    "first setting are paired by seed. Each interval stands alone: of twenty settings that change nothing, one is expected "
    "to look better or worse."
)


def compare(
    recipe: Recipe,
    vary: Mapping[str, Sequence[str]] | Sequence[Setting],
    out: Path | str,
    seeds: int = 3,
    steps: int | None = None,
    minutes: float | None = None,
    on_progress: Progress = lambda done, total, note: None,
    monitors: bool = False,
) -> Finding:
    """Trains every combination of the varied settings with each seed, and says which differ from the first.

    vary: {"optimizer.lr": ["0.01", "0.02"]}, values as text of `Recipe.with_set`, or the settings themselves, where several
    keys change at once: [{}, {"run.batch": "16", "run.length": "128"}]. out: a folder for the runs, which are reused and
    resumed if it is called again; more seeds or settings may be asked for then. steps, minutes: of each run, by default the
    recipe's; minutes are converted to steps once, and all runs take those. All runs have the threads, device and precision
    of the first, and seeds recipe.run.seed, +1, ... monitors: adds what every monitor says of the runs, and how far each
    setting moves it in units of the spread over seeds (see `monitored`).

    The headline is the difference in bits per byte of the best of the other settings from the first, negative if it is
    better; `identical` runs have exactly 0. A run whose loss is not finite is reported as diverged. Raises ClocheError,
    before anything is trained, for settings that cannot be trained, and KeyboardInterrupt after Ctrl-C, once a checkpoint is
    saved.

    >>> from pathlib import Path
    >>> from cloche.diagnose import compare
    >>> from cloche.train import Recipe
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> recipe = Recipe().with_set({"data.paths": ["text.txt"], "tokenizer.vocab": 270, "run.length": 16, "run.batch": 2})
    >>> recipe = recipe.with_set({"run.threads": 1, "run.precision": "fp32", "evaluate.samples": 0, "evaluate.tokens": 64})
    >>> recipe = recipe.with_set({"model.width": 24, "model.body.depth": 1, "checkpoint.count": 1})
    >>> finding = compare(recipe, {"log.every": ["1", "2"]}, "compared", seeds=2, steps=2)
    >>> finding.figures["difference"], finding.panels[0].rows[1][-2]
    (0.0, 'identical')
    """
    require_whole(least=1, most=1000, seeds=seeds)
    if steps is not None and minutes is not None:
        raise SettingConflict("--steps and --minutes are both given; leave one of them out.")
    settings = settings_of(vary)
    budget = {key: value for key, value in (("steps", steps), ("minutes", minutes)) if value is not None}
    for setting in settings:
        check_recipe(recipe.with_set({f"run.{key}": value for key, value in budget.items()} | setting))
    trials = Trials(Path(out), recipe, budget)
    numbers = [recipe.run.seed + i for i in range(seeds)]
    runs = [
        (setting, seed) for seed in numbers for setting in settings
    ]  # so that an interrupted comparison is a fair one
    outcomes = []
    for i, (setting, seed) in enumerate(runs):

        def told(done: float, total: float, note: str, i: int = i) -> None:
            on_progress(i + done / total, len(runs), f"run {i + 1} of {len(runs)}: {note}")

        outcomes.append(trials.outcome(setting, seed, told))
    finding = _finding([called(setting) for setting in settings], outcomes, recipe.run.seed, _dropped(recipe, settings))
    return _with_monitors(finding, outcomes) if monitors else finding


def _dropped(recipe: Recipe, settings: Sequence[Mapping[str, str]]) -> list[str]:
    """A note for each setting of the recipe that every class of its section has, and that a whole part in --vary replaced."""
    found = []
    for key in dict.fromkeys(key for setting in settings for key in setting if "." not in key):
        before = getattr(recipe, key)
        after = [getattr(recipe.with_set(dict(setting)), key) for setting in settings if key in setting]
        shared = [field for field in dataclasses.fields(before) if field.kw_only]
        for field in shared:
            value = getattr(before, field.name)
            if value != field.default and all(getattr(part, field.name, None) != value for part in after):
                found.append(
                    f"{key}.{field.name} of the recipe is not used: --vary {key} names whole parts; write it in each."
                )
    return found


def _finding(settings: list[str], outcomes: list[Outcome], seed: int, dropped: list[str]) -> Finding:
    by = {name: {each.seed: each for each in outcomes if each.setting == name} for name in settings}
    first = _scores(by[settings[0]])
    rows, data = [], []
    for name in settings:
        own = _scores(by[name])
        differences = [own[s] - first[s] for s in own if s in first]
        data.append(_compared(name, by[name], own, differences if name != settings[0] else None))
    for each in data:
        cells = (each["mean"], each["half"], each["difference"], each["difference_half"], each["verdict"])
        rows.append((each["setting"], each["seeds"], *cells, each["seconds"]))
    columns = ("setting", "seeds", "bits per byte", "±", "difference", "± ", "verdict", "seconds per run")
    single = [(o.setting, o.seed, o.steps, o.bits_per_byte, o.seconds, o.run.name) for o in outcomes]
    others = [each for each in data[1:] if each["difference"] is not None]
    best = min(others, key=lambda each: each["difference"], default=None)
    figures = {} if best is None else {"difference": best["difference"]}
    if best is not None and best["difference_half"] is not None:
        figures["half_interval"] = best["difference_half"]
    return Finding(
        Provenance("compare", "the recipe", seed=seed),
        _summary(data, best),
        figures,
        {"settings": data, "runs": [_record(each) for each in outcomes], "notes": [*dropped, *_notes(outcomes)]},
        null=dict.fromkeys(figures, 0.0),  # of a setting that changes nothing
        panels=[
            Table("Settings", columns, tuple(rows), note=NOTE),
            Table("Runs", ("setting", "seed", "steps", "bits per byte", "seconds", "folder"), tuple(single)),
        ],
    )


def _with_monitors(finding: Finding, outcomes: Sequence[Outcome]) -> Finding:
    """The finding with what the monitors say: in `data` of each run and setting, and two tables."""
    names = [each["setting"] for each in finding.data["settings"]]
    values = [monitored(Run.open(each.run)) for each in outcomes]
    by = [{o.seed: v for o, v in zip(outcomes, values, strict=True) if o.setting == name} for name in names]
    responses = all_responses(by)
    spreads = {name: spread_of(each[name] for each in by[0].values()) for name in MONITORS}
    told = [{name: each._asdict() for name, each in own.items()} for own in responses]
    data = {
        **finding.data,
        "settings": [{**each, "monitors": own} for each, own in zip(finding.data["settings"], told, strict=True)],
        "runs": [{**each, "monitors": own} for each, own in zip(finding.data["runs"], values, strict=True)],
        "spreads": spreads,
    }
    return dataclasses.replace(finding, data=data, panels=[*finding.panels, *tables(names, responses, spreads)])


def _scores(runs: Mapping[int, Outcome]) -> dict[int, float]:
    return {seed: each.bits_per_byte for seed, each in runs.items() if each.bits_per_byte is not None}


def _compared(
    name: str, runs: Mapping[int, Outcome], scores: Mapping[int, float], differences: Sequence[float] | None
) -> dict[str, Any]:
    """What is said of one setting; `differences` is None for the first."""
    mean, half = _interval(list(scores.values()))
    difference, wide = _interval(differences or [])
    said = "first" if differences is None else verdict(differences)
    diverged = len(runs) - len(scores)
    if diverged:
        said = f"diverged with {diverged} of {len(runs)} seeds" + (f"; {said}" if differences else "")
    return {
        "setting": name,
        "seeds": len(scores),
        "diverged": diverged,
        "mean": mean,
        "half": half,
        "difference": difference,
        "difference_half": wide,
        "verdict": said,
        "seconds": fmean(each.seconds for each in runs.values()),
    }


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and half the width of its interval, None where there is none."""
    if not values:
        return None, None
    found = Interval(tuple(values))
    return found.mean, found.half if len(values) > 1 else None


def _record(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome), "run": outcome.run.name}


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    return [f"{each.run.name}: {each.message}" for each in outcomes if each.bits_per_byte is None]


def _summary(data: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> str:
    first = data[0]
    if best is None:
        return f"No run can be compared with {first['setting']}: see the runs that diverged."
    counts = Counter(each["verdict"].partition(":")[0] for each in data[1:])
    told = ", ".join(f"{count} {said}" for said, count in counts.items())
    change = number(abs(best["difference"]))
    if not best["difference"]:
        return f"Compared with {first['setting']}: {told}."
    side = "below" if best["difference"] < 0 else "above"
    return f"Compared with {first['setting']}: {told}; {best['setting']} is {change} bits per byte {side} it."
