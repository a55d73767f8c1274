"""A run as long as they come, written by the run's own writers: 200,000 metrics records, 300 checkpoints, 1,536 features.

The values are planted: the loss falls as 2 + 6 exp(-step / 20,000) with noise, and one record in the middle is a spike that
any thinning must keep.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from cloche.runs import Run

LAYERS, HEADS, FEATURES = 12, 12, 1536
SPIKE = 41.5
PROMPTS = ("The first ", "In the garden ", "She said ")
RECIPE = '[question]\nask = "How does the microscope hold a long run?"\n'


def metric(step: int, spike_at: int, noise: random.Random) -> dict[str, Any]:
    tokens = step * 16_384
    loss = SPIKE if step == spike_at else 2 + 6 * math.exp(-step / 20_000) + noise.gauss(0, 0.05)
    return {
        "step": step, "time": round(step * 0.31, 3), "tokens": tokens, "flops": tokens * 7.4e8, "loss": loss,
        "lr": 3e-4 * min(1.0, step / 2000), "grad_norm": abs(noise.gauss(0.6, 0.1)),
        "tokens_per_second": 52_800 + noise.gauss(0, 900), "mfu": 0.41 + noise.gauss(0, 0.01), "eta": 9.0,
    }  # fmt: skip


def health(step: int, noise: random.Random) -> dict[str, Any]:
    def layers(count: int) -> list[float]:
        return [0.1 * (layer + 1) + 0.02 * noise.random() for layer in range(count)]

    return {
        "step": step, "resid_variance": layers(LAYERS + 1),
        "attention_entropy": [[noise.random() for _ in range(HEADS)] for _ in range(LAYERS)],
        "activation_density": layers(LAYERS), "dead_units": layers(LAYERS), "logit_norm": 3.0, "grad_norm": 0.6,
        "update_ratio": layers(LAYERS + 1),
    }  # fmt: skip


def sample(step: int, prompt: str, noise: random.Random) -> dict[str, Any]:
    words = [f" word{noise.randrange(4000)}" for _ in range(64)]
    likeliest = [[word, 0.4 / (i + 1)] for i, word in enumerate(words[:10])]
    return {"step": step, "prompt": prompt, "text": "".join(words), "next": likeliest}


def feature(ident: int, noise: random.Random) -> dict[str, Any]:
    def example(quantile: float) -> dict[str, Any]:
        acts = [0.0] * 24 + [quantile * 8.0] + [0.0] * 12
        return {"tokens": [f" t{noise.randrange(4000)}" for _ in acts], "acts": acts, "quantile": quantile}

    pairs = [[f" says{noise.randrange(4000)}", 2.0 - i / 10] for i in range(10)]
    return {
        "id": ident, "density": 10 ** -(1 + 2 * ident / FEATURES), "max": 8.0, "quantiles": [0.8, 4.0, 7.2],
        "examples": [example(q) for q in (1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.9, 0.9, 0.5, 0.5)], "top_logits": pairs,
        "bottom_logits": pairs, "neighbours": [[(ident + k) % FEATURES, 0.9 - k / 10] for k in range(1, 6)], "shares": [1.0],
    }  # fmt: skip


def write_long_run(path: Path, records: int = 200_000, checkpoints: int = 300, features: int = FEATURES) -> Run:
    """Writes the run and gives it back. A spike of the loss stands at the middle record."""
    noise = random.Random(0)
    run = Run.create(path, recipe=RECIPE, seed=0, command=["cloche", "pretrain"])
    every = max(1, records // checkpoints)
    steps = range(every, records + 1, every)
    with run.log("metrics") as log:
        for step in range(1, records + 1):
            log.append(metric(step, records // 2, noise))
            if step % every == 0:
                base = {key: metric(step, 0, noise)[key] for key in ("step", "time", "tokens", "flops")}
                log.append(base | {"val_loss": 2.1, "val_bpb": 0.9 + 2 * math.exp(-step / 20_000), "val_bytes": 10**6})
    with run.log("health") as log:
        for step in range(100, records + 1, 100):
            log.append(health(step, noise))
    with run.log("samples") as log:
        for step in steps:
            for prompt in PROMPTS:
                log.append(sample(step, prompt, noise))
    with run.log("events") as log:
        log.append({"step": 0, "time": 0.0, "kind": "start", "message": "124M parameters"})
        log.append({"step": records // 2, "time": 1.0, "kind": "spike", "message": f"loss {SPIKE}"})
        for step in steps:
            log.append({"step": step, "time": step * 0.31, "kind": "checkpoint", "message": f"step-{step:06d}"})
        log.append({"step": records, "time": records * 0.31, "kind": "finished", "message": f"{records} steps"})
    for step in steps:
        with run.new_checkpoint(step) as folder:
            (folder / "model.safetensors").write_bytes(f"weights of step {step}".encode())
            (folder / "config.json").write_text(json.dumps({"cloche": {}}))
    write_features(run, features, f"step-{steps[-1]:06d}", noise)
    return run


def write_features(run: Run, features: int, checkpoint: str, noise: random.Random) -> None:
    edges = [-4 + 0.25 * i for i in range(14)]
    data = {
        "dictionary": "resid_post_6", "site": "resid_post[6]", "places": ["resid_post[6]"], "tokens_seen": 48_960,
        "fvu": 0.2, "l0": 32.0, "dead_share": 0.01, "density_histogram": {"edges": edges, "counts": [100] * 13},
        "features": [feature(i, noise) for i in range(features)],
    }  # fmt: skip
    finding = {
        "instrument": "features", "id": "all", "created": "2026-11-22T12:00:00+00:00", "summary": "All features.",
        "checkpoint": checkpoint, "plan": "0" * 16, "data": data,
    }  # fmt: skip
    run.write_json("findings/features/all.json", finding)
