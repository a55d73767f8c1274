"""The look-inside stage of a run: a dictionary of features, a logit lens, and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.errors import ClocheError

if TYPE_CHECKING:
    from cloche.cli.progress import Screen
    from cloche.glass import Glass
    from cloche.runs import Run
    from cloche.train import Recipe

LENS_TOKENS = 28  # from the start of the held-out text: enough context to predict something
INSTRUMENTS = ("features", "logit-lens")  # the lens only of a causal model
SHORT = 30.0  # minutes: longer runs are looked into only on request


def is_wanted(run: Run, recipe: Recipe) -> bool:
    """Whether a finished run is looked into: as set by [evaluate] look, or else if its training was planned to be short."""
    if recipe.evaluate.look is not None:
        return recipe.evaluate.look
    minutes = recipe.run.minutes
    if minutes is None:
        minutes = max((record.get("time") or 0.0 for record in run.read_log("metrics")), default=0.0) / 60
    return minutes <= SHORT


def is_done(run: Run) -> bool:
    """Whether the last checkpoint was looked into and the report was written."""
    return (run.path / "report.html").exists() and _is_looked_into(run)


def look(run: Run, recipe: Recipe, screen: Screen) -> None:
    """Looks into the last checkpoint of a run, unless that was done; writes dictionaries/, findings/ and report.html.

    If it was not asked for, a run that cannot be looked into, such as one with too little text, is not an error.
    """
    from cloche.microscope import write_report

    problem: ClocheError | None = None
    try:
        look_inside(run, screen)
    except ClocheError as error:
        problem = error
    screen.print("writing report.html")
    write_report(run.path)
    if problem is not None and recipe.evaluate.look:
        raise problem
    if problem is not None:
        screen.print(f"The run was not looked into: {problem}")


def look_inside(run: Run, screen: Screen) -> None:
    """The part of `look` that needs the model: writes dictionaries/ and findings/."""
    import torch

    import cloche
    from cloche.train import Recipe

    if _is_looked_into(run):
        return
    settings = (Recipe() if run.adopted is not None else Recipe.parse(run.recipe)).run
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    _use_instruments(run, cloche.load(run), settings.seed, screen)


def _is_looked_into(run: Run) -> bool:
    last = run.checkpoint("last").name
    missing = [name for name in INSTRUMENTS if all(found.get("checkpoint") != last for found in run.findings(name))]
    return not missing or (missing == ["logit-lens"] and not _is_causal(run))


def _is_causal(run: Run) -> bool:
    import cloche

    return cloche.load(run).net.causal


def _use_instruments(run: Run, glass: Glass, seed: int, screen: Screen) -> None:
    from cloche.data import PackedTokens
    from cloche.interp import look_inside

    tokens = PackedTokens.open(run.path, "train")
    with screen.bar("looking inside") as update:
        for progress in look_inside(run, glass, tokens, prompts=[_opening(run, glass)], seed=seed):
            update(progress.done, progress.total, progress.message)
    for name in INSTRUMENTS:
        for found in run.findings(name)[:1]:
            screen.print(f"  {found['summary']}")


def _opening(run: Run, glass: Glass) -> str:
    """The start of the held-out text."""
    from cloche.data import PackedTokens
    from cloche.train import first_text

    assert glass.tokenizer is not None, "a run has its tokenizer"
    return first_text(PackedTokens.open(run.path, "validation"), glass.tokenizer, LENS_TOKENS)
