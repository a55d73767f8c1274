"""`cloche sae`: dictionaries of a run's activations."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloche.cli.help import Command, group
from cloche.cli.options import LARGEST_SEED, AsJson, RunFolder
from cloche.cli.outputs import TrainedDictionary
from cloche.cli.streams import emit
from cloche.errors import ClocheError, DictionaryMissing
from cloche.files import refuse_existing

if TYPE_CHECKING:
    from cloche.glass import Glass
    from cloche.interp import Finding
    from cloche.runs import Run

sae = group("Train, measure and read sparse autoencoders of a run.", "cloche sae train runs/first")

Name = Annotated[
    str,
    typer.Argument(metavar="[NAME]", help="A dictionary of the run; needed if it has several.", show_default=False),
]
Tokens = Annotated[int, typer.Option(metavar="N", help="Held-out tokens to read.")]


@sae.command(cls=Command, epilog="Example: cloche sae train runs/first --site 'resid_post[3]' --kind BatchTopK --l0 24")
def train(
    run: RunFolder,
    site: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="A site, such as resid_post[2] (by default after the middle layer); 'mlp_in[2] -> mlp_out[2]' trains a "
            "transcoder, 'resid_post[1] + resid_post[2]' or 'resid_post[2] + step-000100/resid_post[2]' a crosscoder.",
        ),
    ] = None,
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="TopK, BatchTopK, ReLU, Gated, JumpReLU, or a kind of your own.")
    ] = "TopK",
    features: Annotated[
        int | None, typer.Option(metavar="N", max=10**7, help="Number of features; by default eight times the width.")
    ] = None,
    l0: Annotated[float | None, typer.Option(metavar="L0", help="Active features per token, on average.")] = None,
    tokens: Annotated[
        int, typer.Option(metavar="N", max=10**12, help="Tokens of training text to learn from.")
    ] = 204_800,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the dictionary; by default that of the site.")
    ] = "",
    seed: Annotated[
        int,
        typer.Option(metavar="SEED", min=0, max=LARGEST_SEED, help="Seed of the text that is read and of the weights."),
    ] = 0,
    skip: Annotated[bool, typer.Option("--skip", help="Add a linear skip connection to a transcoder.")] = False,
    end_to_end: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            max=100,
            help="Share of the training, such as 0.1, to repeat on the loss of the model with the reconstruction in place.",
        ),
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Train a dictionary on a site of a run.

    The activations are those of the last checkpoint; the dictionary goes to RUN/dictionaries/NAME. --kind may have
    settings: "BatchTopK(nested=[256, 1024])", "JumpReLU(bandwidth=0.01)".

    An existing dictionary is never overwritten. If training was interrupted, the same command resumes it. Under torchrun
    (torchrun --nproc-per-node 2 -m cloche sae train RUN) the processes share each batch.
    """
    from cloche.cli.progress import Screen
    from cloche.data import PackedTokens
    from cloche.interp import DictionaryConfig, TokenBudget, dictionary_name, others_of, train_dictionary
    from cloche.part import part_from_line
    from cloche.sparse import Kind

    value = part_from_line(kind, Kind, "--kind")
    opened, glass = _load(run)
    config = DictionaryConfig(
        site=site,
        kind=value,
        features=features,
        k=l0,
        budget=TokenBudget(tokens=tokens),
        skip=skip,
        end_to_end=end_to_end,
    )
    name = name or dictionary_name(glass, config)
    text, others = PackedTokens.open(opened.path, "train"), others_of(opened, site)
    message = ""
    with _process_group() as first, _exclusive(opened, name) if first else nullcontext():
        steps = train_dictionary(opened, glass, text, seed, config, name, others)
        if not first:
            list(steps)
            return
        screen = Screen(stderr=as_json)
        with screen.bar("dictionary") as update:
            for progress in steps:
                update(progress.done, progress.total, progress.message)
                message = progress.message
        if not as_json:
            screen.print(f"{message}; it is in {run}/dictionaries/{name}")
            return
    emit(_trained(opened, name, message))


@sae.command(cls=Command, epilog="Example: cloche sae report runs/first resid_post_3")
def report(
    run: RunFolder,
    name: Name = "",
    tokens: Tokens = 49_152,
    probe: Annotated[
        int, typer.Option(metavar="N", help="Held-out tokens for sparse probes of a few features; 0 skips them.")
    ] = 10_240,
    as_json: AsJson = False,
) -> None:
    """Measure a dictionary on held-out text.

    Measures what it explains, how much of that its encoder misses, and how much of the model's loss is recovered if the
    reconstruction replaces the activations; the sparsity of the model's own neurons per layer; and how well a few features,
    or a few neurons, predict properties of a token. The findings are saved in the run, where the microscope shows them.
    """
    from cloche.interp import (
        activation_density,
        dictionary_report,
        held_out,
        open_dictionary,
        others_of,
        sparse_probing,
    )

    opened, glass = _load(run)
    name = name or _only_dictionary(opened)
    learned, windows = open_dictionary(opened, name), held_out(opened, glass, tokens)
    others = others_of(opened, learned.trained_on.site)
    asked: list[Callable[[], Finding]] = [lambda: activation_density(glass, windows)]
    if probe and not others:  # probes read one model
        asked.append(lambda: sparse_probing(glass, held_out(opened, glass, probe), sae=learned, name=name))
    findings = [dictionary_report(glass, learned, windows, name, others)]
    findings[0].save(opened)
    for instrument in asked:
        try:
            findings.append(instrument())
        except ClocheError as error:  # this model or so little text does not allow it; the other findings stay
            print(f"left out: {error}", file=sys.stderr)
        else:
            findings[-1].save(opened)
    if as_json:
        emit({finding.instrument: finding.data for finding in findings})
        return
    for finding in findings:
        print(f"{finding.text()}\n")


@sae.command(cls=Command, epilog="Example: cloche sae features runs/first resid_post_3 --count 100")
def features(
    run: RunFolder,
    name: Name = "",
    count: Annotated[int, typer.Option(metavar="N", help="Number of features, the most informative first.")] = 40,
    tokens: Tokens = 49_152,
    as_json: AsJson = False,
) -> None:
    """Read held-out text with a dictionary.

    Saves its most informative features as a finding in the run, which the microscope shows.
    """
    from cloche.interp import features_report, held_out, open_dictionary, others_of

    opened, glass = _load(run)
    name = name or _only_dictionary(opened)
    learned, windows = open_dictionary(opened, name), held_out(opened, glass, tokens)
    finding = features_report(glass, learned, windows, name, count, others_of(opened, learned.trained_on.site))
    finding.save(opened)
    if as_json:
        emit({"run": str(run), "finding": finding.id, "summary": finding.summary} | finding.data)
        return
    for feature in finding.data["features"]:
        raised = " ".join(repr(token) for token, _ in feature["top_logits"][:5])
        print(f"{feature['id']:>6}  {feature['density']:>7.2%}  strongest at {_peak(feature)!r}, promotes {raised}")
    print(finding.summary)


def _peak(feature: dict[str, Any]) -> str:
    example = feature["examples"][0]
    return str(example["tokens"][max(range(len(example["acts"])), key=example["acts"].__getitem__)])


def _load(path: Path) -> tuple[Run, Glass]:
    import cloche
    from cloche.runs import Run

    opened = Run.open(path)
    return opened, cloche.load(opened)


@contextmanager
def _process_group() -> Iterator[bool]:
    """Joins the processes that torchrun started, if any; yields whether this is the first of them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    from cloche.ranks import process_group

    with process_group() as ranks:
        yield ranks.rank == 0


def _only_dictionary(run: Run) -> str:
    """The name of the run's only dictionary. Raises ClocheError if there are none or several."""
    known = sorted(path.name for path in (run.path / "dictionaries").glob("[!.]*/"))
    if not known:
        raise DictionaryMissing(f"{run.path} has no dictionary: train one with `cloche sae train {run.path}`.")
    if known[1:]:
        raise DictionaryMissing(f"{run.path} has several dictionaries; name one of them: {', '.join(known)}.")
    return known[0]


@contextmanager
def _exclusive(run: Run, name: str) -> Iterator[None]:
    """Keeps other processes from training a dictionary of this name in the run. Raises ClocheError if there is one already."""
    with run.training_dictionary(name):
        refuse_existing(run.path / "dictionaries" / name, "choose another --name")
        yield


def _trained(run: Run, name: str, message: str) -> TrainedDictionary:
    """A dictionary of the run, as --json prints it."""
    from cloche.interp import open_dictionary

    learned = open_dictionary(run, name)
    return {
        "run": str(run.path),
        "dictionary": name,
        "path": str(run.path / "dictionaries" / name),
        "site": learned.trained_on.site,
        "checkpoint": learned.trained_on.checkpoint,
        "kind": str(learned.kind),
        "wiring": learned.wiring.name,
        "features": learned.features,
        "l0": learned.l0,
        "message": message,
    }
