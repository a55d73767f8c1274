"""The looking-inside stage of a run: a dictionary of features, their report, a logit lens, and the page that shows it all.

Each result names the checkpoint it is of and is made once for it, so a stage that was interrupted goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glasshouse.cli.progress import Screen
    from glasshouse.data import PackedTokens
    from glasshouse.glass import Glass
    from glasshouse.runs import Run
    from glasshouse.sparse import TopKSAE
    from glasshouse.train import Recipe

FEATURES_PER_WIDTH = 8  # features of the dictionary for each dimension of the residual stream
ACTIVE = 16  # features that may fire on one token
BATCH = 2_048  # activations a step of the dictionary's training
MOST_TOKENS = 1_000_000  # read for the dictionary; fewer after a short training, which has less to show
FEWEST_TOKENS = 25 * BATCH
REPORT_TOKENS = 131_072  # of the validation split, read for the features' examples
WINDOW_TOKENS = 4_096  # tokens a forward pass
LENS_TOKENS = 28  # the opening of the validation text, long enough to have something to foresee


def look(run: Run, screen: Screen) -> None:
    """Looks into the last checkpoint of a run; leaves dictionaries/, findings/ and report.html."""
    import torch

    import glasshouse
    from glasshouse.microscope import write_report
    from glasshouse.train import Recipe

    recipe = Recipe.parse(run.recipe)
    torch.set_num_threads(recipe.run.threads or torch.get_num_threads())
    glass = glasshouse.load(run)
    for instrument, find in (("features", _features), ("logit-lens", _lens)):
        if not any(finding["checkpoint"] == glass.checkpoint for finding in run.findings(instrument)):
            finding = find(run, recipe, glass, screen)
            finding.save(run)
            screen.say(finding.summary)
    write_report(run.path)


def _features(run: Run, recipe: Recipe, glass: Glass, screen: Screen) -> Any:
    from glasshouse.data import PackedTokens
    from glasshouse.interp import features_report

    name, sae = _dictionary(run, recipe, glass, screen)
    screen.say("reading held-out text for what each feature answers to")
    held_out = _windows(PackedTokens.open(run.path, "validation"), recipe, glass, REPORT_TOKENS)
    return features_report(glass, sae, held_out, name=name, autocast=recipe.run.precision == "bf16")


def _dictionary(run: Run, recipe: Recipe, glass: Glass, screen: Screen) -> tuple[str, TopKSAE]:
    """The dictionary of the middle layer's residual stream, trained where it is not there yet."""
    from glasshouse.data import Batches, PackedTokens
    from glasshouse.interp import harvest
    from glasshouse.sparse import Provenance, Training, load_sae, train_sae

    site = glass.sites.resid_post[(len(glass.sites.resid_post) - 1) // 2]
    name = f"{site.name}_{site.layer}"
    folder = run.path / "dictionaries" / name
    if folder.exists() and (sae := load_sae(folder)).trained_on.checkpoint == glass.checkpoint:
        return name, sae
    r, width = recipe.run, glass.net.spec.width
    trained_on = (r.steps or 0) * r.batch * r.length
    steps = min(MOST_TOKENS, max(FEWEST_TOKENS, trained_on)) // BATCH
    batches = Batches(PackedTokens.open(run.path, "train"), r.length, max(1, WINDOW_TOKENS // r.length), r.seed + 1)
    endless = (batches.next()[:, :-1] for _ in iter(int, 1))
    with screen.bar("finding features") as update:
        sae, _ = train_sae(
            harvest(glass.net, endless, site, seed=r.seed, autocast=r.precision == "bf16"),
            FEATURES_PER_WIDTH * width,
            ACTIVE,
            Training(steps=steps, batch=BATCH),
            seed=r.seed,
            trained_on=Provenance(str(site), glass.checkpoint),
            progress=lambda r: update(r["step"], steps, f"{r['step']:.0f}/{steps} · {1 - r['fvu']:.0%} explained"),
        )
    sae.save(folder)
    return name, sae


def _windows(tokens: PackedTokens, recipe: Recipe, glass: Glass, limit: int) -> Iterator[Any]:
    """Batches of ids [batch, position] that cover about `limit` tokens of a split."""
    assert glass.tokenizer is not None
    length = recipe.run.length
    batch = max(1, WINDOW_TOKENS // length)
    for x, _ in tokens.validation_windows(length, glass.tokenizer.byte_lengths, limit, batch):
        if x.shape[1] > 2:
            yield x[:, :-1]


def _lens(run: Run, recipe: Recipe, glass: Glass, screen: Screen) -> Any:
    from glasshouse.data import PackedTokens
    from glasshouse.interp import logit_lens

    assert glass.tokenizer is not None
    held_out = PackedTokens.open(run.path, "validation")
    opening = held_out.window(0, min(LENS_TOKENS, len(held_out)))
    return logit_lens(glass, glass.tokenizer.decode([int(token) for token in opening]))
