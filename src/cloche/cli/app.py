"""The command line: its commands, and what they share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated

import typer

from cloche import __version__
from cloche.cli.errors import INTERRUPTED, Stopped, recording_interrupts, report_error
from cloche.cli.help import Command, Group
from cloche.cli.looking.diff import diff
from cloche.cli.looking.evaluating import evaluate
from cloche.cli.looking.look import look
from cloche.cli.looking.open import open_microscope
from cloche.cli.looking.report import report_run
from cloche.cli.looking.sae import sae
from cloche.cli.looking.steer import steer
from cloche.cli.looking.tasks import tasks
from cloche.cli.looking.trace import trace
from cloche.cli.running.adopt import adopt
from cloche.cli.running.compare import compare
from cloche.cli.running.demo import demo
from cloche.cli.running.doctor import doctor
from cloche.cli.running.generate import generate
from cloche.cli.running.grow import pretrain, resume
from cloche.cli.running.recipe import print_recipe
from cloche.cli.running.rewind import rewind
from cloche.cli.running.verify import verify
from cloche.cli.running.why import why
from cloche.cli.signals.sindy import sindy
from cloche.cli.signals.sparse import sparse
from cloche.cli.streams import discard_output, flush_output, prepare_streams
from cloche.errors import ClocheError
from cloche.part import import_parts

# Rich help and pretty exceptions cost more start-up time than everything else together.
app = typer.Typer(
    name="cloche",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=Group,
    epilog="Example: cloche demo --minutes 2",
)
VERBS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "pretrain": pretrain,
    "resume": resume,
    "compare": compare,
    "adopt": adopt,
    "recipe": print_recipe,
    "report": report_run,
    "generate": generate,
    "eval": evaluate,
    "look": look,
    "trace": trace,
    "diff": diff,
    "steer": steer,
    "open": open_microscope,
    "why": why,
    "rewind": rewind,
    "verify": verify,
    "doctor": doctor,
    "sindy": sindy,
}
EXAMPLES = {
    "demo": "cloche demo --minutes 2",
    "pretrain": "cloche pretrain --data notes/ books/*.txt --minutes 30 --out runs/mine",
    "resume": "cloche resume runs/mine --set run.steps=20000",
    "compare": "cloche compare mine.toml --vary optimizer.lr=0.01,0.02 --seeds 3 --steps 200 --out runs/rates",
    "adopt": "cloche adopt EleutherAI/pythia-70m --revisions step1000 step3000 main=143000 --out runs/pythia",
    "recipe": "cloche recipe --set model.width=256 > mine.toml",
    "report": "cloche report runs/mine --out mine.html",
    "generate": "cloche generate runs/first 'def ' --new 64 --edit 'mlp_out[2].zero()'",
    "eval": "cloche eval runs/first --tasks Add Copy --shots 4",
    "look": "cloche look runs/first logit-lens prompt='def '",
    "trace": "cloche trace runs/first logit-lens",
    "diff": "cloche diff runs/first/checkpoints/step-000500 runs/first --out diff.html",
    "steer": "cloche steer runs/first polite.jsonl --out polite.safetensors",
    "open": "cloche open runs/first",
    "why": "cloche why runs/mine --prove",
    "rewind": "cloche rewind runs/mine 1234",
    "verify": "cloche verify runs/first --json",
    "doctor": "cloche doctor mine.toml --set model.body.depth=24",
    "sindy": "cloche sindy foxes.csv --time year --columns hare,lynx --simulate motion.csv",
}
for name, verb in VERBS.items():
    app.command(name, cls=Command, epilog=f"Example: {EXAMPLES[name]}")(verb)
app.add_typer(sparse, name="sparse")
app.add_typer(sae, name="sae")
app.add_typer(tasks, name="tasks")

MULTIPLE = (
    "--data",
    "--set",
    "--revisions",
    "--tasks",
)  # options that take all words up to the next, as a shell expands *


@app.callback(invoke_without_command=True)
def cloche(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Import a Python module with parts of your own, such as one in the current folder. May be repeated.",
        ),
    ] = None,
) -> None:
    """Grow language models under glass: train a tokenizer, pretrain, and at any step look inside."""
    import_parts(modules or ())
    if version:
        print(f"cloche {__version__}")
        raise typer.Exit


def expand_arguments(argv: Sequence[str]) -> list[str]:
    """The command line as typer reads it: `--data A B` becomes `--data A --data B`; --debug, --import and --json may stand
    anywhere.

    What follows `--` is left alone.
    """
    end = list(argv).index("--") if "--" in argv else len(argv)
    found: list[str] = []
    everywhere: list[str] = []  # options that typer reads before the command
    option: str | None = None
    early: list[str] = []  # options given before the command that typer reads after it
    given = iter(argv[:end])
    for word in given:
        if word == "--debug":
            continue
        if word == "--import" or word.startswith("--import="):
            everywhere.append(word if "=" in word else f"--import={next(given, '')}")
        elif word == "--json" and all(other.startswith("-") for other in found):
            early = [word]
        elif word.startswith("-") and word != "-":
            option = word if word in MULTIPLE else None
            found.append(word)
        elif option is not None and found[-1] != option:
            found += [option, word]
        else:
            found.append(word)
    return everywhere + found + early + list(argv[end:])


def main(argv: Sequence[str] | None = None) -> None:
    """The `cloche` command: runs one and exits with 0 for success, 1 for failure, 2 for a wrong command line, 130 if
    interrupted."""
    argv, interrupts = sys.argv[1:] if argv is None else argv, list[int]()
    # Read when torch is imported. If another process is running, threads that spin at a barrier for long starve the thread
    # that they wait for: training steps took ten times as long. Spinning briefly, then sleeping, costs nothing otherwise
    # (docs/log.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    prepare_streams()
    try:
        with recording_interrupts() as interrupts:
            code = app(expand_arguments(argv), prog_name="cloche", standalone_mode=False)
        flush_output()
        if code == INTERRUPTED:  # how typer reports a Ctrl-C that no command caught
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        discard_output()
        sys.exit(1)
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # some libraries raise outside Exception
        if interrupts and not isinstance(error, ClocheError | Stopped):
            error = KeyboardInterrupt()  # whatever a library turned it into
        code = report_error(error, debug="--debug" in argv, as_json="--json" in _before_dashes(argv))
        with suppress(OSError):
            flush_output()
        sys.exit(code)


def _before_dashes(argv: Sequence[str]) -> Sequence[str]:
    return argv[: list(argv).index("--")] if "--" in argv else argv
