"""The runs of a comparison: one folder each, made once, reused and resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloche.diagnose.variations import Setting, called, folder_name
from cloche.errors import NotFinite, ResumeRefused, RunExists
from cloche.files import remove, to_json, write_atomically
from cloche.runs import Run, take
from cloche.train import Recipe, Trainer, is_finished, prepare_data

CARD = "compare.json"
DECIDED = ("run.steps", "run.threads", "run.device", "run.precision")  # by the first run, for all
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class Outcome:
    """A run at its end: bits per byte of held-out text, or None if it diverged; then `message` says where."""

    setting: str
    seed: int
    run: Path
    steps: int
    seconds: float
    bits_per_byte: float | None
    message: str = ""


class Trials:
    """A folder with the runs of a comparison. Raises ClocheError for a folder with another one."""

    def __init__(self, folder: Path, recipe: Recipe, budget: dict[str, float]) -> None:
        self.folder, self.recipe, self.budget = folder, recipe, budget
        self.decided: dict[str, Any] = {}
        self.data: dict[str, str] = {}  # hash of [data] and [tokenizer] -> the run that has them prepared
        card = {"recipe": recipe.to_toml(), **budget}
        if (folder / CARD).is_file():
            kept = _read(folder / CARD)
            self.decided, self.data = kept.pop("decided", {}), kept.pop("data", {})
            if kept != card:
                self._begin_again()
        elif folder.exists() and (folder.is_file() or any(folder.iterdir())):
            raise RunExists(f"{folder} exists already and holds no comparison; name a new or empty --out.")
        else:
            folder.mkdir(parents=True, exist_ok=True)
        self._card = card
        self._write()

    def _write(self) -> None:
        write_atomically(
            self.folder / CARD, to_json({**self._card, "decided": self.decided, "data": self.data}, indent=1)
        )

    def _begin_again(self) -> None:
        """Removes what a comparison left that trained nothing."""
        if next(self.folder.glob("*/checkpoints/step-*"), None) is not None:
            raise RunExists(
                f"{self.folder} holds a comparison of another recipe, --steps or --minutes; name another --out."
            )
        self.decided, self.data = {}, {}
        for path in self.folder.glob("*-seed*"):
            remove(path)

    def recipe_of(self, setting: Setting, seed: int) -> Recipe:
        """The recipe of one run. What is varied overrides what the first run decided."""
        changes = {**{f"run.{key}": value for key, value in self.budget.items()}, **self.decided}
        if "run.steps" in changes:
            changes.pop("run.minutes", None)
        return self.recipe.with_set(changes | dict(setting) | {"run.seed": seed})

    def outcome(self, setting: Setting, seed: int, told: Progress) -> Outcome:
        """Trains a run to its end, or reads the one that is there. Raises KeyboardInterrupt after Ctrl-C, once a checkpoint
        is saved."""
        run = self._run(setting, seed)
        if (ended := self._ended(run, setting, seed)) is not None:
            return ended
        try:
            trainer = self._trainer(run, setting, seed)
            for record in trainer:
                if record["log"] == "metrics":
                    told(trainer.step, trainer.steps, f"{called(setting)} seed {seed}")
        except NotFinite as error:
            return self._diverged(run, setting, seed, str(error))
        except ResumeRefused as error:  # weights that are not finite are not saved
            if "not finite" not in str(error):
                raise
            return self._diverged(run, setting, seed, str(error))
        if trainer.interrupted and trainer.step < trainer.steps:
            raise KeyboardInterrupt
        ended = self._ended(run, setting, seed)
        assert ended is not None
        return ended

    def _run(self, setting: Setting, seed: int) -> Run:
        path = self.folder / folder_name(setting, seed)
        if (path / "recipe.toml").is_file():
            return Run.open(path)
        return Run.create(path, self.recipe_of(setting, seed).to_toml(), seed)

    def _trainer(self, run: Run, setting: Setting, seed: int) -> Trainer:
        if run.checkpoints():
            return Trainer.resume(run)
        recipe = self.recipe_of(setting, seed)
        self._give_data(run, recipe)
        trainer = Trainer.start(recipe, run)
        if not self.decided:
            self.decided = {key: getattr(trainer.recipe.run, key.partition(".")[2]) for key in DECIDED}
            self._write()
            trainer = Trainer.start(self.recipe_of(setting, seed), run)  # without the minutes: nothing is re-planned
        return trainer

    def _give_data(self, run: Run, recipe: Recipe) -> None:
        """Links the tokenizer and tokens of a run here that has the same [data] and [tokenizer], or prepares them."""
        data, key = run.path / "data", _corpus(recipe)
        if (data / "data.json").exists():
            return
        source = self.folder / self.data.get(key, run.path.name)
        if (source / "data" / "data.json").exists():
            for left in (data, *(run.path / name for name in TOKENIZER)):
                remove(left)
            data.mkdir()
            files = sorted((source / "data").iterdir(), key=lambda path: (path.name == "data.json", path.name))
            for path in (*(source / name for name in TOKENIZER), *files):  # data.json last: it says that all is there
                take(path, run.path / path.relative_to(source))
        prepare_data(recipe, run)
        if key not in self.data:
            self.data[key] = run.path.name
            self._write()

    def _ended(self, run: Run, setting: Setting, seed: int) -> Outcome | None:
        """The outcome of a run that finished or diverged; None if it has to go on."""
        saved = run.checkpoints()
        if saved and is_finished(run, saved[-1].step):
            scores = [record for record in run.read_log("metrics") if "val_bpb" in record]
            last = scores[-1]
            return Outcome(called(setting), seed, run.path, last["step"], last["time"], last["val_bpb"])
        events = run.read_log("events")
        if events and events[-1]["kind"] == "nonfinite":
            return self._diverged(run, setting, seed, events[-1]["message"])
        return None

    def _diverged(self, run: Run, setting: Setting, seed: int, message: str) -> Outcome:
        last = run.read_log("events")[-1]
        return Outcome(called(setting), seed, run.path, last["step"], last["time"] or 0.0, None, message)


def _read(card: Path) -> dict[str, Any]:
    try:
        found = json.loads(card.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RunExists(f"{card} is not readable as the card of a comparison; name another --out.")
    return found


def _corpus(recipe: Recipe) -> str:
    """A hash of what decides the tokenizer and the packed tokens."""
    values = recipe.to_dict()
    text = json.dumps([values["data"], values["tokenizer"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
