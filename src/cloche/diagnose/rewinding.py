"""Any step of a run rebuilt by replaying it, and checkpoints proved by replaying the steps before them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from cloche.errors import ArgumentInvalid, CheckpointMissing, ClocheError, FolderForeign, RunDamaged, require_whole
from cloche.model import load_network
from cloche.runs import Problem, Run
from cloche.train import Replay, aside, weights_hash

Progress = Callable[[float, float, str], None]


def _silent(done: float, total: float, note: str) -> None:
    pass


@dataclass(frozen=True)
class Rewound:
    """A step that was rebuilt: `path` of its checkpoint, the step `begun` from, and the hash of its `weights`. `logged`: the
    last step on the way whose hash in the log was the same; None if there is none.

    >>> from pathlib import Path
    >>> from cloche.diagnose import Rewound
    >>> Rewound(step=3, path=Path("run/checkpoints/step-000003"), begun=0, weights="0f" * 8, logged=3).path.name
    'step-000003'
    """

    step: int
    path: Path
    begun: int
    weights: str
    logged: int | None


def rewind(run: Run | Path | str, step: int, out: Path | None = None, on_progress: Progress = _silent) -> Rewound:
    """Rebuilds the weights and training state of any step of a run, and saves them as its checkpoint, or one in `out`.

    The nearest checkpoint before the step is trained on as the run was, bit for bit, and each step whose weights the log
    has a hash of is compared with it. Nothing is written into the logs. Raises ClocheError for a step that was not trained,
    and where the replay would not be exact or is not.

    >>> from pathlib import Path
    >>> from cloche.diagnose import rewind
    >>> from cloche.runs import Run
    >>> from cloche.train import Recipe, Trainer
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> recipe = Recipe().with_set({"data.paths": ["text.txt"], "tokenizer.vocab": 270, "run.steps": 4, "run.length": 16})
    >>> recipe = recipe.with_set({"run.threads": 1, "run.precision": "fp32", "evaluate.samples": 0, "evaluate.tokens": 64})
    >>> recipe = recipe.with_set({"model.width": 24, "model.body.depth": 1, "run.batch": 2, "checkpoint.count": 1})
    >>> trainer = Trainer.start(recipe.with_set({"log.every": 1}), Run.create("run", recipe.to_toml()))
    >>> for record in trainer:
    ...     pass
    >>> found = rewind("run", 3)
    >>> found.path.name, found.begun, found.logged
    ('step-000003', 0, 3)
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if out is not None:
        _require_own(out)
    saved, reached = run.checkpoints(), trained_steps(run)
    require_whole(least=0, step=step)
    if step > reached:
        raise ArgumentInvalid(
            f"{run.path} was trained to step {reached:,}, and has no step {step:,}: name an earlier one."
        )
    before = [checkpoint for checkpoint in saved if checkpoint.step <= step]
    if not before:
        raise CheckpointMissing(f"{run.path} has no checkpoint at or before step {step:,} to replay from; restore one.")
    nearest = before[-1]
    if nearest.step == step and out is None:
        net = load_network(nearest.path, check_files=True, check_sites=False)
        return Rewound(step, nearest.path, step, weights_hash(net), None)
    with aside():
        replay = Replay(run, nearest, step)
        replay.advance(step, lambda at: on_progress(at - nearest.step, step - nearest.step, f"step {at:,}"))
        if replay.differing:
            raise RunDamaged(
                f"Replaying {run.path} from {nearest.name} gives other weights at step {replay.differing[0]:,} than its log "
                "says: the checkpoint, the data or the log was changed, or this machine computes otherwise."
            )
        with run.training():
            path = replay.save(out)
        return Rewound(step, path, nearest.step, replay.weights, max(replay.compared, default=None))


def _require_own(folder: Path) -> None:
    """Raises FolderForeign for a folder that holds anything but checkpoints."""
    if folder.is_dir() and any(not (entry / "manifest.json").is_file() for entry in folder.iterdir()):
        raise FolderForeign(f"{folder} holds something other than checkpoints; name a new or empty --out.")


def trained_steps(run: Run) -> int:
    """The last step that a run is known to have trained."""
    logged = (int(record.get("step") or 0) for name in ("metrics", "events") for record in run.read_log(name))
    return max([*logged, *(checkpoint.step for checkpoint in run.checkpoints())], default=0)


def prove(
    run: Run | Path | str, count: int, seed: int = 0, on_progress: Progress = _silent
) -> tuple[list[str], list[Problem]]:
    """Replays the steps before `count` of a run's checkpoints, drawn by `seed`, from the checkpoint before each: the names of
    the checkpoints that were replayed, and the problems found.

    A checkpoint whose weights are not those that training from the one before gives is a problem, and so are hashes in the
    log on the way that are not. Raises ClocheError where a replay would not be exact.

    >>> from pathlib import Path
    >>> from cloche.diagnose import prove
    >>> from cloche.runs import Run
    >>> from cloche.train import Recipe, Trainer
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> recipe = Recipe().with_set({"data.paths": ["text.txt"], "tokenizer.vocab": 270, "run.steps": 2, "run.length": 16})
    >>> recipe = recipe.with_set({"run.threads": 1, "run.precision": "fp32", "evaluate.samples": 0, "evaluate.tokens": 64})
    >>> recipe = recipe.with_set({"model.width": 24, "model.body.depth": 1, "run.batch": 2, "checkpoint.count": 1})
    >>> for record in Trainer.start(recipe, Run.create("run", recipe.to_toml())):
    ...     pass
    >>> prove("run", 1)
    (['step-000002'], [])
    """
    run = run if isinstance(run, Run) else Run.open(run)
    require_whole(least=1, replay=count)
    saved = run.checkpoints()
    pairs = list(pairwise(saved))
    if not pairs:
        raise CheckpointMissing(f"{run.path} has fewer than two checkpoints, so there is nothing to replay.")
    chosen = sorted(random.Random(seed).sample(range(len(pairs)), min(count, len(pairs))))
    total, done = sum(pairs[i][1].step - pairs[i][0].step for i in chosen), 0
    names, problems = list[str](), list[Problem]()
    for first, last in (pairs[i] for i in chosen):
        with aside():
            replay = Replay(run, first, last.step)
            begin = done - first.step
            replay.advance(last.step, partial(_tell, on_progress, begin, total))
            done, names = done + last.step - first.step, [*names, last.name]
            problems += _problems(replay, first.name, last.name, last.path)
    return names, problems


def _tell(on_progress: Progress, begin: int, total: int, at: int) -> None:
    on_progress(begin + at, total, f"step {at:,}")


def _problems(replay: Replay, first: str, last: str, path: Path) -> list[Problem]:
    fix = "restore the run from a copy"
    found = []
    if replay.differing:
        step = replay.differing[0]
        what = f"says another hash of the weights at step {step:,} than training from {first} gives"
        found.append(Problem("log/metrics.jsonl", what, fix))
    try:
        stored = weights_hash(load_network(path, check_files=False, check_sites=False))
    except ClocheError as error:
        return [*found, Problem(f"checkpoints/{last}", f"cannot be loaded: {error}", fix)]
    if stored != replay.weights:
        what = f"does not have the weights that training from {first} gives"
        found.append(Problem(f"checkpoints/{last}/model.safetensors", what, fix))
    return found
