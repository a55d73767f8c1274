"""`glasshouse sae`: dictionaries of a run's activations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glasshouse.errors import GlasshouseError

if TYPE_CHECKING:
    from glasshouse.glass import Glass
    from glasshouse.runs import Run
    from glasshouse.sparse import SAE

sae = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Sparse autoencoders of a run's activations: train them, measure them, read their features.",
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A dictionary in the run's dictionaries/.")]
Tokens = Annotated[int, typer.Option(help="Held-out tokens to read.")]
WINDOW = 256
GAP_ROWS = 2_048  # signals on which the pursuits are compared with the encoder


@sae.command()
def train(
    run: RunFolder,
    site: Annotated[str | None, typer.Option(help="Such as resid_post[2]; by default after the middle layer.")] = None,
    kind: Annotated[str, typer.Option(help="topk, batchtopk, relu, gated or jumprelu.")] = "topk",
    features: Annotated[int | None, typer.Option(help="By default eight times the width.")] = None,
    l0: Annotated[int | None, typer.Option(help="Features active at a token, on average.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of the training text to learn from.")] = 204_800,
    name: Annotated[str, typer.Option(help="Of the dictionary; by default the site's.")] = "",
    seed: Annotated[int, typer.Option(help="Decides the text read and the start.")] = 0,
) -> None:
    """Train a dictionary on a site of a run's last checkpoint; it goes to RUN/dictionaries/NAME.

    A dictionary already there stays.
    """
    opened, glass = _load(run)
    from glasshouse.cli.progress import Screen
    from glasshouse.data import PackedTokens
    from glasshouse.interp import Look, dictionary_name, train_dictionary

    look = Look(site=site, kind=kind, features=features, k=l0, tokens=tokens)
    name = name or dictionary_name(glass, look)
    if (opened.path / "dictionaries" / name).exists():
        raise GlasshouseError(
            f"{run} has a dictionary {name} already, and nothing is overwritten: choose another --name."
        )
    screen = Screen()
    last = ""
    with screen.bar("dictionary") as update:
        for progress in train_dictionary(opened, glass, PackedTokens.open(opened.path, "train"), seed, look, name):
            update(progress.done, progress.total, progress.message)
            last = progress.message
    screen.say(last)


@sae.command()
def report(run: RunFolder, name: Name, tokens: Tokens = 49_152) -> None:
    """Measure a dictionary on held-out text: what it explains, what of that its encoder misses, what the model keeps."""
    opened, glass = _load(run)
    learned, windows = _dictionary(opened, name), _held_out(opened, glass, tokens)
    import torch

    from glasshouse.interp import loss_recovered
    from glasshouse.interp.features import site_of
    from glasshouse.interp.harvest import harvest
    from glasshouse.sparse import gap_report
    from glasshouse.sparse import report as measure

    rows = torch.cat(list(harvest(glass.net, windows, site_of(glass, learned))))
    learned.check(rows)
    measured = measure(learned, learned.dictionary, rows)
    print(f"{name}: {learned.features:,} features of {learned.trained_on.site}, {measured.signals:,} held-out tokens")
    print(f"FVU {measured.fvu:.4f}, L0 {measured.l0:.2f}, dead {measured.dead_share:.1%}")
    print(loss_recovered(glass, learned, windows))
    print(gap_report(learned, learned.dictionary, rows[:GAP_ROWS]))


@sae.command()
def features(
    run: RunFolder,
    name: Name,
    count: Annotated[int, typer.Option(help="How many, the most telling first.")] = 40,
    tokens: Tokens = 49_152,
) -> None:
    """Read held-out text with a dictionary and keep its most telling features as a finding that the microscope shows."""
    opened, glass = _load(run)
    learned, windows = _dictionary(opened, name), _held_out(opened, glass, tokens)
    from glasshouse.interp import features_report

    finding = features_report(glass, learned, windows, name, count)
    finding.save(opened)
    for feature in finding.data["features"]:
        says = " ".join(repr(token) for token, _ in feature["top_logits"][:5])
        print(f"{feature['id']:>6}  {feature['density']:>7.2%}  most at {_peak(feature)!r}, says {says}")
    print(finding.summary)


def _peak(feature: dict[str, Any]) -> str:
    example = feature["examples"][0]
    return str(example["tokens"][max(range(len(example["acts"])), key=example["acts"].__getitem__)])


def _load(path: Path) -> tuple[Run, Glass]:
    import glasshouse
    from glasshouse.runs import Run

    opened = Run.open(path)
    return opened, glasshouse.load(opened)


def _dictionary(run: Run, name: str) -> SAE:
    from glasshouse.sparse import load_sae

    folder = run.path / "dictionaries"
    if not (folder / name).is_dir():
        known = ", ".join(sorted(p.name for p in folder.glob("*/"))) if folder.is_dir() else ""
        raise GlasshouseError(
            f"{run.path} has no dictionary {name!r}: "
            + (f"it has {known}." if known else "train one with `glasshouse sae train`.")
        )
    return load_sae(folder / name)


def _held_out(run: Run, glass: Glass, count: int) -> list[Any]:
    import numpy as np

    from glasshouse.data import PackedTokens
    from glasshouse.interp import batched_windows

    tokens = PackedTokens.open(run.path, "validation")
    length = min(WINDOW, glass.net.length or WINDOW, len(tokens))
    return batched_windows(tokens, np.arange(max(1, min(count, len(tokens)) // length)), length)
