"""`cloche pretrain` and `resume`, and the stages that they share with `demo`: prepare, train, look inside.

Each stage leaves its result in the run folder and is skipped if it is already there, so that the same stages serve a new
run and one that was stopped anywhere.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloche.cli.errors import Stopped, resumable
from cloche.cli.options import AsJson, Data, Encoding, Field, Glob, RunFolder, Sets
from cloche.cli.outputs import RunOutcome
from cloche.cli.running.inside import is_done, is_wanted, look
from cloche.cli.streams import emit
from cloche.errors import ArgumentRange, RecipeInvalid, SettingConflict

if TYPE_CHECKING:
    from cloche.cli.progress import Screen
    from cloche.runs import Run
    from cloche.train import Recipe, Trainer

TEXTS = (".txt", ".md", ".py", ".jsonl", ".parquet", ".gz", ".zst")  # formats of text, which are not recipes
HEAD = 32  # width of a head in the default recipe


def pretrain(
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to create.")],
    recipe: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RECIPE]", help="A .toml file; `cloche recipe` prints the defaults of what it leaves out."
        ),
    ] = None,
    data: Data = None,
    glob: Glob = None,
    field: Field = None,
    encoding: Encoding = None,
    model: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN|FOLDER", help="Start from the weights and the tokenizer of this model."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(metavar="N", help="Train for about N minutes.")] = None,
    width: Annotated[
        int | None, typer.Option(metavar="N", help="Width of the model; what depends on it is derived.")
    ] = None,
    depth: Annotated[int | None, typer.Option(metavar="N", help="Number of blocks.")] = None,
    heads: Annotated[int | None, typer.Option(metavar="N", help="Attention heads per block.")] = None,
    vocab: Annotated[int | None, typer.Option(metavar="N", help="Size of the vocabulary.")] = None,
    report: Annotated[
        bool | None,
        typer.Option(
            "--report/--no-report",
            help="Look inside at the end: a dictionary, a lens and report.html. By default if training takes at most "
            "30 minutes.",
        ),
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Grow a model from your text.

    The recipe has all settings; options and --set change some of them.
    """
    if minutes is not None and not minutes > 0:
        raise ArgumentRange(f"--minutes is {minutes:g}, but must be above 0: give a larger number.")
    start = read_recipe(recipe or [])
    chosen = {
        "data.glob": glob,
        "data.field": field,
        "data.encoding": encoding,
        "run.minutes": minutes,
        "evaluate.look": report,
        "data.paths": absolute(data),
        **sizes(start, width, depth, heads, vocab),
    }
    changes = {key: value for key, value in chosen.items() if value is not None} | settings(sets)
    whole, parent = start.with_set(changes), None
    if model is not None:
        whole, parent = _from_model(model, start, whole, changes)
    _start_and_finish(out, whole, as_json, parent)


def _from_model(
    model: str, start: Recipe, whole: Recipe, changes: dict[str, Any]
) -> tuple[Recipe, dict[str, str] | None]:
    """The recipe with the model and tokenizer of --from, and its lineage. Raises ClocheError for settings that it would
    silently replace."""
    from cloche.train import Recipe, begin_from

    if {key.partition(".")[0] for key in changes} & {"model", "tokenizer"}:
        raise SettingConflict(
            "--from takes the model as it is: leave out --width, --depth, --heads, --vocab and settings of [model] or "
            "[tokenizer]."
        )
    begun, parent = begin_from(model, whole)
    if start.model not in (Recipe().model, begun.model):
        raise RecipeInvalid(
            f"--from takes the model of {model}, but [model] or [tokenizer] of the recipe file differs: leave it out."
        )
    return begun, parent


def read_recipe(given: list[Path]) -> Recipe:
    """The recipe file given on the command line, after importing the modules that it names; the default recipe without one."""
    from cloche.train import Recipe

    texts = [path for path in given if path.is_dir() or path.suffix.lower() in TEXTS]
    if texts or len(given) > 1:
        named = f"{given[0]} and {len(given) - 1} more are" if len(given) > 1 else f"{given[0]} is"
        raise RecipeInvalid(f"{named} text, but a recipe is one .toml file: put --data before files to read.")
    return Recipe.load(given[0], with_imports=True) if given else Recipe()


def sizes(
    recipe: Recipe, width: int | None, depth: int | None, heads: int | None, vocab: int | None
) -> dict[str, int | None]:
    """Settings of a model's sizes. Heads that do not divide the width are reduced to the largest number that does, at least
    32 wide."""
    before = getattr(getattr(getattr(recipe.model.body, "block", None), "mix", None), "heads", None)
    if width is not None and width > 0 and heads is None and before is not None and width % before:
        heads = max(count for count in range(1, max(1, width // HEAD) + 1) if width % count == 0)
    return {
        "model.width": width,
        "model.body.depth": depth,
        "model.body.block.mix.heads": heads,
        "tokenizer.vocab": vocab,
    }


def resume(run: RunFolder, sets: Sets = None, as_json: AsJson = False) -> None:
    """Continue a stopped run exactly where it was."""
    from cloche.cli.progress import Screen
    from cloche.runs import Run

    opened = Run.open(run)
    screen = Screen(stderr=as_json)
    with opened.training():
        run_stages(opened, screen, settings(sets), ["cloche", *sys.argv[1:]])
    print_outcome(opened, screen, as_json)


def _start_and_finish(out: Path, recipe: Recipe, as_json: bool, parent: dict[str, str] | None = None) -> None:
    from cloche.cli.progress import Screen

    screen = Screen(stderr=as_json)
    run = start_run(out, recipe, screen, parent)
    print_outcome(run, screen, as_json)


def start_run(out: Path, recipe: Recipe, screen: Screen, parent: dict[str, str] | None = None) -> Run:
    """Creates a run and takes it through its stages. A run that turns out to be impossible leaves nothing behind."""
    from cloche.runs import Run
    from cloche.train import check_recipe

    check_recipe(recipe, padded=parent is not None)  # reports now, not after an hour of reading, what cannot be trained
    with Run.making(out, recipe.to_toml(), recipe.run.seed, ["cloche", *sys.argv[1:]], parent) as run:
        run_stages(run, screen)
    return run


def absolute(paths: list[Path] | None) -> list[str] | None:
    """Paths as the recipe stores them, so that a run can be resumed from any folder."""
    return [os.path.abspath(path.expanduser()) for path in paths] if paths else None


def settings(sets: list[str] | None) -> dict[str, str]:
    """Reads ["run.steps=200"] as {"run.steps": "200"}."""
    found = {}
    for text in sets or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RecipeInvalid(f"--set {text}: write it as section.key=value, such as run.steps=200.")
        found[key.strip()] = value.strip()
    return found


# ---- the stages


def run_stages(run: Run, screen: Screen, changes: dict[str, Any] | None = None, command: Sequence[str] = ()) -> None:
    """Prepares, trains and, if the recipe says so, looks inside; skips what is already done.

    `command` is the command line that is added to run.json once everything has been accepted.
    """
    from cloche.train import Recipe

    with resumable(run.path):
        recipe = Recipe.parse(run.recipe, f"{run.path}/recipe.toml").with_set(changes or {})
        wanted = recipe.evaluate.look or (is_wanted(run, recipe) and bool(run.checkpoints()) and not is_done(run))
        if wanted and is_trained(run) and set(changes or {}) <= {"evaluate.look"}:
            run.write_bytes("recipe.toml", recipe.to_toml().encode())
        else:
            train(run, recipe, screen, changes or {}, command)
        if is_wanted(run, recipe):
            look(run, recipe, screen)


def is_trained(run: Run) -> bool:
    """Whether the last step is saved, and the log says that training finished with it."""
    from cloche.train import is_finished

    saved = run.checkpoints()
    last = saved[-1].step if saved else -1
    return last >= 0 and is_finished(run, last)


def train(run: Run, recipe: Recipe, screen: Screen, changes: dict[str, Any], command: Sequence[str] = ()) -> None:
    """Prepares data and tokenizer, then trains. Raises Stopped if the user interrupts, once the checkpoint is saved."""
    prepare(run, recipe, screen)
    trainer = _trainer(run, recipe, screen, changes)
    if command:
        run.add_command(command)
    training = screen.follow(trainer, trainer.steps)
    if trainer.interrupted and training.ended == "stopped":
        raise Stopped(f"Stopped at step {trainer.step:,}; go on with: cloche resume {run.path}")


def prepare(run: Run, recipe: Recipe, screen: Screen) -> None:
    """Makes the tokenizer and the packed corpus, unless they exist."""
    from cloche.train import prepare_data

    if (run.path / "data" / "data.json").exists():
        return
    names = {
        "measuring": "measuring",
        "comparing": "comparing documents",
        "tokenizer": "reading text for the tokenizer",
        "packing": "packing tokens",
    }
    with screen.bar("preparing") as update:
        prepare_data(recipe, run, lambda stage, done, total: update(done, total, f"{names[stage]} {done / 1e6:.0f} MB"))
    data = json.loads((run.path / "data" / "data.json").read_bytes())
    sides = ", ".join(
        f"{side['tokens']:,} tokens of {side['documents']:,} documents to {verb}"
        for side, verb in ((data["splits"]["train"], "train on"), (data["splits"]["validation"], "validate on"))
    )
    sources = data["sources"]
    forms = {form: count for form, count in sources["formats"].items() if form != "text"}
    also = f" ({', '.join(f'{count:,} as {form}' for form, count in forms.items())})" if forms else ""
    screen.print(f"read {sources['files']:,} files{also}: {sides}")
    for part in data["splits"]["train"].get("mixture", ()):
        screen.print(f"{part['name']}: {part['tokens']:,} tokens of {part['documents']:,} documents to train on")
    screen.print(f"held out for validation: {sources['split']}")
    if found := sources.get("duplicates"):
        first = ", ".join(found.get("names", [])[:3]) or "none"
        more = "; data/data.json names up to 20" if found["documents"] > 3 else ""
        screen.print(
            f"left out {found['documents']:,} duplicates of {found['bytes']:,} bytes, by {found['rule']}: {first}{more}"
        )
    if recipe.tokenizer.path is None and data["vocab"] < recipe.tokenizer.vocab:
        asked = f"{recipe.tokenizer.vocab:,} were asked for"
        screen.print(
            f"the tokenizer has {data['vocab']:,} tokens, although {asked}: the text has no more pairs to merge"
        )
    if sources.get("invalid_utf8"):
        screen.print(
            f"{sources['invalid_utf8']:,} invalid UTF-8 sequences were replaced; data/data.json names the files"
        )


def _trainer(run: Run, recipe: Recipe, screen: Screen, changes: dict[str, Any]) -> Trainer:
    from cloche.train import Trainer

    if recipe.run.steps is None and not run.checkpoints():
        screen.print(f"measuring how many steps fit into {recipe.run.minutes:g} minutes")
    trainer = Trainer.resume(run, changes)
    parameters = sum(parameter.numel() for parameter in trainer.net.parameters())
    screen.print(f"growing {parameters / 1e6:.1f}M parameters for {trainer.steps:,} steps in {run.path}")
    return trainer


# ---- the end


def summary(run: Run) -> RunOutcome:
    """The state of a run, from its logs."""
    metrics: dict[str, Any] = {}
    for record in run.read_log("metrics"):
        metrics |= record
    last = run.checkpoint("last")
    ended = [record["kind"] for record in run.read_log("events") if record["kind"] in ("finished", "stopped")]
    return {
        "run": str(run.path),
        "checkpoint": last.name,
        "step": last.step,
        "finished": ended[-1:] == ["finished"],
        "seconds": metrics.get("time"),
        "loss": metrics.get("loss"),
        "val_loss": metrics.get("val_loss"),
        "val_bpb": metrics.get("val_bpb"),
        "tokens": metrics.get("tokens"),
        "flops": metrics.get("flops"),
        "tokens_per_second": metrics.get("tokens_per_second"),
        "mfu": metrics.get("mfu"),
        "report": str(run.path / "report.html") if (run.path / "report.html").exists() else None,
    }


def print_outcome(run: Run, screen: Screen, as_json: bool) -> None:
    """Prints the result, and the commands to type next."""
    result = summary(run)
    if as_json:
        emit(result)
        return
    if result["val_bpb"] is not None:
        screen.print(f"{result['step']:,} steps, {result['val_bpb']:.3f} bits per byte on held-out text", "bold")
    screen.print("Next:")
    screen.print(f"  cloche open {shlex.quote(str(run.path))}")
    if prompt := next(
        (record["prompt"] for record in run.read_log("samples")), None
    ):  # none of a model that cannot continue
        screen.print(f"  cloche generate {shlex.quote(str(run.path))} {shlex.quote(prompt)}")
