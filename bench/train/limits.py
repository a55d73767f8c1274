"""Limits of the measures of health, by optimiser: their ranges in healthy tiny runs, and what broken ones exceed.

    python -m bench.train.limits [--records FILE] [--runs FOLDER] [--steps 200] [--every 10] [--threads 1]

Healthy runs: four bodies (gated, relu with LayerNorm, experts, attention beside the map) of two or three layers and width 48 on
the standard library's text, each with six optimisers at a good rate and at a third of it, with a warm-up and a decay. Broken
ones, of half the steps with the first two bodies: 30 times the rate without a warm-up or clipping, attention scores times 144,
all weights 4 times as large and no norm, residual branches times 20, half of the units pushed below zero. Prints the lowest and
the highest 0.5% of each measure over an optimiser's healthy records beside its limits, the share of healthy records after the
tenth of the run with an alarm, which is wanted below 5%, and that of each broken run. Writes bench/results/limits.json.
--records keeps what was measured; optimisers that are in the file are not trained again, only graded. --runs: a folder of runs
with a truth.json beside each (bench/diagnose), whose health records are graded by cause too.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from bench.rounds import asked, table, write
from cloche.data import Batches, PackedTokens, prepare, standard_library
from cloche.model import (
    GLU,
    LM,
    MLP,
    Attention,
    Block,
    LayerNorm,
    Learned,
    MoE,
    Network,
    NoNorm,
    ParallelBlock,
    RoPE,
    Stack,
)
from cloche.runs import Run
from cloche.train import (
    SGD,
    SOAP,
    WSD,
    AdamW,
    Constant,
    Health,
    Muon,
    NextToken,
    Optimizer,
    Recipe,
    RMSprop,
    Schedule,
    Shampoo,
    Stepper,
    StepPlan,
    total_loss,
)
from cloche.train.monitors.pretraining import alarms

LENGTH, BATCH, WIDTH, VOCAB, FILES = 64, 8, 48, 300, 60
ENDS = 0.005
ATTENTION = Attention(4, position=RoPE())
BODIES = {
    "gated": LM(VOCAB, WIDTH, Stack(2, Block(ATTENTION, GLU()))),
    "relu": LM(
        VOCAB,
        WIDTH,
        Stack(2, Block(Attention(4, bias=True), MLP("relu", bias=True), LayerNorm())),
        tied=True,
        position=Learned(LENGTH),
    ),
    "experts": LM(VOCAB, WIDTH, Stack(2, Block(ATTENTION, MoE(4, 2, expert=GLU(hidden=48))))),
    "parallel": LM(VOCAB, WIDTH, Stack(3, ParallelBlock(ATTENTION, MLP("gelu")))),
}
OPTIMIZERS: dict[str, Optimizer] = {
    "AdamW": AdamW(lr=6e-3),
    "Muon": Muon(lr=0.02),
    "SGD": SGD(lr=0.3),
    "RMSprop": RMSprop(lr=2e-3),
    "SOAP": SOAP(lr=6e-3),
    "Shampoo": Shampoo(),
}
Record = dict[str, Any]


def scaled(net: Network, name: str, factor: float) -> None:
    with torch.no_grad():
        for key, p in net.named_parameters():
            if name in key:
                p.mul_(factor)


def silenced(net: Network) -> None:
    with torch.no_grad():
        for block in net.layers:
            if getattr(block.map.inner, "bias", None) is not None:
                block.map.inner.bias[: len(block.map.inner.bias) // 2] = -20.0


def nothing(net: Network) -> None:
    """Leaves a network as it is."""


class Runs:
    def __init__(self, folder: Path, steps: int, every: int) -> None:
        prepare(standard_library()[:FILES], folder, vocab=VOCAB)
        self.tokens, self.steps, self.every = PackedTokens.open(folder, "train"), steps, every

    def run(
        self, model: LM, part: Optimizer, schedule: Schedule, change: Callable[[Network], None] = nothing
    ) -> tuple[list[Record], float]:
        """Health records, and the mean loss of the last steps."""
        net, batches, losses, records = model.build(0), Batches(self.tokens, LENGTH, BATCH, 0), [], []
        change(net)
        optimizer, plan = Stepper(net, part), StepPlan(self.steps, schedule)
        health = Health(net, optimizer=optimizer)
        for step in range(self.steps):
            optimizer.set_rate(plan.rate(step))
            optimizer.zero_grad()
            ids = torch.from_numpy(batches.next())
            loss = total_loss(NextToken().terms(net, ids))
            loss.backward()
            norm = optimizer.clip_gradient()
            losses.append(loss.item())
            if not torch.isfinite(loss) or norm != norm or norm == float("inf"):
                break
            if step % self.every == self.every - 1:
                health.before()
            optimizer.step(losses[-1], step / self.steps)
            if step % self.every == self.every - 1:
                records.append(dict(health.record(step + 1, ids[:, :-1], norm)))
        return records, sum(losses[-10:]) / len(losses[-10:])


def ranges(records: Sequence[Record], part: Optimizer) -> dict[str, list[float]]:
    """Lowest and highest half percent of each measure that has limits, heads averaged."""
    found = {}
    for name in part.limits():
        places = [value if isinstance(value, list) else [value] for record in records if (value := record[name])]
        values = [mean(v) if isinstance(v, list) else v for place in places for v in place if v not in (None, [])]
        if values := sorted(values):
            cut = int(ENDS * len(values))
            found[name] = [values[cut], values[-1 - cut]]
    return found


def broken(part: Optimizer) -> dict[str, tuple[Callable[[LM], LM], Optimizer, Callable[[Network], None]]]:
    same: Callable[[LM], LM] = lambda model: model  # noqa: E731
    bare: Callable[[LM], LM] = lambda model: replace(  # noqa: E731
        model, norm=NoNorm(), body=replace(model.body, block=replace(model.body.block, norm=NoNorm()))
    )
    return {
        "rate": (same, replace(part, lr=part.lr * 30, clip=1e30), nothing),
        "attention": (same, part, lambda net: scaled(net, "qkv.weight", 12.0)),
        "initialisation": (bare, part, lambda net: scaled(net, "weight", 4.0)),
        "branch": (
            same,
            part,
            lambda net: [scaled(net, name, 20.0) for name in ("out.weight", "outer.weight")] and None,
        ),
        "dead": (same, part, silenced),
    }


def measured(runs: Runs, name: str, part: Optimizer) -> Iterator[Record]:
    """The records of all runs of an optimiser."""
    for body, model in BODIES.items():
        for share in (1.0, 1 / 3):
            records, loss = runs.run(model, replace(part, lr=part.lr * share), WSD())
            yield from ({"optimizer": name, "run": f"{body} x {share:.2g}", "loss": loss, **r} for r in records)
    runs.steps, steps = runs.steps // 2, runs.steps
    for cause, (of, changed, change) in broken(part).items():
        for body in ("gated", "relu")[cause == "dead" :]:
            records, loss = runs.run(of(BODIES[body]), changed, Constant(), change)
            yield from (
                {"optimizer": name, "run": f"{body}, {cause}", "cause": cause, "loss": loss, **r} for r in records
            )
    runs.steps = steps


def graded(part: Optimizer, records: list[Record], steps: int) -> dict[str, Any]:
    """Ranges and alarms of an optimiser's records."""
    limits = part.limits()
    told = {id(r): alarms(r, limits) for r in records}
    healthy, ill = ([r for r in records if ("cause" in r) is wrong] for wrong in (False, True))
    settled = [r for r in healthy if r["step"] > steps / 10]
    runs = {r["run"]: [told[id(each)] for each in ill if each["run"] == r["run"]] for r in ill}
    return {
        "optimizer": part.to_line(),
        "limits": limits,
        "ranges": ranges(settled, part),
        "losses": {r["run"]: r["loss"] for r in records},
        "healthy_records": len(settled),
        "healthy_alarms": dict(Counter(f"{r['run']}: {alarm}" for r in settled for alarm in told[id(r)])),
        "healthy_records_with_an_alarm": mean(bool(told[id(r)]) for r in settled),
        "broken_records_with_an_alarm": {run: mean(map(bool, each)) for run, each in runs.items()},
        "broken_alarms": {run: sorted({a.split("[")[0] for one in each for a in one}) for run, each in runs.items()},
    }


def by_cause(folder: Path) -> dict[str, dict[str, Any]]:
    """The health records of runs with a known fault, graded by cause; "none, hard" are healthy runs at unusual settings."""
    importlib.import_module("bench.diagnose.planted")  # whose parts some of their recipes name
    told: dict[str, list[list[list[str]]]] = defaultdict(list)
    for path in sorted(folder.glob("*/truth.json")):
        truth, run = json.loads(path.read_text()), Run(path.parent)
        limits = Recipe.parse(run.recipe, str(run.path)).optimizer.limits()
        cause = truth["cause"] + (", hard" if truth["hard"] else "") + (", diverged" if truth["diverged"] else "")
        told[cause].append([alarms(record, limits) for record in run.read_log("health")])
    return {
        cause: {
            "runs": len(runs),
            "runs_with_an_alarm": sum(any(map(bool, records)) for records in runs),
            "records": sum(map(len, runs)),
            "records_with_an_alarm": mean(bool(each) for records in runs for each in records),
            "alarms": dict(Counter(a.split("[")[0] for records in runs for each in records for a in set(each))),
        }
        for cause, runs in told.items()
    }


def main() -> None:
    options = asked(__doc__, records="", runs="", steps=200, every=10, threads=1)
    kept = Path(options.records) if options.records else None
    known = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), options.steps, options.every)
        for name, part in OPTIMIZERS.items():
            records = [record for record in known if record["optimizer"] == name]
            if not records:
                records = list(measured(runs, name, part))
                if kept:
                    with kept.open("a") as file:
                        file.writelines(json.dumps(record) + "\n" for record in records)
            found = result[name] = graded(part, records, options.steps)
            rows = [[m, *(f"{v:.3g}" for v in ends), str(found["limits"][m])] for m, ends in found["ranges"].items()]
            print(table([name, "lowest", "highest", "limits"], rows))
            print(
                f"healthy records with an alarm: {found['healthy_records_with_an_alarm']:.1%} {found['healthy_alarms']}"
            )
            for run, share in found["broken_records_with_an_alarm"].items():
                print(f"  {run}: {share:.0%} of records, {found['broken_alarms'][run]}", flush=True)
    causes = by_cause(Path(options.runs)) if options.runs else {}
    for cause, found in sorted(causes.items()):
        print(f"runs, {cause}: {found}")
    write("limits", {**result, "by_cause": causes, "steps": options.steps, "every": options.every}, "torch")


if __name__ == "__main__":
    main()
