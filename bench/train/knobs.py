"""Every stability knob moved alone, and what each monitor says of it, at a good learning rate and at four times that.

A model of three layers of width 48 learns tinyshakespeare (512 tokens, 100 steps of 8 rows of 64 tokens, AdamW). Every setting
is trained with the same three seeds as the baseline, which has eight. `cloche compare --monitors` does the same for any recipe.
Controls: a setting that changes nothing (`log.every`) must move every monitor by exactly 0, and the baseline with other seeds
must move about 5% of them beyond the limit.

    python -m bench.train.knobs --text tinyshakespeare.txt --out FOLDER     # the runs are kept there, and reused
    python -m bench.train.knobs --text tinyshakespeare.txt --out FOLDER --only high    # only the runs at one rate
    python -m bench.train.knobs --page 1                                    # only docs/stability.md, from the results
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from bench.rounds import RESULTS, asked, write
from bench.train.knob_claims import claims
from bench.train.knob_page import page
from cloche.diagnose import compare
from cloche.diagnose.responses import MONITORS, respond
from cloche.diagnose.variations import called
from cloche.drawing import Finding
from cloche.model import Declared, FanIn, Network
from cloche.train import Recipe

RATES = {"good": 0.01, "high": 0.04}
SEEDS, BASELINE_SEEDS, STEPS, DEPTH, WIDTH = 3, 8, 100, 3, 48
PAGE = Path(__file__).parents[2] / "docs" / "stability.md"
MIX = "Attention(heads=4, position=RoPE()"
BLOCK = "model.body.block"
Setting = dict[str, str]


@dataclass(frozen=True)
class Gained(FanIn):
    """FanIn with all matrices, or those that write to the stream, multiplied by a factor."""

    matrices: float = 1.0
    branches: float = 1.0

    def weights(self, normal: Tensor, declared: Declared, net: Network) -> Tensor:
        values = super().weights(normal, declared, net)
        if declared.group != "matrix":
            return values
        return values * self.matrices * (self.branches if declared.shard == "columns" else 1.0)


def knobs(rate: float) -> dict[str, dict[str, Setting]]:
    """{knob: {value: setting}}; `rate` is relative to the good one, for optimisers with rates of their own."""
    init, norm, mix, objective = "initialisation", f"{BLOCK}.norm", f"{BLOCK}.mix", "objective"
    post = {f"{BLOCK}.post": "RMSNorm()"}
    tokens = STEPS * 8
    return {
        "control": {"log.every 7": {"log.every": "7"}},
        "warm-up": {"none": {"schedule.warmup": "0"}, "20%": {"schedule.warmup": "0.2"}},
        "weight decay": {"none": {"optimizer.weight_decay": "0"}, "1": {"optimizer.weight_decay": "1"}},
        "clipping": {"none": {"optimizer.clip": "1e30"}, "at 0.1": {"optimizer.clip": "0.1"}},
        "initialisation": {
            "Normal(0.02)": {init: "Normal(std=0.02)"},
            "Xavier": {init: "Xavier()"},
            "Orthogonal": {init: "Orthogonal()"},
            "matrices x 3": {init: "Gained(matrices=3.0)"},
        },
        "branch scale": {
            "not divided by the depth": {init: f"Gained(branches={(2 * DEPTH) ** 0.5:.4f})"},
            "a quarter": {init: "Gained(branches=0.25)"},
        },
        "norm": {
            "LayerNorm": {norm: "LayerNorm()"},
            "none": {norm: "NoNorm()"},
            "post": {norm: "NoNorm()", **post},
            "pre and post": post,
        },
        "softmax": {
            "scores x 4": {mix: f"ScoredAttention({MIX}), scale={4 / (WIDTH / 4) ** 0.5:.4f})"},
            "scores capped at 5": {mix: f"ScoredAttention({MIX}), cap=5.0)"},
            "qk_norm": {f"{mix}.qk_norm": "RMSNorm()"},
            "logits capped at 10": {"model.head.cap": "10.0"},
        },
        "precision": {"bf16": {"run.precision": "bf16"}},
        "depth x width": {
            "1 x 72": {"model.body.depth": "1", "model.width": "72"},
            "8 x 32": {"model.body.depth": "8", "model.width": "32"},
        },
        "activation": {name: {f"{BLOCK}.map.activation": name} for name in ("relu", "relu2", "gelu")},
        "batch": {f"{n} rows": {"run.batch": f"{n}", "run.steps": f"{tokens // n}"} for n in (2, 32)},
        "length": {f"{n} tokens": {"run.length": f"{n}", "run.batch": f"{8 * 64 // n}"} for n in (16, 256)},
        "regularisation": {
            "L1 1e-5": {objective: "Penalised(NextToken(), (L1(weight=1e-5),))"},
            "L2 1e-4": {objective: "Penalised(NextToken(), (L2(weight=1e-4),))"},
            "activations 1e-3": {objective: "Penalised(NextToken(), (ActivationL1(weight=1e-3),))"},
            "smoothing 0.1": {"objective.smoothing": "0.1"},
            "z-loss 1e-2": {"objective.z_loss": "0.01"},
        },
        "optimiser": {
            "Muon": {"optimizer": f"Muon(lr={0.02 * rate:g})"},
            "SGD": {"optimizer": f"SGD(lr={0.1 * rate:g})"},
            "RMSprop": {"optimizer": f"RMSprop(lr={0.003 * rate:g})"},
        },
    }


def baseline(text: str, lr: float, steps: int = STEPS) -> Recipe:
    return Recipe().with_set(
        {
            **{"data.paths": [text], "tokenizer.vocab": 512, "model.width": WIDTH, "model.body.depth": DEPTH},
            **{f"{BLOCK}.mix.heads": 4, "optimizer": f"AdamW(lr={lr})", "run.length": 64, "run.batch": 8},
            **{
                "run.steps": steps,
                "run.threads": 1,
                "run.precision": "fp32",
                "log.every": 10,
                "log.health_every": min(10, max(1, steps // 2)),
            },
            **{"evaluate.samples": 0, "evaluate.validations": 1, "evaluate.tokens": 16384, "checkpoint.count": 1},
        }
    )


def measured(
    recipe: Recipe, named: Mapping[str, Setting], folder: Path, seeds: int = SEEDS, many: int = BASELINE_SEEDS
) -> dict[str, Any]:
    """The recipe and all settings by name, the first of which is the control: bits per byte with their verdicts, and monitors
    by seed."""
    control = next(iter(named.values()))
    first = compare(recipe, [{}, control], folder, seeds=many, monitors=True)
    finding = compare(recipe, [{}, *named.values()], folder, seeds=seeds, monitors=True)
    rows = []
    for name, setting, scores in zip(
        ["baseline", *named], [{}, *named.values()], finding.data["settings"], strict=True
    ):
        kept = {key: scores[key] for key in ("mean", "difference", "difference_half", "verdict", "diverged")}
        trained = [each for each in finding.data["runs"] if each["setting"] == called(setting)]
        of_runs = {"runs": [each["run"] for each in trained], "bits": [each["bits_per_byte"] for each in trained]}
        source = finding if setting else first
        rows.append({"name": name, "setting": setting, **kept, **of_runs, "values": by_seed(source, called(setting))})
    return {"lr": recipe.optimizer.lr, "settings": rows, "moved_by_other_seeds": moved_by_other_seeds(rows[0], seeds)}


def by_seed(finding: Finding, setting: str) -> dict[str, list[float | None]]:
    """What each monitor says of the runs of a setting, in the order of their seeds."""
    runs = sorted((each for each in finding.data["runs"] if each["setting"] == setting), key=lambda each: each["seed"])
    return {name: [_rounded(each["monitors"][name]) for each in runs] for name in MONITORS}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def moved_by_other_seeds(baseline: Mapping[str, Any], seeds: int) -> float:
    """Share of monitors that the baseline moves beyond the limit if so many other seeds take the place of as many."""
    found = []
    for name in MONITORS:
        first = dict(enumerate(baseline["values"][name]))
        for some in combinations(first, seeds):
            others = [seed for seed in first if seed not in some][:seeds]
            found.append(respond(first, {a: first[b] for a, b in zip(some, others, strict=True)}).moved)
    return fmean(found)


def at_rate(text: str, name: str, folder: Path) -> dict[str, Any]:
    """All knobs at one of the rates."""
    given = knobs(RATES[name] / RATES["good"])
    named = {f"{knob}: {value}": setting for knob, values in given.items() for value, setting in values.items()}
    return measured(baseline(text, RATES[name]), named, folder / name)


def main() -> None:
    options = asked(__doc__, text="tinyshakespeare.txt", out="knobs", threads=1, only="", page=0)
    if options.only:
        at_rate(options.text, options.only, Path(options.out))
        return
    if not options.page:
        begin = time.process_time()
        rates = {name: at_rate(options.text, name, Path(options.out)) for name in RATES}
        trained = time.process_time() - begin
        said = claims({name: rate["settings"] for name, rate in rates.items()}, Path(options.out), Path(options.text))
        record = {"steps": STEPS, "seeds": SEEDS, "baseline_seeds": BASELINE_SEEDS, "rates": rates, "claims": said}
        write("knobs", {**record, "cpu_seconds": round(trained)}, "torch")
    PAGE.write_text(page(json.loads((RESULTS / "knobs.json").read_text())))


if __name__ == "__main__":
    main()
