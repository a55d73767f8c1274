"""A learned controller of the optimiser against the best constant and the best cosine setting, on held-out tasks.

For each update rule (heavy ball, Adam's steps), evolution searches three policies with the same number of training runs on
the same families of tasks: a controller of 83 weights, a constant setting, a cosine. Each then has one run on every held-out
task: new tasks of the families trained on, and families that no search has seen. Stronger opponents: the constant and the
cosine tuned on each held-out task itself with k trials, chosen by the final score; on quadratics, the known optimum of heavy
ball; and the controller's own mean run, replayed without looking. Control: a controller evolved on shuffled scores. At the
end the controller of Adam's steps trains a small language model in the ordinary loop, against AdamW at five rates.

    python -m bench.train.learned_controller [--seeds 1] [--quick 1] [--lm 0] [--keep FOLDER]
"""

from __future__ import annotations

import dataclasses
import math
import sysconfig
import tempfile
import time
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from bench.rounds import asked, write
from cloche.errors import NotFinite
from cloche.runs import Run
from cloche.train import Recipe, Trainer
from cloche.train.controller import (
    AdamSteps,
    Annealed,
    Controller,
    DeepRegression,
    Factorisation,
    Fixed,
    HeavyBall,
    Policy,
    Quadratic,
    Replayed,
    Steered,
    SymbolModel,
    TaskSearch,
    UpdateRule,
    WinRate,
    constant_knobs,
    controller_of,
    held_out,
    outcomes,
    search_policy,
    tuned_per_task,
    win_rate,
)
from cloche.train.controller.comparison import Drawn

STEPS = 100  # of the runs on held-out tasks
UNSEEN = (SymbolModel(), Factorisation(), DeepRegression())
RULES = {"heavy_ball": (HeavyBall(), 0.1), "adam": (AdamSteps(), 0.03)}  # and the rate where each search begins
TRIALS = (1, 2, 4, 8, 16, 32)
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # of AdamW on the language model
LM_STEPS = 300


@cache
def searched(name: str, kind: str, settings: TaskSearch, seed: int, shuffled: bool = False) -> tuple[Policy, Tensor]:
    """A policy and what evolution finds for it, perhaps on shuffled scores."""
    rule, lr = RULES[name]
    policy = {"controller": Steered, "constant": Fixed, "cosine": Annealed}[kind](lr=lr)
    begin = time.process_time()
    vector = search_policy(policy, rule, settings, seed, shuffled)
    told = "shuffled scores" if shuffled else f"{settings.trials:,} trials"
    print(f"  {name}, {kind}: {told} in {time.process_time() - begin:.0f} CPU s", flush=True)
    return policy, vector


def scores(policy: Policy, vector: Tensor, rule: UpdateRule, drawn: Drawn) -> Tensor:
    """Of one vector on all tasks [task]."""
    return torch.cat([outcome.scores[0] for outcome in outcomes(policy, vector[None], rule, drawn, STEPS)])


def compared(
    name: str, found: dict[str, tuple[Policy, Tensor]], drawn: dict[str, Drawn], most: int
) -> dict[str, WinRate]:
    """The controller's one run on each task against each opponent, tuned per task with at most so many trials."""
    rule = RULES[name][0]
    every = drawn["seen"] + drawn["unseen"]
    split = sum(len(tasks.weights[0]) for _, tasks in drawn["seen"])
    ours = scores(*found["controller"], rule, every)
    rates: dict[str, WinRate] = {}
    for kind in ("constant", "cosine"):
        policy, vector = found[kind]
        best = tuned_per_task(policy, vector, rule, every, STEPS, most)
        rates[f"{kind}"] = win_rate(ours, best[0])
        rates[f"{kind}, families seen"] = win_rate(ours[:split], best[0, :split])
        rates[f"{kind}, families unseen"] = win_rate(ours[split:], best[0, split:])
        for family in dict.fromkeys(family for family, _ in every):
            held = torch.cat([torch.full((len(tasks.weights[0]),), one == family) for one, tasks in every])
            rates[f"{kind}, {family}"] = win_rate(ours[held], best[0, held])
        for trials in (k for k in TRIALS[1:] if k <= most):
            rates[f"{kind}, best of {trials} per task"] = win_rate(ours, best[trials - 1])
    runs = outcomes(found["controller"][0], found["controller"][1][None], rule, drawn["training"], STEPS)
    replayed = Replayed.of(runs)
    rates["its own mean run, replayed"] = win_rate(ours, scores(replayed, replayed.vector[0], rule, every))
    return rates


def worth(rates: dict[str, WinRate], kind: str) -> float:
    """The most trials per task against which the controller's single run wins at least half of the tasks; 0: none."""
    won = [1.0] if rates[kind].rate >= 0.5 else []
    won += [float(k) for k in TRIALS[1:] if (rate := rates.get(f"{kind}, best of {k} per task")) and rate.rate >= 0.5]
    return max(won, default=0.0)


def against_optimum(
    found: dict[str, tuple[Policy, Tensor]], seed: int = 2_000_000, tasks: int = 40
) -> dict[str, float]:
    """Median log10 of the final loss over the first, on quadratics without noise: the controller, the constant, the cosine, and
    heavy ball with the optimal rate and momentum of each task; and how far our loop is from the known contraction per step."""
    family, drawn = Quadratic(), Quadratic().draw(tasks, seed, STEPS)
    eigenvalues = drawn.data["values"].double()
    low, high = eigenvalues.amin(1).sqrt(), eigenvalues.amax(1).sqrt()
    contraction = (high - low) / (high + low)
    first = family.score([w[None] for w in drawn.weights], drawn)[0]
    settings = [(4 / (high + low) ** 2).log(), (1 - contraction**2).log(), torch.full_like(low, -30.0)]
    double = dataclasses.replace(
        drawn,
        weights=[w.double() for w in drawn.weights],
        data={key: value.double() for key, value in drawn.data.items()},
    )
    (outcome,) = outcomes(
        Fixed(), torch.stack(settings, -1), HeavyBall(), [(family, double)], STEPS
    )  # each task's, on all
    losses = outcome.losses.diagonal(dim1=1, dim2=2)  # [step, task]
    errors = []
    for task in range(tasks):
        exact = losses[:, task] > 1e-22 * losses[0, task]  # above rounding
        at = torch.arange(STEPS)[exact][int(exact.sum()) // 3 :]
        level = 0.5 * (losses[at, task] / at**2).log()  # of t r^t: r is a double root
        errors.append(abs(((level[-1] - level[0]) / (at[-1] - at[0]) / contraction[task].log()).item() - 1))
    told = {"optimum": (outcome.scores.diagonal() / first).log10().median().item(), "rate_error_median": median(errors)}
    for kind, (policy, vector) in found.items():
        told[kind] = (
            (scores(policy, vector, HeavyBall(), [(family, drawn)]) / first).clamp(1e-30, 1e30).log10().median().item()
        )
    return told


def language_model(optimizer: str, schedule: str, seed: int, steps: int = LM_STEPS) -> float:
    """Validation loss (nats per token) of a model of width 64 on a megabyte of Python, after `steps` steps of 512 tokens."""
    settings = {
        "data.paths": [str(Path(sysconfig.get_path("stdlib")) / "asyncio")],
        **{"tokenizer.vocab": 512, "model.width": 64, "model.body.depth": 2, "model.body.block.mix.heads": 2},
        **{"run.length": 64, "run.batch": 8, "run.steps": steps, "run.seed": seed},
        **{"run.threads": 1, "run.precision": "fp32", "log.health_every": 10_000, "checkpoint.count": 1},
        **{"evaluate.validations": 1, "evaluate.tokens": 8192, "evaluate.samples": 0, "evaluate.look": False},
        **{"optimizer": optimizer, "schedule": schedule},
    }
    losses, varied = [math.inf], {}
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe().with_set(settings)
        try:
            for record in Trainer.start(recipe, Run.create(Path(folder) / "run", recipe.to_toml())):
                losses += [record["val_loss"]] if "val_loss" in record else []
                varied = {key: value for key, value in record.items() if key.startswith("variation_rate")} or varied
        except NotFinite:  # a rate at which it diverges
            losses.append(math.inf)
    told = "".join(f", {key} {value:.2f}" for key, value in varied.items())
    print(f"    {optimizer}, {schedule}, seed {seed}: {losses[-1]:.4f}{told}", flush=True)
    return losses[-1]


def language_models(file: Path) -> dict[str, object]:
    """Losses at five rates each: the controller under a constant schedule, AdamW under a constant and a cosine one; it
    at the rate that its search found; and the best of each at two more seeds."""
    constant, cosine = "Constant(warmup=0.04)", "Cosine(warmup=0.04, final=0.05)"
    own, found, best = Controller.load(file).lr, dict[str, float](), dict[str, list[float]]()
    named = f"path={str(file)!r}"
    for kind, line in (("AdamW", cosine), ("AdamW", constant), ("Learned", constant)):
        name = f"{kind} under {line.partition('(')[0]}"
        tried = {}
        for rate in RATES:
            optimizer = f"Learned(lr={rate}, {named})" if kind == "Learned" else f"AdamW(lr={rate})"
            tried[optimizer] = found[f"{name}, lr {rate:g}"] = language_model(optimizer, line, 0)
        optimizer = min(tried, key=tried.__getitem__)
        best[name] = [tried[optimizer], *(language_model(optimizer, line, seed) for seed in (1, 2))]
    found["Learned at its own rate"] = language_model(f"Learned(lr={own}, {named})", "Constant(warmup=0)", 0)
    return {"one_seed": found, "best_at_three_seeds": best}


def run(seed: int, mechanism: bool = True, quick: bool = False, keep: Path | None = None) -> dict[str, float]:
    """Figures of one seed. quick: a search of two seconds, for tests; without `mechanism`, scores are shuffled in the
    controller's evolution."""
    settings = TaskSearch(generations=6, population=8, tasks=2, steps=(30,)) if quick else TaskSearch()
    batch = 4 if quick else 8
    drawn = {"seen": held_out(settings.families, batch, STEPS), "unseen": held_out(UNSEEN, batch, STEPS)}
    drawn["training"] = [(family, family.draw(8, 1, STEPS)) for family in settings.families]
    figures: dict[str, float] = {}
    for name, (rule, _) in RULES.items():
        if quick and name == "adam":
            continue
        found = {kind: searched(name, kind, settings, seed) for kind in ("constant", "cosine")}
        found["controller"] = searched(name, "controller", settings, seed, shuffled=not mechanism)
        rates = compared(name, found, drawn, 2 if quick else max(TRIALS))
        for label, rate in rates.items():
            print(f"  {name}: the controller against {label}: {rate}")
            figures |= {
                f"{name}: wins against {label}": rate.rate,
                f"{name}: low, {label}": rate.low,
                f"{name}: high, {label}": rate.high,
            }
            figures[f"{name}: log ratio, {label}"] = rate.gain
        runs = outcomes(
            found["controller"][0], found["controller"][1][None], rule, drawn["seen"] + drawn["unseen"], STEPS
        )
        knobs = constant_knobs(runs)
        print(
            f"  {name}: variation within the median run {knobs}"
            + (": reported as constant" if knobs["constant"] else "")
        )
        figures |= {f"{name}: variation, {knob}": value for knob, value in knobs.items()}
        figures |= {f"{name}: worth trials, {kind}": worth(rates, kind) for kind in ("constant", "cosine")}
        if name == "heavy_ball":
            figures |= {f"{name}: quadratic, {kind}": value for kind, value in against_optimum(found).items()}
        figures[f"{name}: held-out tasks"] = rates["constant"].tasks
        if keep is not None:
            controller_of(found["controller"][1], rule).save(keep / f"{name}.safetensors", replace=True)
    return figures


def check(figures: dict[str, float]) -> None:
    """Raises AssertionError where the figures are not those of a controller that works: with heavy ball it must win against the
    best constant and the best cosine (lower end of the interval above one half), and not be constant itself; and our loop must
    contract at the known rate."""
    for kind in ("constant", "cosine"):
        assert figures[f"heavy_ball: low, {kind}"] > 0.5, f"the controller does not win against the best {kind}"
    assert not figures["heavy_ball: variation, constant"], "the controller is constant"
    assert figures["heavy_ball: quadratic, rate_error_median"] < 0.05, "heavy ball does not contract at the known rate"


def main() -> None:
    chosen = asked(__doc__, seeds=1, quick=0, threads=1, lm=1, keep="")
    record: dict[str, object] = {
        "what": "a learned controller against tuned constant and cosine settings, on held-out tasks"
    }
    seeds = {}
    with nullcontext(chosen.keep) if chosen.keep else tempfile.TemporaryDirectory() as folder:
        for seed in range(chosen.seeds):
            figures = run(seed, quick=bool(chosen.quick), keep=Path(folder))
            seeds[seed] = figures
            try:
                check(figures)
            except AssertionError as error:
                print(f"  seed {seed}: {error}")
        if chosen.lm:
            file = Path(folder) / "adam.safetensors"
            record["language_model"] = language_models(file)
        shuffled = run(0, mechanism=False, quick=bool(chosen.quick))
    write("learned_controller", {**record, "seeds": seeds, "shuffled_scores": shuffled}, "torch numpy")


if __name__ == "__main__":
    main()
