"""The looking-inside stage of a run: a dictionary of features, a logit lens, and the page that shows it all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloche.cli.progress import Screen
    from cloche.glass import Glass
    from cloche.runs import Run

LENS_TOKENS = 28  # the opening of the held-out text: long enough to have something to foresee
INSTRUMENTS = ("features", "logit-lens")


def look(run: Run, screen: Screen) -> None:
    """Looks into the last checkpoint of a run, unless that was done; leaves dictionaries/, findings/ and report.html."""
    from cloche.microscope import write_report

    look_inside(run, screen)
    screen.say("writing report.html")
    write_report(run.path)


def look_inside(run: Run, screen: Screen) -> None:
    """The part of `look` that needs the model: what it leaves in dictionaries/ and findings/."""
    import torch

    import cloche
    from cloche.train import Recipe

    recipe = Recipe.parse(run.recipe)
    torch.set_num_threads(recipe.run.threads or torch.get_num_threads())
    glass = cloche.load(run)
    if not all(any(f["checkpoint"] == glass.checkpoint for f in run.findings(name)) for name in INSTRUMENTS):
        _use_instruments(run, glass, recipe.run.seed, screen)


def _use_instruments(run: Run, glass: Glass, seed: int, screen: Screen) -> None:
    from cloche.data import PackedTokens
    from cloche.interp import look_inside

    tokens = PackedTokens.open(run.path, "train")
    with screen.bar("looking inside") as update:
        for progress in look_inside(run, glass, tokens, prompts=[_opening(run, glass)], seed=seed):
            update(progress.done, progress.total, progress.message)
    for name in INSTRUMENTS:
        screen.say(f"  {run.findings(name)[0]['summary']}")


def _opening(run: Run, glass: Glass) -> str:
    """How the text that the model never saw begins."""
    from cloche.data import PackedTokens
    from cloche.train import opening

    assert glass.tokenizer is not None, "a run has its tokenizer"
    return opening(PackedTokens.open(run.path, "validation"), glass.tokenizer, LENS_TOKENS)
