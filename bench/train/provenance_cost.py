"""Share of training time taken by hashing the weights for the log: `python -m bench.train.provenance_cost`."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cloche.runs import Run
from cloche.train import Recipe, Trainer, weights_hash

RESULTS = Path(__file__).resolve().parents[1] / "results" / "provenance_cost.json"
STEPS = 8


def main() -> None:
    with TemporaryDirectory() as folder:
        recipe = Recipe().with_set({"run.steps": STEPS, "run.threads": 1, "run.precision": "fp32"})
        trainer = Trainer.start(recipe, Run.create(Path(folder) / "run", recipe.to_toml()))
        trainer.update()
        steps, hashes = [], []
        for _ in range(STEPS):  # in turn, so that a busy machine slows both
            for seconds, action in ((steps, trainer.update), (hashes, lambda: weights_hash(trainer.net))):
                begin = time.process_time()
                action()
                seconds.append(time.process_time() - begin)
    step, taken = statistics.median(steps), statistics.median(hashes)
    found = {
        "parameters": sum(p.numel() for p in trainer.net.parameters()),
        "step_cpu_seconds": step,
        "hash_cpu_seconds": taken,
        "share": taken / (step * recipe.log.every),
        "torch": str(torch.__version__),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
